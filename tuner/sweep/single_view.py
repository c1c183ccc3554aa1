"""What a person sees of a single run: a live line in a terminal, plain lines elsewhere, and the run in MLflow."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tuner.analysis.words import fixed
from tuner.sweep.progress import PLAIN_SECONDS, Clock
from tuner.sweep.run import LAST_SENDING_SECONDS
from tuner.sweep.run_folder import RunFolder, RunRecord
from tuner.tracking.mirror import CurveMirror
from tuner.tracking.outbox import Ending
from tuner.tracking.runs import Status
from tuner.tracking.store import Tracker
from tuner.tracking.uri import reopen_uri

LOOK_SECONDS = 0.25
"""How often the live line is made anew, and MLflow's news are read."""


class RunProgress:
    """Step, loss, LR, time left; each evaluation in a line that stays, and so are messages of the log."""

    def __init__(self, console: Console, *, steps: int) -> None:
        self._console = console
        self._steps, self._done, self._executed = steps, 0, 0
        self._clock = Clock(total_steps=steps)
        self._last_line = time.monotonic()
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def moved(self, *, steps: int, executed: int, known: int, loss: float, lr: float) -> None:
        """Show the newest step; of all until then, `executed` were trained now, and `known` were not."""
        trained = min(executed - self._executed, steps - self._done)
        if trained:
            self._clock.ran(trained)
        self._clock.skip(steps - self._done - trained)  # what is known takes no time that would tell anything
        self._done, self._executed = steps, executed
        taken_over = f" ({known} known)" if known else ""
        line = f"step {steps}/{self._steps}{taken_over}  loss {loss:.3f}  lr {lr:.2g}  {self._clock.left()} left"
        if self._live:
            grid = Table.grid(padding=(0, 1))
            grid.add_row(ProgressBar(total=self._steps, completed=steps, width=24), Text(line))
            self._live.update(grid)
        elif time.monotonic() - self._last_line >= PLAIN_SECONDS:
            self._last_line = time.monotonic()
            self.message(f"  {line}")

    def evaluated(self, *, steps: int, metrics: Mapping[str, float]) -> None:
        """Print an evaluation."""
        self.message(f"step {steps}: {shown(metrics)}")

    def message(self, text: str) -> None:
        """Print a line that stays."""
        self._console.print(text, highlight=False, soft_wrap=True)

    @contextmanager
    def log(self) -> Iterator[None]:
        """Print what the log has to say: a damaged file, a full disk."""
        handler = _Lines(self)
        logging.getLogger("tuner").addHandler(handler)
        try:
            yield
        finally:
            logging.getLogger("tuner").removeHandler(handler)


class _Lines(logging.Handler):
    """Passes warnings on to the progress display; how `logging` takes a handler is by inheritance."""

    def __init__(self, progress: RunProgress) -> None:
        super().__init__(logging.WARNING)
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        self._progress.message(record.getMessage())


class RunMirror:
    """The run in MLflow, kept in line with its files by a thread of its own; nothing here waits for the store.

    Args:
        record: of the run.
        folder: its files.
        tracker: the store; it need not be there.
    """

    def __init__(self, record: RunRecord, *, folder: RunFolder, tracker: Tracker) -> None:
        self._run_id = record.run_id
        self._folder = folder
        self._mirror = CurveMirror(tracker, parent=record.run_id, title="the run")
        self._mirror.follow(record.run_id, run_id=record.run_id, folder=folder.path, spool=folder.path)

    def news(self) -> list[str]:
        """Return what people should know, a line each."""
        lines = []
        for news in self._mirror.news():
            lines += [] if news.text is None else [f"MLflow: {news.text}"]
            if news.done is not None and news.done.damage is not None:
                lines.append(f"MLflow: {news.done.damage}")
        return lines

    def close(
        self, record: RunRecord, status: Status, *, timeout: float, texts: Mapping[str, str] | None = None
    ) -> str | None:
        """End the run as its record says; return in one line what was not sent in time, None where all was."""
        costs = {
            "steps_executed": record.steps_executed,
            "steps_repeated": record.steps_repeated,
            "steps_shared": record.steps_shared,
            "seconds": record.seconds,
        }
        ending = Ending(
            status=status,
            time_ms=int(record.ended * 1000),
            metrics={} if status == "KILLED" else {**record.metrics, **costs},
            step=record.config.total_steps - 1 if status == "FINISHED" else None,
            tags={"reason": record.reason} if record.reason else {},
            texts=texts or {},
            shared_with=record.shared_with,
        )
        self._mirror.finish(self._run_id, ending)
        unsent = self._mirror.close(timeout=timeout)
        if not unsent:
            return None
        what = f"{unsent.steps} steps of the run" if unsent.steps else "the end of the run"
        cause = f" ({unsent.problem})" if unsent.problem else ""
        return f"MLflow lacks {what}{cause}; send it with: {self._folder.command}"


def send_rest(
    record: RunRecord, folder: RunFolder, *, tracking_uri: str | None, hear: Callable[[str], None]
) -> RunRecord:
    """Send what MLflow lacks of a finished run; return its record, which says whether all is there now.

    Raises:
        UserError: the store cannot be asked as the run has it; `tracking_uri` says how or where.
    """
    mirror = RunMirror(record, folder=folder, tracker=Tracker(reopen_uri(record.tracking_uri, tracking_uri)))
    left = mirror.close(record, "FINISHED", timeout=LAST_SENDING_SECONDS)
    for line in (*mirror.news(), *([] if left is None else [left])):
        hear(line)
    record = record.model_copy(update={"mirrored": left is None})
    folder.write(record)
    return record


def shown(metrics: Mapping[str, float]) -> str:
    """Return metrics as one short line."""
    return ", ".join(f"{name} {fixed(value)}" for name, value in metrics.items())

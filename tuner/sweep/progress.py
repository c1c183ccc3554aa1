"""What a person sees while a sweep runs: a live line in a terminal, plain lines elsewhere."""

import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tuner.analysis.words import fixed, setting_line
from tuner.names import Setting
from tuner.sweep.asked import Budget
from tuner.trials import TrialRecord

PLAIN_SECONDS = 10.0
"""Without a terminal, the least time between two lines of one running trial."""


class ProgressView(Protocol):
    """Hears how a sweep goes on."""

    def trial_started(self, params: Mapping[str, Setting]) -> None:
        """Hear that a trial with these parameters begins."""
        ...

    def trial_moved(self, *, steps: int, shared: int, loss: float, lr: float) -> None:
        """Hear that the running trial is `steps` steps on, `shared` of which others had trained."""
        ...

    def trial_ended(self, record: TrialRecord) -> None:
        """Hear that a trial has its value, or failed."""
        ...

    def message(self, text: str) -> None:
        """Hear something that a person should know: a damaged file, a full disk, a store that does not answer."""
        ...


class ConsoleProgress:
    """Trial k of N, step, loss, LR, best so far, time left; `ended` are the trials that had ended before."""

    def __init__(
        self,
        console: Console,
        *,
        budget: Budget,
        steps: int,
        maximize: bool,
        metric: str,
        ended: Sequence[TrialRecord] = (),
    ) -> None:
        self._console = console
        self._budget = budget
        self._steps = steps
        self._maximize = maximize
        self._metric = metric
        self._ended = list(ended)
        self._done = 0
        self._last_line = 0.0
        left = None if budget.trials is None else max(0, budget.trials - len(ended))
        self._clock = None if left is None else Clock(total_steps=left * steps)
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None

    def __enter__(self) -> "ConsoleProgress":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def trial_started(self, params: Mapping[str, Setting]) -> None:
        """Hear that a trial with these parameters begins."""
        self._done = 0
        self._last_line = time.monotonic()
        if not self._live:
            self._console.print(
                f"{self._count(len(self._ended) + 1)}: {setting_line(params)}", highlight=False, soft_wrap=True
            )

    def trial_moved(self, *, steps: int, shared: int, loss: float, lr: float) -> None:
        """Show the newest step."""
        if self._clock is not None:
            self._clock.ran(steps - self._done)
        self._done = steps
        taken_over = f" ({shared} shared)" if shared else ""
        line = (
            f"{self._count(len(self._ended) + 1)}  step {steps}/{self._steps}{taken_over}  "
            f"loss {loss:.3f}  lr {lr:.2g}  best {self._best()}  {self._left()} left"
        )
        if self._live:
            bar = ProgressBar(total=self._steps, completed=steps, width=24)
            grid = Table.grid(padding=(0, 1))
            grid.add_row(bar, Text(line))
            self._live.update(grid)
        elif time.monotonic() - self._last_line >= PLAIN_SECONDS:
            self._last_line = time.monotonic()
            self._console.print(f"  {line}", highlight=False, soft_wrap=True)

    def trial_ended(self, record: TrialRecord) -> None:
        """Print one line that stays."""
        if self._clock is not None:
            self._clock.skip(self._steps - self._done)
        self._ended.append(record)
        count = self._count(len(self._ended))
        if record.state == "COMPLETE" and record.value is not None:
            twin = "" if record.duplicate_of is None else f"  (same as trial {record.duplicate_of}, not trained again)"
            cost = f"{record.steps_executed} steps trained, {record.steps_shared} shared, {record.seconds:.0f} s"
            text = f"{count}: {self._metric} {fixed(record.value)}  {cost}{twin}  {setting_line(record.params)}"
        else:
            text = f"{count}: failed: {record.reason}"
        self._console.print(text, highlight=False, soft_wrap=True)

    def message(self, text: str) -> None:
        """Print it as it is."""
        self._console.print(text, highlight=False, soft_wrap=True)

    def _count(self, number: int) -> str:
        return f"trial {number}" if self._budget.trials is None else f"trial {number} of {self._budget.trials}"

    def _left(self) -> str:
        """Return the time left, or where the number of trials is open, the share of the budget."""
        if self._clock is not None:
            return self._clock.left()
        return f"{max(0.0, 1 - self._budget.spent(self._ended)):.0%} of the budget"

    def _best(self) -> str:
        values = [record.value for record in self._ended if record.value is not None]
        return fixed((max if self._maximize else min)(values)) if values else "-"


class Clock:
    """Estimates the time left from the steps since the first report: what came before it was start-up."""

    def __init__(self, *, total_steps: int) -> None:
        self._left = total_steps
        self._ran = 0
        self._started: float | None = None

    def ran(self, steps: int) -> None:
        """Hear that so many more steps ran."""
        self._left -= steps
        if self._started is None:
            self._started = time.monotonic()
        else:
            self._ran += steps

    def skip(self, steps: int) -> None:
        """Hear that so many steps need not run."""
        self._left -= steps

    def left(self) -> str:
        """Return the time left as hours, minutes and seconds."""
        if self._ran == 0 or self._started is None:
            return "?"
        seconds = round((time.monotonic() - self._started) / self._ran * self._left)
        minutes, seconds = divmod(max(0, seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"

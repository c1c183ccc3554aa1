"""What a person sees while a sweep runs: a live line in a terminal, plain lines elsewhere."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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

    def trial_started(self, number: int, params: Mapping[str, Setting]) -> None:
        """Hear that a trial with these parameters begins."""
        ...

    def trial_moved(self, number: int, *, steps: int, shared: int, loss: float, lr: float) -> None:
        """Hear that a running trial is `steps` steps on, `shared` of which others had trained."""
        ...

    def trial_ended(self, record: TrialRecord) -> None:
        """Hear that a trial has its value, or failed."""
        ...

    def message(self, text: str) -> None:
        """Hear something that a person should know: a damaged file, a full disk, a store that does not answer."""
        ...


@dataclass(slots=True)
class _Running:
    """A trial that runs: its steps done, what its line says of them, and when the last such line was printed."""

    done: int = 0
    text: str = ""
    last_line: float = field(default_factory=time.monotonic)


class ConsoleProgress:
    """Trial k of N, step, loss, LR, best so far, time left; `ended` are the trials that had ended before.

    In a terminal there is one line for each trial that runs, and where there are several, one for all of them.
    """

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
        self._running: dict[int, _Running] = {}
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

    def trial_started(self, number: int, params: Mapping[str, Setting]) -> None:
        """Hear that a trial with these parameters begins."""
        running = self._running.setdefault(number, _Running(text=self._count(number)))
        running.last_line = time.monotonic()
        if not self._live:
            self._console.print(f"{self._count(number)}: {setting_line(params)}", highlight=False, soft_wrap=True)

    def trial_moved(self, number: int, *, steps: int, shared: int, loss: float, lr: float) -> None:
        """Show the newest step."""
        running = self._running[number]
        if self._clock is not None:
            self._clock.ran(max(0, steps - running.done))
        running.done = max(steps, running.done)  # one that was lost comes to the same steps again
        taken_over = f" ({shared} shared)" if shared else ""
        running.text = f"{self._count(number)}  step {steps}/{self._steps}{taken_over}  loss {loss:.3f}  lr {lr:.2g}"
        if self._live:
            self._live.update(self._table())
        elif time.monotonic() - running.last_line >= PLAIN_SECONDS:
            running.last_line = time.monotonic()
            self._console.print(f"  {running.text}  {self._total()}", highlight=False, soft_wrap=True)

    def trial_ended(self, record: TrialRecord) -> None:
        """Print one line that stays."""
        running = self._running.pop(record.number, None)
        if self._clock is not None:
            self._clock.skip(self._steps - (0 if running is None else running.done))
        self._ended.append(record)
        count = self._count(record.number)
        if record.state == "COMPLETE" and record.value is not None:
            twin = "" if record.duplicate_of is None else f"  (same as trial {record.duplicate_of}, not trained again)"
            cost = f"{record.steps_executed} steps trained, {record.steps_shared} shared, {record.seconds:.0f} s"
            text = f"{count}: {self._metric} {fixed(record.value)}  {cost}{twin}  {setting_line(record.params)}"
        else:
            text = f"{count}: failed: {record.reason}"
        self._console.print(text, highlight=False, soft_wrap=True)
        if self._live:
            self._live.update(self._table())

    def message(self, text: str) -> None:
        """Print it as it is."""
        self._console.print(text, highlight=False, soft_wrap=True)

    def _table(self) -> Table:
        """Return a line for each trial that runs, which for a single one says the rest too."""
        alone = len(self._running) == 1
        grid = Table.grid(padding=(0, 1))
        for running in self._running.values():
            text = f"{running.text}  {self._total()}" if alone else running.text
            grid.add_row(ProgressBar(total=self._steps, completed=running.done, width=24), Text(text))
        if not alone:
            grid.add_row("", Text(f"{len(self._ended)} ended  {self._total()}"))
        return grid

    def _total(self) -> str:
        return f"best {self._best()}  {self._left()} left"

    def _count(self, number: int) -> str:
        number += 1
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

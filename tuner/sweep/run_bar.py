"""What a person sees while runs are trained again whose number is known: a bar, and a line for each."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from tuner.sweep.progress import PLAIN_SECONDS


class RunBar:
    """A bar in a terminal, a plain line now and then elsewhere; one line that stays for each of `runs` runs."""

    def __init__(self, console: Console, *, runs: int, steps: int) -> None:
        self._console = console
        self._runs, self._steps, self._done = runs, steps, 0
        self._title = ""
        self._last_line = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
        self._bars = Progress(
            *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
        )
        self._bar = self._bars.add_task("preparing", total=max(1, runs * steps))

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def started(self, title: str) -> None:
        """Hear what begins."""
        self._title = f"{title} ({self._done + 1} of {self._runs})"
        self._bars.update(self._bar, description=self._title)
        if not self._console.is_terminal:
            self._last_line = time.monotonic()
            self.say(self._title)

    def moved(self, steps: int) -> None:
        """Hear how many steps of the run are done."""
        self._bars.update(self._bar, completed=self._done * self._steps + steps)
        if not self._console.is_terminal and time.monotonic() - self._last_line >= PLAIN_SECONDS:
            self._last_line = time.monotonic()
            self.say(f"  {self._title}  step {steps}/{self._steps}")

    def ended(self, line: str) -> None:
        """Hear what came out."""
        self._done += 1
        self._bars.update(self._bar, completed=self._done * self._steps)
        self.say(line)

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self._console.print(line, highlight=False, soft_wrap=True)

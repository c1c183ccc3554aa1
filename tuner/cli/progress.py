"""Progress of work that takes a while, on stderr, so that what a command prints can be piped."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_PLAIN_SECONDS = 10.0
"""Without a terminal, the least time between two lines."""


@contextmanager
def progress_bar(task: str) -> Iterator[Callable[[float], None]]:
    """Show a bar while the block runs; it hands out a function to be told the share that is done, 0 to 1."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(task, console.print)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        bar = bars.add_task(task, total=1.0)
        yield lambda share: bars.update(bar, completed=share)


class _Lines:
    """Prints a line now and then, none at all for quick work."""

    def __init__(self, task: str, show: Callable[[str], None]) -> None:
        self._task, self._show, self._last = task, show, time.monotonic()

    def __call__(self, share: float) -> None:
        if time.monotonic() - self._last >= _PLAIN_SECONDS:
            self._last = time.monotonic()
            self._show(f"{self._task}: {share:.0%}")

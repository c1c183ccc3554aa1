"""Ctrl-C and SIGTERM: a sweep is ended gently at the first one, and at once at the second."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Self

GENTLE_SECONDS: Final = 5.0
"""A running trial gets at most so long to finish its step and leave a checkpoint."""
LAST_SECONDS: Final = 9.5
"""After so long the process leaves, whatever is still open: whoever stops a sweep waits no more than ten seconds."""
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Ending:
    """Hears Ctrl-C and SIGTERM while the block runs.

    1. The first one is raised at once, as KeyboardInterrupt or SystemExit (status 143). In a `gentle` block it is
       remembered instead, and the block is asked to end by itself; it is raised only if that takes too long.
    2. The second one ends the process at once, by the operating system: no code of ours can hold it up.
    3. What was received is raised again when the block ends: an exception that is raised while Ray's compiled code runs
       can get lost there.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}
        self._stop: Callable[[], object] | None = None
        self._last: threading.Timer | None = None

    def __enter__(self) -> Self:
        if _in_main_thread():
            self._before = {each: signal.getsignal(each) for each in (*_SIGNALS, signal.SIGALRM)}
            self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)
        if self._last is not None:
            self._last.cancel()
        self.check()

    def listen(self) -> None:
        """Take the signals (again): `ray.init` takes SIGTERM for itself."""
        if self.received is None and _in_main_thread():
            for each in _SIGNALS:
                signal.signal(each, self._receive)

    def check(self) -> None:
        """Raise what was received, if anything was."""
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received is not None:
            sys.exit(128 + self.received)

    @contextmanager
    def gentle(self, stop: Callable[[], object]) -> Iterator[None]:
        """Within the block, call `stop` at the first signal instead of raising it."""
        self._stop = stop
        try:
            yield
        finally:
            self._stop = None
            if self.received is not None:
                signal.setitimer(signal.ITIMER_REAL, 0)

    def _receive(self, number: int, _: object) -> None:
        self.received = number
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        self._last = threading.Timer(LAST_SECONDS, os._exit, (128 + number,))
        self._last.daemon = True
        self._last.start()
        if self._stop is None:
            self.check()
        else:
            signal.signal(signal.SIGALRM, lambda *_: self.check())
            signal.setitimer(signal.ITIMER_REAL, GENTLE_SECONDS)
            self._stop()


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()

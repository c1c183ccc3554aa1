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
STUCK_SECONDS: Final = 6.5
"""After so long the rest is left undone, but for what `closing` names."""
LAST_SECONDS: Final = 9.5
"""After so long the process leaves, whatever is still open: whoever stops a sweep waits no more than ten seconds."""
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_set_handler: Final = signal.signal


class Ending:
    """Hears Ctrl-C and SIGTERM while the block runs.

    1. The first one is raised at once, as KeyboardInterrupt or SystemExit (status 143). In a `gentle` block it is
       remembered instead, and the block is asked to end by itself; it is raised only if that takes too long.
    2. The second one ends the process at once, by the operating system: no code of ours can hold it up.
    3. What was received is raised again when the block ends: an exception that is raised while Ray's compiled code runs
       can get lost there. Where that code does not come back, another thread does the closing, and ends the process.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}
        self._stop: Callable[[], object] | None = None
        self._close: Callable[[], object] | None = None
        self._timers: list[threading.Timer] = []

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {each: signal.getsignal(each) for each in (*_SIGNALS, signal.SIGALRM)}
            self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        for each, handler in self._before.items():
            _set_handler(each, handler)
        for timer in self._timers:
            timer.cancel()
        self.check()

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

    @contextmanager
    def closing(self, close: Callable[[], object]) -> Iterator[None]:
        """Call `close` after the block, or from another thread where the block is stuck; it may be called twice."""
        self._close = close
        try:
            yield
        finally:
            close()
            self._close = None

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Within the block, let nobody else take the signals: `ray.init` takes SIGTERM, and ends badly on it."""
        signal.signal = lambda _, handler: handler  # type: ignore[assignment]
        try:
            yield
        finally:
            signal.signal = _set_handler

    def listen(self) -> None:
        """Take the signals again, where compiled code may have taken them; for the main thread."""
        if self._before and self.received is None:
            for each in _SIGNALS:
                _set_handler(each, self._receive)

    def _receive(self, number: int, _: object) -> None:
        self.received = number
        for each in _SIGNALS:
            _set_handler(each, signal.SIG_DFL)
        self._timers = [threading.Timer(STUCK_SECONDS, self._leave), threading.Timer(LAST_SECONDS, self._exit)]
        for timer in self._timers:
            timer.daemon = True
            timer.start()
        if self._stop is None:
            self.check()
        else:
            _set_handler(signal.SIGALRM, lambda *_: self.check())
            signal.setitimer(signal.ITIMER_REAL, GENTLE_SECONDS)
            self._stop()

    def _leave(self) -> None:
        if self._close is not None:
            self._close()
            self._exit()

    def _exit(self) -> None:
        sys.stdout.flush()
        os._exit(128 + (self.received or 0))

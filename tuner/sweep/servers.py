"""Web servers in processes of their own: started, waited for, and ended with all that they started."""

import http.client
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Final, Self

from tuner.errors import UserError
from tuner.tracking.uri import redact

START_SECONDS: Final = 120.0
"""A server that does not answer after so long is given up: a cold disk and a busy machine are slow."""
GENTLE_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 0.2
_TAIL_BYTES: Final = 2000
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class _Server:
    name: str
    address: str
    process: subprocess.Popen[bytes]
    log: IO[bytes]


class Servers:
    """Servers that live as long as the block, which Ctrl-C and SIGTERM end.

    Each is the leader of a process group, so that none of what it starts outlives it, and Ctrl-C reaches them through
    this process only.
    """

    def __init__(self) -> None:
        self._servers: list[_Server] = []
        self._stopped = threading.Event()
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        self._before = {each: signal.signal(each, lambda *_: self._stopped.set()) for each in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            _signal_group(server, signal.SIGTERM)
        deadline = time.monotonic() + GENTLE_SECONDS
        for server in self._servers:
            with suppress(subprocess.TimeoutExpired):
                server.process.wait(max(0.0, deadline - time.monotonic()))
            _signal_group(server, signal.SIGKILL)  # whatever is left of the group
            server.process.wait()
            server.log.close()
        for each, handler in self._before.items():
            signal.signal(each, handler)  # type: ignore[arg-type]

    @property
    def stopped(self) -> bool:
        """Whether a signal came."""
        return self._stopped.is_set()

    def start(self, name: str, command: Sequence[str], *, environment: Mapping[str, str], address: str) -> None:
        """Start a server, which will answer at `address`."""
        log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the server
        process = subprocess.Popen(  # noqa: S603
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        self._servers.append(_Server(name, address, process, log))

    def wait_until_they_answer(self) -> None:
        """Return when all servers answer, or a signal comes.

        Raises:
            UserError: one ended, or does not answer; the last line that it said is told.
        """
        deadline = time.monotonic() + START_SECONDS
        for server in self._servers:
            while not self._stopped.is_set() and not _answers(server.address):
                if server.process.poll() is not None or time.monotonic() > deadline:
                    what = "ended" if server.process.poll() is not None else f"did not answer in {START_SECONDS:.0f} s"
                    raise UserError(f"{server.name} could not be started: it {what}: {_last_line(server)}")
                self._stopped.wait(_LOOK_SECONDS)

    def wait(self) -> None:
        """Return when a signal comes.

        Raises:
            UserError: a server ended by itself.
        """
        while not self._stopped.wait(_LOOK_SECONDS):
            for server in self._servers:
                if server.process.poll() is not None:
                    raise UserError(f"{server.name} ended by itself: {_last_line(server)}; start it again")


def free_port(host: str, wanted: int | None, *, usual: int) -> int:
    """Return the port to listen on: the one that is wanted, else the usual one if it is free, else any; 0 is any.

    Raises:
        UserError: the port that is wanted is taken, or the host is none of this machine.
    """
    try:
        return _bound(host, usual if wanted is None else wanted)
    except OSError as error:
        if wanted:
            way_out = "take another --port, or 0 for any that is free"
            raise UserError(f"port {wanted} of {host} cannot be used: {error.strerror}; {way_out}") from None
    try:
        return _bound(host, 0)
    except OSError as error:
        raise UserError(f"`--host` must be an address of this machine, but {host} is not: {error.strerror}") from None


def _bound(host: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was just left is free
        probe.bind((host, port))
        return int(probe.getsockname()[1])


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2):  # noqa: S310 - our own address
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, http.client.HTTPException):
        return False


def _signal_group(server: _Server, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # it is gone; a dead group may be refused too
        os.killpg(server.process.pid, number)


def _last_line(server: _Server) -> str:
    """Return the last that a server said, without credentials."""
    size = server.log.seek(0, os.SEEK_END)
    server.log.seek(max(0, size - _TAIL_BYTES))
    lines = [line.strip() for line in server.log.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return redact(lines[-1])[:300] if lines else "it said nothing"

"""A real `mlflow server` that a test can kill, restart and hold up, and a slow way to it."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

START_SECONDS = 90


class TrackingServer:
    """A tracking server on loopback, over the SQLite store at `store`, always on the same port."""

    def __init__(self, folder: Path, store: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.host = f"127.0.0.1:{free.getsockname()[1]}"
        command = ["server", "--backend-store-uri", store, "--artifacts-destination", str(folder / "artifacts")]
        where = ["--host", "127.0.0.1", "--port", self.host.partition(":")[2], "--workers", "1"]
        self._command = [sys.executable, "-m", "mlflow", *command, *where]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://{self.host}"

    def start(self, *, wait: bool = True) -> None:
        """Start it, if it does not run, and wait until it answers."""
        if self._process is None:
            self._process = subprocess.Popen(
                self._command,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while wait:
            with suppress(OSError):
                urllib.request.urlopen(f"{self.uri}/health", timeout=1).close()
                return
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.1)

    def kill(self) -> None:
        """End it at once, in the middle of whatever it does."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def hang(self) -> None:
        """Let it take requests and answer none."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def wake(self) -> None:
        """Let it work off what it has taken."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGCONT)


class SlowWay:
    """A way to a server over which each request takes so many seconds longer."""

    def __init__(self, host: str, *, seconds: float) -> None:
        name, _, port = host.partition(":")
        self._target = (name, int(port))
        self._seconds = seconds
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                for source, sink, delay in ((near, far, self._seconds), (far, near, 0.0)):
                    threading.Thread(target=self._copy, args=(source, sink, delay), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket, delay: float) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 20):
                if delay and data[:5] in (b"POST ", b"GET /", b"PUT /", b"PATCH"):
                    self.requests += 1
                    time.sleep(delay)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

"""What `crash.py` does to a sweep at random moments: it kills it, fills its disk, or kills its tracking server."""

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Self

from crash_place import Place, outlived

from tuner.trials import TrialRecord

AT_START, AT_END = 0.25, 0.05
"""Shares of the kills that hit a start and what follows the last trial; the others hit the trials."""
LONGEST_FAULT = 3.0
"""Seconds that a disk stays full, or a server away, at most."""


class Account:
    """Keeps account of the finished trials: none may be gone, changed, or run again."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.lost: set[int] = set()
        self.repeated: set[int] = set()
        self._known: dict[int, tuple[TrialRecord, int]] = {}

    def look(self) -> None:
        """Compare the finished trials with those known."""
        now = {number: (record, self._place.written(number)) for number, record in self._place.finished().items()}
        for number, (record, written) in self._known.items():
            if number not in now or now[number][0] != record:
                self.lost.add(number)
            elif now[number][1] != written:
                self.repeated.add(number)
        self._known |= now


class Killer:
    """Kills the sweep by a signal, `times` times: while it starts, in its trials, and after the last of them."""

    def __init__(self, place: Place, *, times: int, number: signal.Signals, seed: int, start_seconds: float) -> None:
        self.account, self.outlived = Account(place), 0
        self._place, self._number, self._left = place, number, times
        self._random = random.Random(seed)  # noqa: S311
        self._start_seconds = start_seconds
        self._hits: Counter[str] = Counter()
        self._statuses: Counter[int] = Counter()

    def run(self, total_steps: int) -> None:
        """Kill until no kill is left; the moments spread over the steps that remain."""
        ends = max(1, round(self._left * AT_END))
        while self._left:
            process = self._place.start()
            before = len(self._place.finished())
            if self._left <= ends:
                self._wait(process, trials=self._place.trials, seconds=self._random.uniform(0, 3))
            elif self._random.random() < AT_START:
                time.sleep(self._random.uniform(0, self._start_seconds))
            else:
                remaining = max(0, total_steps - self._place.steps()) / (self._left - ends) / (1 - AT_START)
                steps = self._place.steps() + round(self._random.uniform(0, 2 * remaining))
                self._wait(process, steps=max(1, steps), seconds=self._random.uniform(0, 0.5))
            self._kill(process, before)

    def __str__(self) -> str:
        return f"it hit: {dict(self._hits)}, exit statuses: {dict(self._statuses)}"

    def _wait(self, process: subprocess.Popen[bytes], *, steps: int = 0, trials: int = 0, seconds: float) -> None:
        while process.poll() is None and (self._place.steps() < steps or len(self._place.finished()) < trials):
            time.sleep(0.02)
        time.sleep(seconds)

    def _kill(self, process: subprocess.Popen[bytes], before: int) -> None:
        hit = process.poll() is None
        process.send_signal(self._number)
        self._statuses[process.wait(60)] += 1
        self._left -= 1
        after = len(self._place.finished())
        phase = "at its end" if after == self._place.trials else "in the trials" if after > before else "early"
        self._hits[phase if hit else "ended already"] += 1
        self.outlived += outlived(process.pid)
        self.account.look()
        print(".", end="", flush=True)


class Faults:
    """Lets a fault come and go `times` times within one sweep, which goes on, or ends and is then started again."""

    def __init__(self, place: Place, fault: "FullDisk | Server", *, times: int, seed: int) -> None:
        self.account, self.outlived = Account(place), 0
        self._place, self._fault, self._times = place, fault, times
        self._random = random.Random(seed)  # noqa: S311
        self._hits: Counter[str] = Counter()

    def run(self, total_steps: int) -> None:
        """Let the faults come at random moments, spread over the steps that remain; the sweep goes on to its end."""
        process = self._place.start()
        for left in range(self._times, 0, -1):
            now = self._place.steps()
            steps = now + self._random.uniform(0, 2 * max(0, total_steps - now) / (left + 1))
            while process.poll() is None and self._place.steps() <= steps:
                time.sleep(0.02)
            self._hits["the sweep" if process.poll() is None else "after its end"] += 1
            with self._fault:
                time.sleep(self._random.uniform(0, LONGEST_FAULT))
            self.account.look()
            if process.poll():
                self._hits["ended it"] += 1
                process = self._place.start()
            print(".", end="", flush=True)
        process.wait()

    def __str__(self) -> str:
        text = self._place.log.read_text()
        return f"it hit: {dict(self._hits)}; the sweep told {text.count(self._fault.told)} times that it was over"


class FullDisk:
    """Fills the disk of `folder`, and keeps it full while the block runs."""

    told = "there is room in"

    def __init__(self, folder: Path) -> None:
        self._ballast = folder / "ballast"

    def __enter__(self) -> Self:
        self._over = threading.Event()
        self._filler = threading.Thread(target=self._fill)
        self._filler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._filler.join()
        self._ballast.unlink()

    def _fill(self) -> None:
        with self._ballast.open("wb", buffering=0) as file:
            # The sweep makes room by giving up checkpoints; that room is taken too.
            while not self._over.wait(0.02):
                with suppress(OSError):
                    while True:
                        file.write(bytes(1 << 20))


class Server:
    """A real `mlflow server` on loopback over a SQLite file; dead while the block runs."""

    told = "answers again"

    def __init__(self, database: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{port}"
        store = ["--backend-store-uri", f"sqlite:///{database}", "--artifacts-destination", f"{database}.artifacts"]
        where = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        self._command = [sys.executable, "-m", "mlflow", "server", *store, *where]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.kill()
        return self

    def __exit__(self, *_: object) -> None:
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(
            self._command, env=environment, stdout=quiet, stderr=quiet, start_new_session=True
        )
        while self._process.poll() is None:
            with suppress(OSError):
                urllib.request.urlopen(f"{self.uri}/health", timeout=1).close()  # noqa: S310 - it is http
                return
            time.sleep(0.1)
        raise SystemExit("the tracking server did not start")

    def kill(self) -> None:
        """End it at once, in the middle of whatever it does."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

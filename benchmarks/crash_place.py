"""A working folder with one sweep of short trials and one store: how it is started, and what it holds."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from tuner.analysis.compare import as_row
from tuner.analysis.summary import ranked
from tuner.names import EXPERIMENT, TRACKING_URI_VARIABLE
from tuner.search.ledger import Ledger
from tuner.stages.files import ROW_BYTES, STEPS_FILE
from tuner.sweep.folder import SweepFolder
from tuner.tracking.store import Tracker, connect
from tuner.trials import TrialRecord

SPACE = """
question: Does a sweep that is killed find what it would have found?
steps: 40
workload:
  data: {image_size: 32, identities: 16, images_per_identity: 6}
  model: {embedding_size: 32}
  optimizer: {batch_size: 16}
  evaluation: {pairs: 120, times: 2}
schedulers:
  - name: fastface
    parameters:
      # So that most trials decay, and depart from each other, at some step of 40.
      ema_window_fraction: {low: 0.05, high: 0.2, log: true}
      threshold_fraction: {low: 1, high: 20, log: true}
      patience_fraction: {low: 0.05, high: 0.6}
"""
DIES_WITHIN = 3.0
"""Seconds that Ray's processes have to follow the sweep's."""


class Place:
    """The folder `path`; the sweep is given `address` as its store, None for the SQLite file itself.

    What the sweep says goes to a file beside the folder, since the folder's own disk may be full.
    """

    def __init__(self, path: Path, *, trials: int, steps: int = 40, address: str | None = None) -> None:
        path.mkdir(exist_ok=True)
        self.path, self.trials, self._steps = path, trials, steps
        self.log = path.with_suffix(".txt")
        self.uri = f"sqlite:///{path}/mlflow.db"
        self.address = address or self.uri
        self.tracker: Tracker = connect(self.uri)
        (path / "space.yaml").write_text(SPACE)
        self.sweep = SweepFolder(path / "sweeps" / "first")

    def start(self) -> subprocess.Popen[bytes]:
        """Start the sweep, or go on with it: the command of a restart loop."""
        length = ["--trials", str(self.trials), "--steps", str(self._steps)]
        words = ["sweep", "space.yaml", *length, "--seed", "3", "--name", "first", "--resume"]
        return self.tool(*words, stdout=self.log.open("ab"), stderr=subprocess.STDOUT)

    def tool(self, *words: str, **streams: Any) -> subprocess.Popen[bytes]:
        """Start the command line in the folder."""
        environment = {**os.environ, TRACKING_URI_VARIABLE: self.address, "GOMP_SPINCOUNT": "1000"}
        command = [sys.executable, "-m", "tuner.cli.main", *words]
        return subprocess.Popen(command, cwd=self.path, env=environment, **streams)

    def records(self) -> list[TrialRecord]:
        """Return the trials; none before there is a sweep."""
        return Ledger.open(self.sweep.journal, read_only=True).trials() if self.sweep.exists else []

    def finished(self) -> dict[int, TrialRecord]:
        """Return the trials that have ended."""
        # What is known of its MLflow run may come after a trial's end.
        return {
            record.number: replace(record, run_id=None, mirrored=False)
            for record in self.records()
            if record.state != "RUNNING"
        }

    def steps(self) -> int:
        """Return how many training steps are recorded."""
        with suppress(FileNotFoundError):
            rows = self.path.glob(f"stages/*/stages/*/{STEPS_FILE}")
            return sum(path.stat().st_size for path in rows) // ROW_BYTES
        return 0

    def written(self, number: int) -> int:
        """Return when a trial's curve was last written, in ns; 0 where it repeats another trial and has none."""
        with suppress(FileNotFoundError):
            return (self.sweep.trial(number) / "curve.csv").stat().st_mtime_ns
        return 0

    def runs(self) -> Iterator[Any]:
        """Yield all MLflow runs."""
        client = MlflowClient(self.uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        yield from client.search_runs([experiment.experiment_id], max_results=5000)

    def curves(self) -> dict[int, Any]:
        """Return each trial's curve as MLflow holds it, repeated points included."""
        client = MlflowClient(self.uri)
        keys = ("loss", "lr", "detector_response")
        return {
            record.number: {
                key: sorted((point.step, point.value) for point in client.get_metric_history(str(record.run_id), key))
                for key in keys
            }
            for record in self.records()
        }

    def files(self) -> dict[str, bytes]:
        """Return the files of all trials."""
        root = self.sweep.path / "trials"
        return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}

    def rows(self) -> list[dict[str, Any]]:
        """Return the table without times, ids, and steps that were trained again."""
        table = [as_row(record) for record in ranked(self.records(), maximize=True)]
        for row in table:
            row["steps_executed"] -= row.pop("steps_repeated")
            del row["seconds"], row["run_id"]
        return table


def outlived(pid: int) -> int:
    """Return how many processes of the Ray that `pid` started are left after a moment."""
    session = re.compile(rf"/session_[^/]*_{pid}/")
    deadline = time.monotonic() + DIES_WITHIN
    while True:
        left = set()
        for link in Path("/proc").glob("[0-9]*/fd/*"):
            with suppress(OSError):
                if session.search(str(link.readlink())):
                    left.add(link.parts[2])
        if not left or time.monotonic() > deadline:
            return len(left)
        time.sleep(0.2)

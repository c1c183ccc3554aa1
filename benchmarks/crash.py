"""A sweep killed at random moments, resumed each time until it ends, against the same sweep left alone.

Trains two sweeps of short trials, one of them killed `--kills` times: while it starts, at random steps of its trials,
between them, and after the last. Then says what was lost, what was done twice, and whether table, curve files and
MLflow's curves are those of the other one. With `--finished N` it also measures how long a resume of a sweep with N
finished trials takes until the next one starts, which is N times as much to read.

    python benchmarks/crash.py --kills 100
    python benchmarks/crash.py --kills 20 --signal TERM

Exits with 1 where anything was lost, repeated, or is not equal.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from machine import banner
from mlflow import MlflowClient

from tuner.analysis.compare import as_rows
from tuner.config.space_file import load_space
from tuner.names import EXPERIMENT, TRACKING_URI_VARIABLE
from tuner.search.ledger import Ledger
from tuner.search.plan import make_plan
from tuner.stages.files import ROW_BYTES, STEPS_FILE
from tuner.sweep.folder import SweepDescription, SweepFolder
from tuner.tracking.runs import start_sweep
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
AT_START, AT_END = 0.25, 0.05
"""Shares of the kills that hit a start and what follows the last trial; the others hit the trials."""
DIES_WITHIN = 3.0
"""Seconds that Ray's processes have to follow the sweep's."""


class Place:
    """A working folder with one sweep and one store."""

    def __init__(self, path: Path, *, trials: int) -> None:
        path.mkdir()
        self.path, self.trials = path, trials
        self.uri = f"sqlite:///{path}/mlflow.db"
        self.tracker: Tracker = connect(self.uri)
        (path / "space.yaml").write_text(SPACE)
        self.sweep = SweepFolder(path / "sweeps" / "first")

    def start(self) -> subprocess.Popen[bytes]:
        """Start the sweep, or go on with it: the command of a restart loop."""
        words = ["sweep", "space.yaml", "--trials", str(self.trials), "--seed", "3", "--name", "first", "--resume"]
        return tool(self.path, *words, stdout=(self.path / "out.txt").open("ab"), stderr=subprocess.STDOUT)

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


def tool(place: Path, *words: str, **streams: Any) -> subprocess.Popen[bytes]:
    """Start the command line in a folder."""
    environment = {**os.environ, TRACKING_URI_VARIABLE: f"sqlite:///{place}/mlflow.db", "GOMP_SPINCOUNT": "1000"}
    return subprocess.Popen([sys.executable, "-m", "tuner.cli.main", *words], cwd=place, env=environment, **streams)


class Killer:
    """Draws the moments, and keeps account of what is there after each kill."""

    def __init__(self, place: Place, *, kills: int, number: signal.Signals, seed: int, start_seconds: float) -> None:
        self._place, self._number, self._left = place, number, kills
        self._random = random.Random(seed)  # noqa: S311
        self._start_seconds = start_seconds
        self.hits: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.lost: set[int] = set()
        self.repeated: set[int] = set()
        self.outlived = 0
        self._known: dict[int, tuple[TrialRecord, int]] = {}

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

    def _wait(self, process: subprocess.Popen[bytes], *, steps: int = 0, trials: int = 0, seconds: float) -> None:
        while process.poll() is None and (self._place.steps() < steps or len(self._place.finished()) < trials):
            time.sleep(0.02)
        time.sleep(seconds)

    def _kill(self, process: subprocess.Popen[bytes], before: int) -> None:
        hit = process.poll() is None
        process.send_signal(self._number)
        self.statuses[process.wait(60)] += 1
        self._left -= 1
        after = len(self._place.finished())
        phase = "at its end" if after == self._place.trials else "in the trials" if after > before else "early"
        self.hits[phase if hit else "ended already"] += 1
        self.outlived += outlived(process.pid)
        self.look()
        print(".", end="", flush=True)

    def look(self) -> None:
        """Compare the finished trials with those known: none may be gone, changed, or run again."""
        now = {
            number: (
                record,
                (self._place.sweep.trial(number) / "curve.csv").stat().st_mtime_ns
                if has_curve(self._place, number)
                else 0,
            )
            for number, record in self._place.finished().items()
        }
        self.lost |= {
            number for number, (record, _) in self._known.items() if number not in now or now[number][0] != record
        }
        self.repeated |= {
            number for number, (_, written) in self._known.items() if number in now and now[number][1] != written
        }
        self._known |= now


def has_curve(place: Place, number: int) -> bool:
    """Return whether a trial has a curve of its own; one that repeats another has none."""
    return (place.sweep.trial(number) / "curve.csv").exists()


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


def rows(place: Place) -> list[dict[str, Any]]:
    """Return the table without times, ids, and steps that were trained again."""
    table = as_rows(place.records(), maximize=True)
    for row in table:
        row["steps_executed"] -= row.pop("steps_repeated")
        del row["seconds"], row["run_id"]
    return table


def resume_seconds(path: Path, finished: int) -> tuple[float, float]:
    """Return how long a resume of a made-up sweep takes until the next trial starts: in all, and Ray's own start."""
    place = Place(path, trials=finished + 1)
    parent = start_sweep(place.tracker, name="first", params={})
    place.sweep.write(
        SweepDescription(
            name="first",
            trials=finished + 1,
            tracking_uri=place.uri,
            parent_run_id=parent,
            store=str(path / "stages"),
        )
    )
    ledger = Ledger.create(place.sweep.journal, plan=make_plan(load_space(path / "space.yaml"), sampler="random"))
    chance = random.Random(0)  # noqa: S311
    for number in range(finished):
        trial = ledger.ask()
        assert trial is not None  # noqa: S101 - the space is endless
        ledger.annotate(number, run_id=f"{number:032x}")
        folder = place.sweep.trial(number)
        folder.mkdir(parents=True)
        (folder / "curve.csv").write_text("step,loss,lr,detector_response\n")
        ledger.tell(number, value=chance.random(), metrics={"accuracy": 0.5}, steps_executed=40, seconds=3.0)
        ledger.mark_mirrored(number)
    # The sampler is the default one, which learns from all trials; drawing them with it would take minutes.
    lines = []
    for line in place.sweep.journal.read_text().splitlines():
        record = json.loads(line)
        if "plan" in record.get("user_attr", {}):
            record["user_attr"]["plan"]["sampler"] = "tpe"
            del record["crc32"]  # as in records of Optuna's own tools
        lines.append(json.dumps(record) + "\n")
    place.sweep.journal.write_text("".join(lines))
    code = (
        "import os, time, ray; began = time.time(); ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print(time.time() - began)"], capture_output=True, check=True
    )
    began = time.monotonic()
    process = tool(path, "resume", "first", stdout=subprocess.PIPE)
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    for line in process.stdout:
        if line.startswith(b"trial "):
            break
    seconds = time.monotonic() - began
    process.kill()
    process.wait()
    outlived(process.pid)
    return seconds, float(done.stdout.split()[-1])


def main() -> None:
    """Run both sweeps and print what differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--signal", choices=["KILL", "TERM"], default="KILL")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--finished", type=int, default=1000, help="finished trials of the timed resume; 0: no timing")
    parser.add_argument("--keep", type=Path, help="work in this new folder, and leave it")
    options = parser.parse_args()
    print(banner("ray", "optuna", "mlflow", "torch"))
    root = options.keep or Path(tempfile.mkdtemp(prefix="fastface-tuner-crash-"))
    root.mkdir(exist_ok=True)
    try:
        sys.exit(0 if report(root.absolute(), options) else 1)
    finally:
        if options.keep is None:
            shutil.rmtree(root, ignore_errors=True)


def report(root: Path, options: argparse.Namespace) -> bool:
    """Run and print; return whether nothing was lost, repeated, or differs."""
    whole, broken = Place(root / "whole", trials=options.trials), Place(root / "broken", trials=options.trials)
    began = time.monotonic()
    process = whole.start()
    while process.poll() is None and whole.steps() == 0:
        time.sleep(0.02)
    start_seconds = time.monotonic() - began
    if process.wait() != 0:
        raise SystemExit((whole.path / "out.txt").read_text())
    print(f"left alone: {options.trials} trials, {whole.steps()} steps, {time.monotonic() - began:.0f} s", flush=True)

    number = signal.Signals[f"SIG{options.signal}"]
    killer = Killer(broken, kills=options.kills, number=number, seed=options.seed, start_seconds=start_seconds)
    began = time.monotonic()
    killer.run(whole.steps())
    last = broken.start().wait()
    killer.look()
    print(f"\nkilled {options.kills} times by SIG{options.signal}: {time.monotonic() - began:.0f} s")
    print(f"it hit: {dict(killer.hits)}")
    print(f"exit statuses: {dict(killer.statuses)}, the last start: {last}")
    left = Counter(run.info.status for run in broken.runs())
    found = {
        "finished trials lost or changed": len(killer.lost),
        "finished trials run again": len(killer.repeated),
        "trials beyond those asked for": len(broken.records()) - options.trials,
        "MLflow runs left RUNNING": left["RUNNING"],
        "rows of the table that differ": differing(rows(whole), rows(broken)),
        "files of trials that differ": differing(whole.files(), broken.files()),
        "curves in MLflow that differ": differing(whole.curves(), broken.curves()),
        f"processes that outlived a kill by {DIES_WITHIN:.0f} s": killer.outlived,
    }
    for what, count in found.items():
        print(f"  {what}: {count}")
    again = sum(record.steps_repeated for record in broken.records()) - sum(r.steps_repeated for r in whole.records())
    print(f"  steps trained again after a kill: {again}; MLflow runs: {dict(left)}", flush=True)
    if options.finished:
        seconds, ray_seconds = resume_seconds(root / "large", options.finished)
        print(
            f"resume with {options.finished} finished trials: {seconds:.1f} s until the next one starts, "
            f"of which Ray's own start takes {ray_seconds:.1f} s"
        )
    return last == 0 and not any(found.values())


def differing(one: Any, other: Any) -> int:
    """Return how many entries of two lists or dicts differ."""
    if isinstance(one, list):
        one, other = dict(enumerate(one)), dict(enumerate(other))
    return sum(one.get(key) != other.get(key) for key in {**one, **other})


if __name__ == "__main__":
    main()

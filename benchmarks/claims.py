"""What the benchmarks of the claim have in common: work cut into units, done once, shown with the time left.

A benchmark is a list of units, such as "all settings under seed 3". Each is a function of its own arguments that asks
for runs and returns JSON-like data; what it returned is kept in `units/`, and each run that it asked for in `runs/`. So
a benchmark that was killed anywhere goes on with the run that it was in, at that run's last checkpoint, and a finished
one called again trains nothing. Units run in `jobs` processes of one thread each: two runs side by side do more than
one run on two threads. They share one stage store.

Whatever was trained is then in an MLflow store as well (`claims_view.py`), from which the figures are drawn.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from claims_worker import Session, Worker, one_thread
from machine import banner
from rich.console import Console

from tuner.config.run import FaceConfig, WorkloadConfig
from tuner.sweep.data import prepare

SECONDS_A_STEP = 0.037
"""Of the shipped spaces' workload, on one idle thread (`benchmarks/README.md`)."""
SECONDS_AN_EVALUATION = 1.0


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A piece of a benchmark: `work(worker)` asks for runs of `steps` steps in all and returns JSON-like data.

    `share` is the part of the steps that is expected to be trained, the others being known by then; `evaluations` is
    the number of them.
    """

    name: str
    steps: int
    evaluations: int
    work: "partial[Any]"
    share: float = 1.0

    @cached_property
    def file(self) -> str:
        """The name of the file that keeps what the unit returned: another one for other arguments."""
        arguments = repr((self.work.func.__name__, self.work.args, sorted(self.work.keywords.items())))
        return f"{self.name}-{hashlib.sha256(arguments.encode()).hexdigest()[:12]}.json".replace("/", "-")

    @property
    def seconds(self) -> float:
        """The expected time on one idle thread."""
        return self.steps * self.share * SECONDS_A_STEP + self.evaluations * SECONDS_AN_EVALUATION


@dataclass(frozen=True)
class Done:
    """What became of a unit: what it returned, and the runs that it asked for, as `Worker.train` describes them."""

    result: Any
    runs: tuple[Mapping[str, Any], ...]


class Bench:
    """Does units and keeps what they returned, in the folder `out`; `steps` is what all of them will ask for."""

    def __init__(self, out: Path, *, jobs: int, steps: int) -> None:
        self.out = out
        self.done: list[Done] = []
        self._jobs = jobs
        (out / "units").mkdir(parents=True, exist_ok=True)
        self._session = Session(time.time(), steps)

    def do(self, units: Sequence[Unit], *, heard: Callable[[Done], object] = lambda _: None) -> dict[str, Any]:
        """Return what each unit returned, by name; only those that were not done before are done.

        `heard` gets each unit as soon as it is done.
        """
        found: dict[str, Done] = {}
        for unit, done in self._each(units):
            found[unit.name] = done
            heard(done)
        self.done += [found[unit.name] for unit in units]
        return {unit.name: found[unit.name].result for unit in units}

    def _each(self, units: Sequence[Unit]) -> Iterable[tuple[Unit, Done]]:
        left = []
        for unit in units:
            path = self.out / "units" / unit.file
            if path.exists():
                yield unit, _kept(path)
            else:
                left.append(unit)
        if self._jobs == 1 or len(left) < 2:
            for unit in left:
                yield unit, _work(unit, self.out, self._session)
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self._jobs, mp_context=context, initializer=one_thread) as pool:
            try:
                waiting = {pool.submit(_work, unit, self.out, self._session): unit for unit in left}
                for future in as_completed(waiting):
                    yield waiting[future], future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def sharing(self) -> dict[str, float]:
        """Return the steps that all distinct runs have, and those that were trained for them."""
        folders = {run["folder"]: run["params"]["total_steps"] for done in self.done for run in done.runs}
        costs = [json.loads((self.out / "runs" / folder / "costs.json").read_text()) for folder in folders]
        executed = sum(cost["steps_executed"] for cost in costs)
        asked = sum(run["params"]["total_steps"] for done in self.done for run in done.runs)
        return {
            "asked": asked,
            "distinct": sum(folders.values()),
            "executed": executed,
            "asked_over_executed": asked / max(1, executed),
            "training_seconds": sum(cost["seconds"] for cost in costs),
        }


def _work(unit: Unit, out: Path, session: Session) -> Done:
    worker = Worker(out, unit.name, session)
    try:
        result = unit.work(worker)
    except SystemExit:  # nobody is left to hear of it, and the pool would wait for its next unit for ever
        os._exit(1)
    path = out / "units" / unit.file
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps({"result": result, "runs": worker.runs}))
    draft.replace(path)
    return _kept(path)


def _kept(path: Path) -> Done:
    kept = json.loads(path.read_text())
    return Done(kept["result"], tuple(kept["runs"]))


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return the options that all three benchmarks have."""
    options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, required=True, help="folder of runs, results and figures, to go on with")
    options.add_argument("--small", action="store_true", help="the small form: tiny pictures, seconds on one core")
    options.add_argument("--jobs", type=int, default=None, help="processes [default: 2, in the small form 1]")
    options.add_argument("--plan", action="store_true", help="say what would be run and how long it takes, and end")
    return options


def print_plan(units: Sequence[Unit], *, jobs: int) -> None:
    """Print units, steps and the expected time."""
    print("| unit | steps asked for | expected to be trained | evaluations | hours on one thread |")
    print("|---|---|---|---|---|")
    for unit in units:
        trained = unit.steps * unit.share
        print(f"| {unit.name} | {unit.steps:,} | {trained:,.0f} | {unit.evaluations} | {unit.seconds / 3600:.2f} |")
    steps, trained = sum(unit.steps for unit in units), sum(unit.steps * unit.share for unit in units)
    hours = sum(unit.seconds for unit in units) / 3600
    print(
        f"{len(units)} units, {steps:,} steps asked for, {trained:,.0f} expected to be trained: {hours:.1f} h on one "
        f"idle thread ({SECONDS_A_STEP} s a step), {hours / jobs:.1f} h in {jobs} processes"
    )


def about(options: argparse.Namespace) -> str:
    """Return date, hardware, versions, commit and options of a benchmark, a line each."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    given = ", ".join(f"{name} {value}" for name, value in vars(options).items() if name not in ("out", "plan"))
    return f"{banner('torch', 'optuna', 'mlflow', 'fastface-tuner')}, commit {commit}\n\n{given}"


def prepare_data(workload: FaceConfig) -> str:
    """Render or decode the faces before processes ask for them at once; return what they are."""
    faces = prepare(workload, Console(stderr=True))
    return f"{faces.name}, {faces.counts['training_identities']} people to train on, " + (
        f"{faces.counts['verification_identities']} to verify on"
    )


def of_size(workload: WorkloadConfig, image_size: int) -> FaceConfig:
    """Return a face workload on images of another size."""
    if not isinstance(workload, FaceConfig):
        raise TypeError("the benchmarks of the claim are about faces")
    return workload.model_copy(update={"data": workload.data.model_copy(update={"image_size": image_size})})


def sharing_line(sharing: Mapping[str, float]) -> str:
    """Say what the stage tree saved."""
    return (
        f"The runs have {sharing['asked']:,} steps; {sharing['executed']:,} were trained "
        f"({sharing['asked_over_executed']:.2f} times fewer), in {sharing['training_seconds'] / 3600:.1f} hours of one "
        "thread."
    )

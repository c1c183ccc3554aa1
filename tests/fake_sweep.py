"""Sweeps of fake trials, which train nothing: everything of a sweep's driver but Ray, and what MLflow shows of it.

Run as a program it is such a sweep in a process of its own: `python fake_sweep.py FOLDER URI SECONDS`, where a trial
waits so many seconds between two reports; it prints a line for each.
"""

import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mirrored import trial_runs
from mlflow import MlflowClient

from tuner.config.space_file import space_from_text
from tuner.curves import CurvePoint, CurveWriter
from tuner.evaluations import EvaluationWriter
from tuner.names import Setting
from tuner.search.ledger import Ledger
from tuner.search.plan import make_plan
from tuner.sweep.asked import Budget
from tuner.sweep.folder import SweepDescription, SweepFolder
from tuner.sweep.jobs import Job
from tuner.sweep.source import Sharing, SweepSource
from tuner.sweep.view import RunView
from tuner.tracking.environment import DataDescription
from tuner.tracking.runs import start_sweep
from tuner.tracking.store import Tracker, connect
from tuner.tracking.uri import redact
from tuner.trials import TrialRecord

TRIALS = 7
STEPS = 60
FAILING = 3
SPACE = """
question: q
steps: 60
sampler: random
schedulers:
  - name: fastface
    parameters:
      patience_fraction: {choices: [0.1, 0.1001, 0.3]}
      decay_factor: {choices: [4, 10]}
"""
Answer = TypeVar("Answer")


class Progress:
    """Keeps the messages."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def trial_started(self, number: int, params: Mapping[str, Setting]) -> None: ...

    def trial_moved(self, number: int, *, steps: int, shared: int, loss: float, lr: float) -> None: ...

    def trial_ended(self, record: TrialRecord) -> None: ...

    def message(self, text: str) -> None:
        self.messages.append(text)


class FakeSweep:
    """A sweep in `folder`, made there or gone on with; `waited` is the longest that its driver waited for anything."""

    def __init__(self, folder: Path, uri: str, *, retries: int = 0) -> None:
        self.folder = SweepFolder(folder)
        if self.folder.journal.exists():
            self.tracker = Tracker(uri)
            self.ledger = Ledger.open(self.folder.journal)
        else:
            self.tracker = connect(uri)
            parent = start_sweep(self.tracker, name="fake", params={"trials": TRIALS}, data=DATA)
            self.folder.write(
                SweepDescription(name="fake", trials=TRIALS, tracking_uri=redact(uri), parent_run_id=parent)
            )
            self.ledger = Ledger.create(self.folder.journal, plan=make_plan(space_from_text(SPACE, file="x.yaml")))
        self.parent = self.folder.read().parent_run_id
        self.progress = Progress()
        self.waited = 0.0
        self.view = self._timed(RunView, self.ledger, folder=self.folder, tracker=self.tracker)
        self._timed(self.view.sweep_runs)
        self.source = SweepSource(
            self.ledger, budget=Budget(trials=TRIALS), folder=self.folder, view=self.view, progress=self.progress,
            threads=1, sharing=Sharing(None, 0), retries=retries,
        )  # fmt: skip

    def run(self, at: Callable[[int, int], object] = lambda *_: None) -> None:
        """Run all trials; `at` hears where they are and does what is to happen there."""
        while (job := self._timed(self.source.next_trial)) is not None:
            self._trial(job, at)

    def run_side_by_side(self, num: int, *, lose: Mapping[int, int] | None = None) -> None:
        """Run all trials, `num` at a time, a report of each in turn; lose the processes of some after so many."""
        running: dict[int, Iterator[None]] = {}
        left, reports = dict(lose or {}), Counter[int]()
        while True:
            while len(running) < num and (job := self._timed(self.source.next_trial)) is not None:
                running[job.number] = self._reports(job, lambda *_: None)
            if not running:
                return
            for number, trial in list(running.items()):
                if left.get(number) == reports[number]:
                    del left[number], running[number]
                    trial.close()
                    self._timed(self.source.ended, number, None)
                elif next(trial, "ended") == "ended":
                    del running[number]
                reports[number] += 1

    def _trial(self, job: Job, at: Callable[[int, int], object]) -> None:
        for _ in self._reports(job, at):
            pass

    def _reports(self, job: Job, at: Callable[[int, int], object]) -> Generator[None]:
        folder, result = Path(job.config["folder"]), dict[str, Any]()
        with CurveWriter(folder / "curve.csv") as curve, EvaluationWriter(folder / "evaluations.jsonl") as evaluations:
            for point in points(job.number):
                curve.write(point)
                steps = point.step + 1
                metrics = {"accuracy": 1 - point.loss} if steps % 30 == 0 else {}
                if metrics:
                    evaluations.write(steps, metrics)
                    evaluations.flush()
                if steps % 10:
                    continue
                curve.flush()
                at(job.number, steps)
                shared = {self.view.label(job.number - 1): 20, "elsewhere/7": 5} if job.number else {}
                result = {
                    "steps": steps, "loss": point.loss, "lr": point.lr, "metrics": list(metrics.items()),
                    "steps_executed": steps - 25 * bool(shared), "steps_repeated": 0,
                    "steps_shared": 25 * bool(shared), "shelf": None, "deterministic": True,
                    "shared_with": list(shared.items()), "messages": [], "done": steps == STEPS,
                }  # fmt: skip
                if job.number == FAILING and steps == 40:
                    result = {"failed": "the loss must be finite", "traceback": "Traceback ...\nwhy", "done": True}
                    break
                if steps < STEPS:
                    self._timed(self.source.moved, job.number, result)
                    yield
        self._timed(self.source.ended, job.number, result)

    def _timed(self, call: Callable[..., Answer], *arguments: Any, **named: Any) -> Answer:
        begin = time.monotonic()
        answer = call(*arguments, **named)
        self.waited = max(self.waited, time.monotonic() - begin)
        return answer


DATA = DataDescription("rendered", "0" * 64, "synthetic", {"images": 4800})


def points(number: int) -> list[CurvePoint]:
    """Return the curve of a fake trial."""
    return [
        CurvePoint(step, math.exp(-step / (77 + number)), 0.1 / (1 + step // 40), None if step < 5 else 1e-3 / step)
        for step in range(STEPS)
    ]


def assert_shown(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Compare what `shown` returned, run by run and thing by thing: a difference is then one that can be read."""
    assert [entry["name"] for entry in found] == [entry["name"] for entry in expected]
    for entry, other in zip(found, expected, strict=True):
        for key in {**other, **entry}:
            assert (entry["name"], key, entry.get(key)) == (other["name"], key, other.get(key))


def shown(client: MlflowClient, parent: str) -> list[dict[str, Any]]:
    """Return what MLflow shows of a sweep, its own run first: all but ids and times; each point of a curve once."""
    runs = trial_runs(client, parent)
    numbers = {run.info.run_id: f"<run of trial {number}>" for number, run in enumerate(runs)}
    found = []
    for run in (client.get_run(parent), *runs):
        tags = {key: value for key, value in run.data.tags.items() if key != "mlflow.parentRunId"}
        for run_id, name in numbers.items():
            tags = {key: value.replace(run_id, name) for key, value in tags.items()}
        curves = {
            key: [(entry.step, entry.value) for entry in client.get_metric_history(run.info.run_id, key)]
            for key in run.data.metrics
        }
        curves |= {"seconds": [(step, 0.0) for step, _ in curves["seconds"]]} if "seconds" in curves else {}
        texts = {
            entry.path: Path(client.download_artifacts(run.info.run_id, entry.path)).read_text()
            for entry in client.list_artifacts(run.info.run_id)
        }
        times = [m.timestamp for m in client.get_metric_history(run.info.run_id, "loss")]
        assert times == sorted(times)
        assert not times or run.info.start_time <= times[0] <= times[-1] <= (run.info.end_time or times[-1])
        found.append(
            {
                "name": run.info.run_name,
                "status": run.info.status,
                "params": run.data.params,
                "tags": tags,
                "metrics": curves,
                "texts": texts,
                "data": [entry.dataset.digest for entry in run.inputs.dataset_inputs],
            }
        )
    return found


if __name__ == "__main__":
    sweep = FakeSweep(Path(sys.argv[1]), sys.argv[2])

    def tell(number: int, steps: int) -> None:
        """Say where the sweep is, and take a while."""
        sys.stdout.write(f"{number} {steps}\n")
        sys.stdout.flush()
        time.sleep(float(sys.argv[3]))

    sweep.run(tell)
    sweep.view.close("FINISHED", timeout=20)

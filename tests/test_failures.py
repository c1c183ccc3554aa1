"""One trial's failure is one trial's: what is told of it, what is left of it, and when it is the sweep's after all."""

import math
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from plain_executor import stand_in
from rich.console import Console

from tuner.config.run import RunConfig
from tuner.config.space_file import space_from_text
from tuner.errors import DivergedError, NoMemoryError, SweepStoppedError, UserError
from tuner.names import STAGES_DIR
from tuner.search.ledger import Ledger
from tuner.search.plan import make_plan
from tuner.stages.shelf import StepCounts
from tuner.stages.trial import TrialProgress
from tuner.sweep import trial_process
from tuner.sweep.asked import Asked
from tuner.sweep.ending import Ending
from tuner.sweep.failures import failure
from tuner.sweep.folder import SweepDescription, SweepFolder
from tuner.sweep.jobs import FAILED, STOP_FILE, STOPPED
from tuner.sweep.ray_processes import RayProcesses
from tuner.sweep.resume import resume_sweep
from tuner.sweep.run import run_trials
from tuner.sweep.source import FAILURES_IN_A_ROW, Sharing
from tuner.tracking.runs import start_sweep
from tuner.tracking.store import connect
from tuner.training.explosion import Explosion

CONFIG = RunConfig()


def test_ray_that_does_not_start_is_told_in_one_line() -> None:
    processes = RayProcesses(Ending())
    processes._started = Future()
    processes._started.set_exception(Exception("the node timed out\nduring startup."))
    with pytest.raises(UserError, match="must start on this machine, but did not: the node timed out during startup; "):
        processes.wait()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ZeroDivisionError("division by zero"), ["ZeroDivisionError: division by zero"]),
        (KeyError(), ["KeyError"]),
        (ValueError("of\n  many lines " + 1000 * "x"), ["ValueError: of many lines", "…"]),
    ],
)
def test_an_unexpected_failure_is_told_in_one_line_and_ends_its_process(error: Exception, expected: list[str]) -> None:
    found = failure(error)
    assert all(part in found.reason for part in expected)
    assert "\n" not in found.reason
    assert len(found.reason) <= 500
    assert type(error).__name__ in found.traceback
    assert not found.known


@pytest.mark.parametrize("error", [DivergedError("the loss must stay finite"), UserError("the picture is damaged")])
def test_a_known_failure_says_its_own_reason_and_leaves_its_process_alone(error: Exception) -> None:
    found = failure(error)
    assert (found.reason, found.known) == (str(error), True)


def test_full_memory_tells_its_own_reason_and_ends_its_process() -> None:
    found = failure(NoMemoryError("a training must fit into the GPU's memory"))
    assert (found.reason, found.known) == ("a training must fit into the GPU's memory", False)


class Large:
    """Stands for a model on the GPU."""


def progress(steps: int, *, finished: bool = False) -> TrialProgress:
    return TrialProgress(
        steps=steps,
        loss=1.0,
        lr=0.1,
        metrics={"accuracy": 0.5} if finished else {},
        counts=StepCounts(executed=steps - 3, repeated=1, shared=2, resumed=2),
        shared_with={},
        shelf=None,
        finished=finished,
    )


def process_of(
    trial: Iterator[TrialProgress], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> trial_process.TrialProcess:
    monkeypatch.setattr(trial_process, "run_trial", lambda *_, **__: trial)
    process = trial_process.TrialProcess()
    places = {"folder": str(folder), "store": str(folder / "stages"), STOP_FILE: str(folder / "stop")}
    process.begin({"run": CONFIG.to_dict(), "threads": 1, "label": "x", "checkpoint_budget": 0, **places})
    return process


@pytest.mark.parametrize("error", [DivergedError("the loss must stay finite"), NoMemoryError("memory is full")])
def test_nothing_of_a_failed_trial_stays_in_memory(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[weakref.ref[Large]] = []

    def trial() -> Iterator[TrialProgress]:
        model = Large()
        held.append(weakref.ref(model))
        yield progress(4)
        yield progress(5)
        raise error

    process = process_of(trial(), tmp_path, monkeypatch)
    result = process.step()
    error.__traceback__ = None  # this test holds it, the process does not
    assert held[0]() is None
    known = isinstance(error, DivergedError)
    assert (result[FAILED], result["done"]) == (failure(error).reason, known)
    assert (result["steps_executed"], result["steps_repeated"], result["steps_shared"]) == (4, 1, 2)
    if not known:
        with pytest.raises(RuntimeError, match="memory"):
            process.step()  # so that Tune ends the process


def test_steps_trained_before_an_interruption_count_as_the_trials_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = process_of(iter([progress(10, finished=True)]), tmp_path, monkeypatch).step()
    assert (result["steps_executed"], result["steps_repeated"], result["steps_shared"]) == (9, 1, 2)
    assert result["done"]


def test_an_actor_that_is_asked_to_stop_closes_its_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []

    def trial() -> Iterator[TrialProgress]:
        try:
            for steps in range(4, 100):
                yield progress(steps)
                (tmp_path / "stop").touch()
        finally:
            closed.append(steps)
            raise OSError("the disk is full")

    result = process_of(trial(), tmp_path, monkeypatch).step()
    assert result == {STOPPED: True, "done": True}
    assert closed == [5]


def test_a_loss_that_stays_far_beyond_its_beginning_has_exploded() -> None:
    explosion = Explosion(1000)
    for step in range(10):
        explosion.watch(step, 2.0)
    for step in range(10, 109):
        explosion.watch(step, 2001.0)
    with pytest.raises(DivergedError, match="above 1000 times its first values for 100 steps in a row"):
        explosion.watch(109, 2001.0)


@pytest.mark.parametrize(
    "losses",
    [
        [40.0] * 10 + [1e6] * 99 + [39.0] + [1e6] * 99,  # it comes back
        [40.0] * 10 + [39_000.0] * 900,
        [1e-9] * 10 + [999.0] * 900,  # a beginning near 0 says nothing
        [-50.0] * 10 + [-60.0] * 900,
        [math.exp(-step / 50) for step in range(1000)],
    ],
)
def test_no_healthy_loss_explodes(losses: list[float]) -> None:
    explosion = Explosion(1000)
    for step, loss in enumerate(losses):
        explosion.watch(step, loss)


# A whole sweep over actors that do not train.

SPACE = "question: q\nschedulers: [{name: fastface, parameters: {patience_fraction: {low: 0.05, high: 0.2}}}]"
TWINS = "question: q\nschedulers: [{name: fastface, parameters: {patience_fraction: {low: 0.01, high: 0.0116}}}]"


class Actor:
    """Ends every trial at once: well where its label is listed, else with a failure."""

    good: tuple[str, ...] = ()

    def setup(self, config: dict[str, Any]) -> None:
        self.config = config

    def step(self) -> dict[str, Any]:
        counts = {
            "steps_executed": 7,
            "steps_repeated": 0,
            "steps_shared": 0,
            "shared_with": [],
            "shelf": None,
            "deterministic": True,
            "messages": [],
        }
        done = {"steps": 7, "loss": 1.0, "lr": 0.1, "metrics": [("accuracy", 0.5)], "done": True, **counts}
        Path(self.config["store"]).mkdir(parents=True, exist_ok=True)
        if Path(self.config["folder"]).name in self.good:
            return done
        return {**done, FAILED: "the loss must stay finite", "traceback": "Traceback: ..."}

    def cleanup(self) -> None:
        pass


@pytest.fixture
def sweep(
    tmp_path: Path, mlflow_store: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Ledger]:
    """Return a function that runs a sweep without Ray and returns its ledger."""
    stand_in(monkeypatch)
    tracker = connect(mlflow_store(tmp_path))

    def run(space: str, *, trials: int, good: tuple[str, ...] = (), share: bool = True) -> Ledger:
        monkeypatch.setattr(Actor, "good", good)
        folder = SweepFolder(tmp_path / "sweep")
        store = tmp_path / "stages" if share else None
        if not folder.exists:
            parent = start_sweep(tracker, name="sweep", params={})
            folder.write(
                SweepDescription(
                    name="sweep",
                    trials=trials,
                    tracking_uri=tracker.uri,
                    parent_run_id=parent,
                    store=None if store is None else str(store),
                )
            )
            Ledger.create(folder.journal, plan=make_plan(space_from_text(space, file="x.yaml"), sampler="random"))
        ledger = Ledger.open(folder.journal)
        run_trials(
            ledger,
            folder=folder,
            tracker=tracker,
            sharing=Sharing(store, 1),
            console=Console(file=(tmp_path / "out.txt").open("a")),
            ending=Ending(),
            actor=Actor,
        )
        return ledger

    return run


def status_of_sweep(tmp_path: Path) -> str:
    description = SweepFolder(tmp_path / "sweep").read()
    return str(MlflowClient(description.tracking_uri).get_run(description.parent_run_id).info.status)


def test_a_trial_that_fails_fails_alone_and_leaves_its_traceback(sweep: Callable[..., Ledger], tmp_path: Path) -> None:
    records = sweep(SPACE, trials=3, good=("0000", "0002")).trials()
    assert [record.state for record in records] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert records[1].steps_executed == 7
    client = MlflowClient(SweepFolder(tmp_path / "sweep").read().tracking_uri)
    failed = client.get_run(str(records[1].run_id))
    assert failed.info.status == "FAILED"
    assert failed.data.tags["reason"] == "the loss must stay finite"
    assert "traceback.txt" in {file.path for file in client.list_artifacts(failed.info.run_id)}
    assert status_of_sweep(tmp_path) == "FINISHED"


def test_failures_in_a_row_stop_the_sweep_with_their_cause_and_it_can_go_on(
    sweep: Callable[..., Ledger], tmp_path: Path
) -> None:
    with pytest.raises(SweepStoppedError, match="5 trials in a row failed, the last one because: the loss must"):
        sweep(SPACE, trials=20, good=("0000", "0003"))
    folder = SweepFolder(tmp_path / "sweep")
    states = [record.state for record in Ledger.open(folder.journal).trials()]
    assert states == ["COMPLETE", "FAIL", "FAIL", "COMPLETE", *["FAIL"] * FAILURES_IN_A_ROW]
    assert status_of_sweep(tmp_path) == "FAILED"
    later = tuple(f"{number:04d}" for number in range(9, 20))
    assert len(sweep(SPACE, trials=20, good=later).trials()) == 20
    assert status_of_sweep(tmp_path) == "FINISHED"


def test_repetitions_of_a_failed_trial_are_not_tried_and_do_not_count(sweep: Callable[..., Ledger]) -> None:
    records = sweep(TWINS, trials=9, good=("0000",)).trials()
    assert [record.duplicate_of for record in records] == [None, None, *[1] * 7]
    assert {record.state for record in records[1:]} == {"FAIL"}


def test_without_sharing_a_trials_own_store_goes_with_it(sweep: Callable[..., Ledger], tmp_path: Path) -> None:
    sweep(SPACE, trials=2, good=("0000",), share=False)
    assert (tmp_path / "sweep" / "trials" / "0001").is_dir()
    assert list((tmp_path / "sweep").rglob(STAGES_DIR)) == []


def test_a_resume_removes_what_a_finished_trial_left_and_says_so(
    sweep: Callable[..., Ledger], tmp_path: Path, session_cache: Path
) -> None:
    sweep(SPACE, trials=1, good=("0000",), share=False)
    left = tmp_path / "sweep" / "trials" / "0000" / STAGES_DIR
    left.mkdir()
    with (tmp_path / "said.txt").open("w") as said:
        resume_sweep(SweepFolder(tmp_path / "sweep"), Asked(), console=Console(file=said), ending=Ending())
    assert not left.exists()
    assert "trial 0: removed its checkpoints" in (tmp_path / "said.txt").read_text()

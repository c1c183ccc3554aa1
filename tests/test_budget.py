"""Sweeps bounded by training steps or minutes, and the cost-aware search in a whole sweep."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient
from plain_executor import stand_in
from rich.console import Console

from tuner.errors import UserError
from tuner.search.ledger import Ledger
from tuner.sweep.asked import Asked, Budget
from tuner.sweep.begin import new_sweep
from tuner.sweep.ending import Ending
from tuner.sweep.folder import SweepFolder
from tuner.sweep.resume import resume_sweep
from tuner.trials import TrialRecord

SPACE = """
question: Does a sweep end when its budget is spent?
steps: 30
trials: 3
decision_grid: 15
workload:
  data: {image_size: 32, identities: 16, images_per_identity: 6}
  model: {embedding_size: 32}
  optimizer: {batch_size: 16}
  evaluation: {pairs: 120, times: 1}
schedulers:
  - name: fastface
    parameters:
      ema_window_fraction: {low: 0.05, high: 0.2, log: true}
      threshold_fraction: {low: 1, high: 20, log: true}
      patience_fraction: {low: 0.05, high: 0.6}
"""


def record(number: int, *, steps: int, seconds: float, state: str = "COMPLETE") -> TrialRecord:
    return TrialRecord(
        number=number, state=state, value=0.5, params={}, scheduler="fastface", settings={}, base_lr=0.1,
        reference=False, key=str(number), steps_executed=steps, seconds=seconds,
    )  # fmt: skip


costs = st.lists(st.tuples(st.integers(0, 100), st.floats(0, 600)), max_size=8)


@given(costs, st.integers(1, 8), st.integers(1, 500), st.floats(0.5, 60))
def test_what_is_reached_first_ends_a_sweep_and_a_running_trial_does_not_count(
    costs: list[tuple[int, float]], trials: int, steps: int, minutes: float
) -> None:
    records = [record(number, steps=each, seconds=seconds) for number, (each, seconds) in enumerate(costs)]
    shares = {
        "trials": len(costs) / trials,
        "steps": sum(each for each, _ in costs) / steps,
        "minutes": sum(seconds for _, seconds in costs) / 60 / minutes,
    }
    running = record(99, steps=10_000, seconds=1e6, state="RUNNING")
    assert Budget(trials=trials, steps=steps, minutes=minutes).spent([*records, running]) == max(shares.values())
    assert Budget(trials=None, steps=steps).spent(records) == shares["steps"]
    assert Budget(trials=None, minutes=minutes).spent(records) == shares["minutes"]


def test_a_budget_is_said_in_full() -> None:
    assert Budget(trials=9).out_of(2) == "2 of 9 trials"
    assert Budget(trials=None, steps=1_234_567).out_of(2) == "2 trials (budget 1234567 training steps)"
    assert Budget(trials=9, minutes=0.5).out_of(2) == "2 trials (budget 9 trials or 0.5 minutes)"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, session_cache: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    stand_in(monkeypatch)
    (tmp_path / "space.yaml").write_text(SPACE)
    return tmp_path


def sweep(place: Path, **asked: object) -> Ledger:
    asked = {"space": "space.yaml", "name": "first", "tracking_uri": f"sqlite:///{place}/mlflow.db", **asked}
    with (place / "said.txt").open("a") as said:
        return new_sweep(Asked(**asked), console=Console(file=said), ending=Ending())  # type: ignore[arg-type]


def test_a_cost_aware_sweep_with_a_budget_of_steps_ends_when_it_is_spent_and_goes_on_with_a_larger_one(
    place: Path,
) -> None:
    ledger = sweep(place, budget_steps=120, cost_aware=True)
    executed = [trial.steps_executed for trial in ledger.trials()]
    assert sum(executed) >= 120 > sum(executed[:-1])
    assert len(executed) > 4  # unshared, it would have been four
    assert all(trial.shelf is not None for trial in ledger.trials() if trial.duplicate_of is None)
    folder = SweepFolder(place / "sweeps" / "first")
    params = MlflowClient(folder.read().tracking_uri).get_run(folder.read().parent_run_id).data.params
    assert params["budget"] == "120 training steps"
    assert json.loads(params["cost_aware"])
    before = ledger.trials()
    with (place / "said.txt").open("a") as said:
        with pytest.raises(UserError, match="--budget-steps >= "):
            resume_sweep(folder, Asked(budget_steps=119), console=Console(file=said), ending=Ending())
        resume_sweep(folder, Asked(budget_steps=120), console=Console(file=said), ending=Ending())
        assert ledger.trials() == before
        ledger = resume_sweep(folder, Asked(budget_steps=150), console=Console(file=said), ending=Ending())
    assert ledger.trials()[: len(before)] == before
    assert sum(trial.steps_executed for trial in ledger.trials()) >= 150


def test_what_cannot_be_asked_for_is_refused_before_anything_is_made(place: Path) -> None:
    with pytest.raises(UserError, match="--no-share"):
        sweep(place, cost_aware=True, share=False)
    with pytest.raises(UserError, match="cmaes"):
        sweep(place, cost_aware=True, sampler="cmaes")
    with pytest.raises(UserError, match="--budget-minutes"):
        sweep(place, budget_minutes=float("inf"))
    assert not (place / "sweeps").exists()


def test_what_the_store_has_to_say_is_told_also_of_a_trial_that_was_over_at_once(place: Path) -> None:
    sweep(place, trials=1)
    for path in place.glob("stages/*/stages/*/checkpoints/*"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    sweep(place, trials=1, steps=31, name="second", checkpoint_budget="0")
    said = " ".join((place / "said.txt").read_text().split())
    assert "is damaged; this checkpoint is dropped" in said
    assert "does not fit into the checkpoint budget of 0 bytes" in said

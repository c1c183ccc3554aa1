"""The simulation of `benchmarks/scale.py` counts what the runner counts, on any number of GPUs."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stages_toy import FINGERPRINT, alone, plan, plans, quick_disk, shared  # noqa: F401

from tuner.stages.store import StageStore
from tuner.stages.tree import Plan

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def _benchmarks() -> Iterator[None]:
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield
    torch.set_num_threads(threads)
    for path in BENCHMARKS.glob("*.py"):
        sys.modules.pop(path.stem, None)


def recorded(trial: Plan) -> Any:
    from scale_model import Recorded

    reports, _ = alone(trial)
    return Recorded([each.lr for each in reports], [each.loss for each in reports])


MILESTONES = [plan("multi_step", {"milestones": str(each)}) for each in (50, 10, 31, 44, 10, 23)] + [plan("constant")]


def test_one_gpu_trains_and_repeats_as_many_steps_as_the_runner(tmp_path: Path) -> None:
    from scale_model import batch, simulate

    executed = repeated = 0
    for trial in MILESTONES:
        _, counts = shared(trial, StageStore(tmp_path).shelf(FINGERPRINT))
        executed, repeated = executed + counts.executed, repeated + counts.repeated
    outcome = simulate(batch([recorded(each) for each in MILESTONES]), gpus=1, order="first come")
    assert (outcome.busy, outcome.repeated, outcome.makespan, outcome.waiting) == (executed, repeated, executed, 0)
    assert repeated > 0


@given(st.lists(plans, min_size=1, max_size=6), st.sampled_from([1, 2, 3, 8]))
@settings(max_examples=25, deadline=None)
def test_no_order_trains_a_step_twice_or_is_faster_than_can_be(chosen: list[Plan], gpus: int) -> None:
    from scale_model import ORDERS, batch, shortest, simulate

    trials = batch([recorded(each) for each in chosen])
    distinct = {stretch for trial in trials for stretch in trial.stretches}
    for order in ORDERS:
        outcome = simulate(trials, gpus=gpus, order=order)
        assert outcome.busy - outcome.repeated == sum(stop - first for _, first, stop in distinct)
        assert shortest(trials, gpus=gpus) <= outcome.makespan <= outcome.busy + outcome.waiting
        assert outcome.asked == sum(each.total_steps for each in chosen)


def test_who_follows_departs_one_step_after_the_leader_has_parted() -> None:
    from scale_model import batch, simulate

    runs = [recorded(plan("constant")), recorded(plan("multi_step", {"milestones": "31"}))]
    outcome = simulate(batch(runs), gpus=2, order="first come")
    # The nearest checkpoint is before step 30: 32 steps of waiting, one that is repeated, 29 that are new.
    assert (outcome.waiting, outcome.repeated, outcome.makespan) == (32, 1, 62)


def test_the_small_form_makes_its_runs_and_says_that_they_are_simulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import scale

    arguments = ["scale", "--trials", "6", "--steps", "80", "--gpus", "1", "4", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    scale.main()
    printed = capsys.readouterr().out
    assert "SIMULATED" in printed
    assert printed.count("| critical path |") == 2
    assert {path.name for path in tmp_path.iterdir()} == {"scale.png", "scale.json"}

"""The real workload on the stage tree: files and metrics of a trial are the same with sharing as without."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from stages_toy import quick_disk  # noqa: F401

from tuner.config.run import FaceConfig, RunConfig
from tuner.names import CURVE_FILE, EVALUATIONS_FILE
from tuner.stages.shelf import StepCounts
from tuner.stages.store import StageStore
from tuner.stages.trial import TrialProgress, plan_of, run_trial
from tuner.training.fingerprint import fingerprint, software

CPU = torch.device("cpu")
STEPS = 12
WORKLOAD: dict[str, dict[str, Any]] = {
    "data": {"image_size": 32, "identities": 8, "images_per_identity": 4},
    "model": {"embedding_size": 8},
    "optimizer": {"batch_size": 4},
    "evaluation": {"pairs": 20, "far": 0.1, "times": 2},
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def config(milestones: str, **changes: Any) -> RunConfig:
    scheduler = {"name": "multi_step", "settings": {"milestones": milestones}}
    return RunConfig.model_validate({"workload": WORKLOAD, "total_steps": STEPS, "scheduler": scheduler, **changes})


def finish(
    run: RunConfig, folder: Path, store: StageStore | None, *, stop: int | None = None, label: str | None = None
) -> TrialProgress:
    """Run a trial to its end, or until `stop` steps; return its last progress."""
    folder.mkdir(parents=True, exist_ok=True)
    events = run_trial(run, folder, device=CPU, store=store, label=label or folder.name)
    for progress in events:
        if progress.steps == stop:
            break
    events.close()
    return progress


def test_files_and_metrics_are_the_same_with_sharing_as_without(tmp_path: Path) -> None:
    store = StageStore(tmp_path / "store")
    finish(config("9"), tmp_path / "first", store)
    finish(config("9"), tmp_path / "broken off", StageStore(tmp_path / "store"), stop=8)
    for delay in (0, 1):
        for milestones, counts in (("9", (0, 0, 12)), ("7", (5, 0, 7)), ("3,7", (9, 0, 3)), ("7,8", (4, 0, 8))):
            run = config(milestones, loss_delay=delay)
            there, alone = tmp_path / f"{delay} {milestones}", tmp_path / f"alone {delay} {milestones}"
            last = finish(run, there, StageStore(tmp_path / "store"))
            expected = finish(run, alone, None)
            assert (last.metrics, last.finished) == (expected.metrics, True)
            for name in (CURVE_FILE, EVALUATIONS_FILE):
                assert (there / name).read_bytes() == (alone / name).read_bytes()
            executed = (last.counts.executed, last.counts.repeated, last.counts.shared)
            assert executed == (counts if delay == 0 else (0, 0, STEPS))


def test_a_trial_broken_off_goes_on_where_it_was(tmp_path: Path) -> None:
    finish(config("4"), tmp_path / "a", StageStore(tmp_path / "store"), stop=5)
    last = finish(config("4"), tmp_path / "again", StageStore(tmp_path / "store"), label="a")
    other = finish(config("4,8"), tmp_path / "other", StageStore(tmp_path / "store"))
    finish(config("4"), tmp_path / "alone", None)
    assert last.counts == StepCounts(executed=STEPS - 5, resumed=5)
    assert (last.shared_with, other.shared_with) == ({}, {"a": 8})
    assert (tmp_path / "again" / CURVE_FILE).read_bytes() == (tmp_path / "alone" / CURVE_FILE).read_bytes()
    assert last.shelf is not None
    assert StageStore(tmp_path / "store").tree(last.shelf).walk(plan_of(config("4,10"))).stop == 10


def test_the_fingerprint_tells_apart_what_changes_numbers_and_nothing_else() -> None:
    def mark(seed: int = 0, train: str = "a", **changes: dict[str, Any]) -> str:
        workload = {name: {**value, **changes.get(name, {})} for name, value in WORKLOAD.items()}
        parsed = FaceConfig.model_validate(workload)
        return json.dumps(fingerprint(parsed, seed=seed, train=train, verification="b", device=CPU))

    same: list[dict[str, Any]] = [{"evaluation": {"times": 7}}, {"data": {"source": "elsewhere", "max_images": 90}}]
    other: list[dict[str, Any]] = [
        {"evaluation": {"pairs": 40}},
        {"optimizer": {"base_lr": 0.0123}},
        {"data": {"image_size": 48}},
    ]
    assert {mark(**changes) for changes in same} == {mark()}
    assert len({mark(), mark(seed=1), mark(train="c"), *(mark(**changes) for changes in other)}) == 6


@pytest.mark.parametrize(("name", "value"), [("ONEDNN_MAX_CPU_ISA", "AVX2"), ("MKL_CBWR", "COMPATIBLE")])
def test_the_environment_that_chooses_other_kernels_counts(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.delenv(name, raising=False)
    before = software(CPU)
    monkeypatch.setenv(name, value)
    assert software(CPU) == {**before, "environment": {name: value}}

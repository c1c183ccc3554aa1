"""What a store says of itself, and how it is made smaller without harm."""

import os
import time
from pathlib import Path

import pytest
from stages_toy import FINGERPRINT, Toy, alone, decaying, plan, quick_disk, shared  # noqa: F401

from tuner.errors import UserError
from tuner.stages.runner import SharedRun
from tuner.stages.shelf import StepCounts
from tuner.stages.store import StageStore, shelf_key
from tuner.stages.upkeep import prune, summaries

OTHER = {"workload": "toy", "seed": 1}


@pytest.fixture
def store(tmp_path: Path) -> StageStore:
    """Return a store with two shelves: three trials on the first, one on the other, which was used long ago."""
    store = StageStore(tmp_path / "stages")
    for trial in (plan("constant"), plan("multi_step", {"milestones": "30"}), plan("constant")):
        shared(trial, store.shelf(FINGERPRINT), (60,), checkpoint_every=20)
    shared(decaying(), store.shelf(OTHER), checkpoint_every=20)
    for path in (store.root / shelf_key(OTHER)).rglob("*"):
        os.utime(path, (time.time() - 10 * 86400,) * 2)
    return StageStore(tmp_path / "stages")


def test_the_summary_counts_what_is_there_and_what_was_saved(store: StageStore) -> None:
    first, other = summaries(store)
    assert (first.key, first.fingerprint) == (shelf_key(FINGERPRINT), FINGERPRINT)
    assert (first.stages, first.steps, first.running) == (2, 90, 0)
    assert first.counts == StepCounts(executed=100, repeated=10, shared=90)
    assert first.checkpoints == len(list(store.root.glob(f"{first.key}/stages/*/checkpoints/*")))
    assert first.checkpoint_bytes == sum(path.stat().st_size for path in store.root.glob(f"{first.key}/**/*.pt"))
    assert first.num_bytes > first.checkpoint_bytes
    assert (other.stages, other.fingerprint) == (1, OTHER)
    assert abs(other.last_used - time.time() + 10 * 86400) < 60


def test_an_empty_store_has_nothing_to_tell_and_nothing_to_prune(tmp_path: Path) -> None:
    assert summaries(StageStore(tmp_path / "none")) == []
    report = prune(StageStore(tmp_path / "none"), unused_seconds=0, checkpoint_bytes=0)
    assert (report.shelves, report.checkpoints, report.num_bytes) == ((), 0, 0)


def test_a_shelf_is_removed_by_the_first_letters_of_its_key(store: StageStore) -> None:
    expected = summaries(store)[1].num_bytes
    planned = prune(store, shelves=[shelf_key(OTHER)[:8]], dry_run=True)
    assert len(summaries(store)) == 2
    assert prune(store, shelves=[shelf_key(OTHER)[:8]]) == planned
    assert (planned.shelves, planned.num_bytes) == ((shelf_key(OTHER),), expected)
    assert [summary.key for summary in summaries(store)] == [shelf_key(FINGERPRINT)]


@pytest.mark.parametrize("key", ["", "../..", "nothing"])
def test_a_key_that_fits_no_shelf_or_two_is_an_error_that_names_those_there_are(store: StageStore, key: str) -> None:
    with pytest.raises(UserError, match=shelf_key(OTHER)[:8]):
        prune(store, shelves=[key])
    assert len(summaries(store)) == 2


def test_shelves_go_by_age(store: StageStore) -> None:
    assert prune(store, unused_seconds=11 * 86400).shelves == ()
    assert prune(store, unused_seconds=9 * 86400).shelves == (shelf_key(OTHER),)


def test_checkpoints_go_by_size_and_trials_are_trained_from_earlier_ones(store: StageStore) -> None:
    before = sum(summary.checkpoint_bytes for summary in summaries(store))
    report = prune(store, checkpoint_bytes=before // 3)
    after = sum(summary.checkpoint_bytes for summary in summaries(store))
    assert after <= before // 3
    assert (report.shelves, report.num_bytes) == ((), before - after)
    for trial in (plan("multi_step", {"milestones": "45"}), plan("constant")):
        assert shared(trial, store.shelf(FINGERPRINT), (60,))[0] == alone(trial, (60,))


def test_a_shelf_with_a_running_trial_stays(store: StageStore) -> None:
    events = SharedRun(decaying(9), build=Toy, shelf=store.shelf(OTHER)).events()
    for _ in range(40):
        next(events)
    report = prune(StageStore(store.root), shelves=[shelf_key(OTHER)], unused_seconds=0)
    assert (report.shelves, report.skipped) == ((shelf_key(FINGERPRINT),), (shelf_key(OTHER),))
    events.close()
    assert prune(StageStore(store.root), shelves=[shelf_key(OTHER)]).shelves == (shelf_key(OTHER),)


def test_what_no_trial_can_use_is_swept_up(store: StageStore) -> None:
    folder = store.root / shelf_key(FINGERPRINT) / "stages"
    root, branch = sorted(folder.iterdir())
    (root / "stage.json").unlink()
    (folder / "unfinished").mkdir()
    leftover = store.root / ".removed-0"
    leftover.mkdir()
    for path in folder.iterdir():
        os.utime(path, (time.time() - 60,) * 2)
    prune(StageStore(store.root))
    assert not any(path.exists() for path in (root, branch, folder / "unfinished", leftover))
    assert shared(plan("constant"), store.shelf(FINGERPRINT))[0] == alone(plan("constant"))

"""The benchmarks of the stage tree: what they count and time on made-up runs, and their small forms."""

import json
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    for path in BENCHMARKS.glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_the_pace_is_that_of_most_runs_and_a_busy_hour_does_not_move_it() -> None:
    from stage_tree import Pace

    costs = [{"steps_executed": steps, "seconds": 0.5 + 0.03 * steps} for steps in range(0, 300, 15)]
    pace = Pace.of(costs)
    assert (pace.step, pace.besides, pace.explained) == pytest.approx((0.03, 0.5, 1.0))
    busy = Pace.of([*costs, {"steps_executed": 300, "seconds": 100.0}, {"steps_executed": 15, "seconds": 40.0}])
    assert (busy.step, busy.besides) == pytest.approx((0.03, 0.5), rel=0.05)
    assert busy.explained < 0.6
    alike = Pace.of([{"steps_executed": 40, "seconds": 2.0}] * 3)
    assert (alike.step, alike.besides) == pytest.approx((0.05, 0.0))


def test_a_search_takes_its_asking_and_what_it_trains_and_repeats_cost_only_where_nothing_is_shared() -> None:
    from stage_tree import Pace, Search

    pace = Pace(step=0.1, besides=2.0, runs=9, explained=1.0)
    search = Search(
        values=[0.5, 0.5, 0.7], executed=[100, 100, 140], asked=[100, 200, 300], trained=[1, 1, 2], asking=[1, 2, 3]
    )
    assert search.wall(pace, shared=True) == pytest.approx([1 + 10 + 2, 2 + 10 + 2, 3 + 14 + 4])
    assert search.wall(pace, shared=False) == pytest.approx([1 + 10 + 2, 2 + 20 + 4, 3 + 30 + 6])
    assert search.wall_until(0.6, pace, shared=True) == pytest.approx(21)
    assert search.wall_until(0.8, pace, shared=True) == float("inf")


def test_each_second_counts_once_and_other_threads_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    import tree_overhead

    now = 0.0

    def spend(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(tree_overhead, "time", SimpleNamespace(perf_counter=lambda: now, thread_time=lambda: now))
    watch = tree_overhead.Stopwatch()
    inner = watch.timed("inner", lambda: spend(2))
    outer = watch.timed("outer", lambda: [inner(), spend(1), inner()])
    outer()
    outer()
    assert watch.seconds == {"inner": 8, "outer": 2}
    thread = threading.Thread(target=outer)
    thread.start()
    thread.join()
    assert watch.seconds == {"inner": 8, "outer": 2, tree_overhead.BACKGROUND: 5}


def test_steps_trained_again_are_the_trees_cost(capsys: pytest.CaptureFixture[str]) -> None:
    import tree_overhead

    seconds = Counter({tree_overhead.TRAINING: 10.0, tree_overhead.SEARCH: 0.5, "replay": 0.3})
    tree_overhead.tell(seconds, Counter({"steps trained": 100, "of them trained again": 4}))
    out = capsys.readouterr().out
    assert "training: 9.60 s" in out
    assert f"the tree: 0.70 s, {0.7 / 9.6:.2%} of training" in out


def test_the_small_form_is_drawn_again_from_what_is_there(
    tmp_path: Path, session_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import laboratory
    import stage_tree

    small = ["--space", "smoke", "--steps", "20", "--trials", "3", "--seeds", "1", "--out", str(tmp_path)]
    stage_tree.main([*small, "--part", "plain"])
    stage_tree.main([*small, "--checked", "1"])
    assert "1 of 1 equal bit for bit" in capsys.readouterr().out
    first = json.loads((tmp_path / "stage_tree.json").read_text())
    (tmp_path / "stage_tree.png").unlink()
    monkeypatch.setattr(laboratory, "run_trial", None)  # nothing is trained again
    stage_tree.main([*small, "--checked", "0"])
    again = json.loads((tmp_path / "stage_tree.json").read_text())
    assert (tmp_path / "stage_tree.png").exists()
    assert again["pace"] == first["pace"]
    for name in ("plain", "cost_aware"):
        one, other = first[name]["0"], again[name]["0"]
        assert all(one[key] == other[key] for key in ("values", "executed", "asked", "trained"))
        assert one["executed"][-1] <= one["asked"][-1] == 20 * len(one["values"])
        assert one["wall_shared"] == sorted(one["wall_shared"])
        assert one["wall_shared"][-1] <= one["wall_unshared"][-1]

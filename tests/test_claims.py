"""The benchmarks of the claim: rule and statistics on made-up values, and the small forms, broken off and ended."""

import json
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
FULL = ("a", "b", "c")
COMPRESSED = ("d", "e", "f")
NOISE = np.random.default_rng(5).normal(0, 0.002, (8, 10))


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    for path in BENCHMARKS.glob("*.py"):
        sys.modules.pop(path.stem, None)


def verdict(mine: float, full: float, compressed: float, *, failed: int = 0, noise: float = 1.0) -> Any:
    from quarter_rule import judge

    means = {"x": mine, "y": 0.8, **dict.fromkeys(FULL, full), **dict.fromkeys(COMPRESSED, compressed)}
    values = {
        name: [float(each) for each in mean + noise * row]
        for (name, mean), row in zip(means.items(), NOISE, strict=True)
    }
    values["a"] = [value - 0.02 for value in values["a"]]  # one opponent is weaker, which must not help
    values["x"] = [None if seed < failed else value for seed, value in enumerate(values["x"])]
    found, other = judge(values, candidates=["x", "y"], full=FULL, compressed=COMPRESSED)
    assert (found.candidate, other.candidate) == ("x", "y")
    return found.promise, found.comparison, found.goal


def test_the_rule_knows_a_kept_promise_a_broken_one_and_one_that_is_open() -> None:
    assert verdict(0.85, 0.85, 0.82) == ("kept", "better", "reached")
    assert verdict(0.85, 0.853, 0.85) == ("kept", "as good", "reached")
    assert verdict(0.85, 0.87, 0.85) == ("broken", "as good", "missed")
    assert verdict(0.85, 0.85, 0.86) == ("kept", "worse", "missed")
    # 1 % of 0.857 lies inside the interval, and so does no difference at all
    assert verdict(0.85, 0.8585, 0.85, noise=2.0)[0] == "open"
    assert verdict(0.85, 0.85, 0.85, noise=20.0) == ("open", "open", "open")


def test_a_run_that_fails_counts_as_a_coin_and_never_helps() -> None:
    assert verdict(0.95, 0.85, 0.85) == ("kept", "better", "reached")
    assert verdict(0.95, 0.85, 0.85, failed=1)[2] != "reached"
    assert verdict(0.95, 0.85, 0.85, failed=9)[2] == "missed"


def test_one_seed_or_values_without_spread_decide_nothing() -> None:
    from quarter_rule import judge

    values = {name: [0.9] for name in ("x", *FULL, *COMPRESSED)}
    (found,) = judge(values, candidates=["x"], full=FULL, compressed=COMPRESSED)
    assert (found.promise, found.comparison, found.goal) == ("open", "open", "open")


def test_early_values_in_the_same_order_cost_nothing_and_reversed_ones_the_most() -> None:
    from horizons_statistics import judged

    late = [[0.6, 0.7, 0.8], [0.61, 0.71, 0.81]]
    same, reversed_ = judged([[0.1, 0.2, 0.3]] * 2, late), judged([[0.3, 0.2, 0.1]] * 2, late)
    assert same.rank == same.one_seed == 1.0
    assert same.regret == 0.0
    assert reversed_.rank == -1.0
    assert reversed_.regrets == pytest.approx((0.2, 0.2))


def test_settings_that_tie_count_by_their_mean_and_tell_no_order() -> None:
    from horizons_statistics import judged

    found = judged([[0.5, 0.5, 0.5]] * 2, [[0.6, 0.7, 0.8], [0.6, 0.7, 0.8]])
    assert found.rank is found.low is found.one_seed is None
    assert found.regret == pytest.approx(0.1)
    assert found.tied == 3


def test_a_choice_is_judged_by_other_seeds_than_its_own() -> None:
    from horizons_statistics import judged

    late = [[0.9, 0.6], [0.6, 0.8]]  # each seed has a favourite of its own
    assert judged(late, late).regrets == pytest.approx((0.2, 0.3))


def test_of_five_that_are_carried_on_the_best_counts() -> None:
    from horizons_statistics import judged

    late = [[0.5, 0.6, 0.7, 0.8, 0.9, 1.0]] * 2
    assert judged([[6.0, 5.0, 4.0, 3.0, 2.0, 1.0]] * 2, late).carried == pytest.approx(0.1)
    assert judged([[1.0, 2.0, 3.0, 4.0, 6.0, 5.0]] * 2, late).carried == 0.0


def test_a_blind_choice_costs_the_mean_and_less_the_more_are_drawn() -> None:
    from horizons_statistics import blind_regret

    values = np.array([0.1, 0.4, 0.3])
    assert blind_regret(values, number=1) == pytest.approx(0.4 - np.mean(values))
    assert blind_regret(values, number=2) == pytest.approx(0.1 / 3)  # only 0.1 and 0.3 miss the best
    assert blind_regret(values, number=3) == pytest.approx(0.0)


def test_halving_drops_what_is_worse_early() -> None:
    from horizons_statistics import halving_regret

    late = [[0.5, 0.6, 0.7, 0.8]] * 2
    assert halving_regret([[[4.0, 3.0, 2.0, 1.0]] * 2], late) == pytest.approx(0.3)
    assert halving_regret([[[1.0, 2.0, 3.0, 4.0]] * 2], late) == 0.0


def test_values_along_a_range_keep_its_ends_and_whole_numbers() -> None:
    from sensitivity_statistics import levels

    from tuner.config.space_model import Domain
    from tuner.search.space import Parameter

    assert levels(Parameter("x", "x", Domain(low=0.01, high=1.0, log=True), whole=False), 3) == pytest.approx(
        [0.01, 0.1, 1.0]
    )
    assert levels(Parameter("x", "x", Domain(low=1, high=3), whole=True), 5) == [1, 2, 3]
    assert levels(Parameter("x", "x", Domain(choices=(2, 10)), whole=False), 5) == [2, 10]


def test_the_flat_region_ends_where_the_loss_of_accuracy_begins() -> None:
    from sensitivity_statistics import flat_region, points

    losses = {1.0: -0.05, 2.0: 0.0, 3.0: -0.002, 4.0: -0.02, 5.0: 0.001}
    varied = [
        [
            {"varied": "", "level": None, "value": 0.8 + shift},
            *({"varied": "x", "level": level, "value": 0.8 + loss + shift * 1.01} for level, loss in losses.items()),
        ]
        for shift in (0.0, 0.01, -0.01)
    ]
    row = points(varied, centre={"x": 2.5})["x"]
    assert [point.level for point in row] == [1.0, 2.0, 2.5, 3.0, 4.0, 5.0]
    assert row[0].difference == pytest.approx(-0.05)
    assert row[0].low is not None
    assert row[0].high is not None
    assert row[0].low < -0.05 < row[0].high
    assert flat_region(row, 2.5) == (2.0, 3.0)  # 5.0 is as good, but 4.0 lies between


def test_what_decides_the_value_is_found_to_be_important() -> None:
    from sensitivity_statistics import importances

    from tuner.config.space_model import Domain
    from tuner.search.space import Parameter

    generator = np.random.default_rng(0)
    drawn = [{"params": {"x": float(x), "y": float(y)}, "value": float(x)} for x, y in generator.uniform(0, 1, (60, 2))]
    entries = [Parameter(name, name, Domain(low=0.0, high=1.0), whole=False) for name in ("x", "y")]
    shares = importances(entries, [*drawn, {"params": {"x": 0.5, "y": 0.5}, "value": None}])
    assert shares["x"] > 0.8
    assert sum(shares.values()) == pytest.approx(1.0)


class Interrupted:
    """Counts the steps that are trained for each run, and breaks off after a number of them, once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, after: int) -> None:
        import laboratory

        self.begun = Counter[str]()
        self.steps, self._after, self._train = 0, after, laboratory.run_trial
        monkeypatch.setattr(laboratory, "run_trial", self.run_trial)

    def run_trial(self, *arguments: Any, label: str, **named: Any) -> Any:
        self.begun[label] += 1
        known = 0
        for progress in self._train(*arguments, label=label, **named):
            self.steps += progress.counts.executed - known
            known = progress.counts.executed
            if self._after and self.steps >= self._after and progress.steps > 2:
                self._after = 0
                raise KeyboardInterrupt
            yield progress


def goes_on_where_it_was(
    main: Callable[[list[str]], None], out: Path, arguments: list[str], trained: Interrupted
) -> dict[str, Any]:
    """Break a small form off, go on with it to its end, and return its results."""
    command = ["--out", str(out), "--small", *arguments]
    with pytest.raises(KeyboardInterrupt):
        main(command)
    # or it would go on beside the next one, and each would delete what it takes for doubles
    assert "curve-mirror" not in [thread.name for thread in threading.enumerate()]
    main(command)
    assert sorted(trained.begun.values())[-2:] == [1, 2]  # but for the one broken off, no run was begun twice
    assert len(trained.begun) == len(list((out / "runs").iterdir()))
    (result,) = [path for path in out.glob("*.json") if path.name != "mlflow.json"]
    found, steps = json.loads(result.read_text()), trained.steps
    assert found["sharing"]["executed"] <= steps < 1.2 * found["sharing"]["executed"] + 20
    return dict(found)


def test_a_quarter_budget_goes_on_where_it_was(
    tmp_path: Path,
    mlflow_store: Callable[[Path], str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import quarter_budget
    from quarter_rule import judge

    mlflow_store(tmp_path)
    trained = Interrupted(monkeypatch, after=160)
    smaller = ["--steps", "24", "--trials", "2", "--seeds", "1"]
    found = goes_on_where_it_was(quarter_budget.main, tmp_path, smaller, trained)
    said = capsys.readouterr().out
    assert "h left]" in said
    assert "promise open" in said
    values = found["synthetic"]["values"]
    assert len(values) == 11  # three schedules at both lengths, three detectors tuned, two of them as published
    assert all(len(rows) == 1 and rows[0]["accuracy"] is not None for rows in values.values())
    accuracy = {method: [row["accuracy"] for row in rows] for method, rows in values.items()}
    verdicts = judge(
        accuracy,
        candidates=["fastface at T/4", "haar at T/4", "fastface_cooldown at T/4"],
        full=["multi_step at T", "cosine at T", "polynomial at T"],
        compressed=["multi_step at T/4", "cosine at T/4", "polynomial at T/4"],
    )
    assert [each["goal"] for each in found["synthetic"]["verdicts"]] == [each.goal for each in verdicts]
    searches = found["searches"]
    assert searches["synthetic search cosine at T"]["trials"] == 2  # both base LRs, the reference's counted once
    assert searches["synthetic search fastface at T/4"]["trials"] == 2
    reached = found["synthetic"]["steps_to_the_loss_of"]
    assert 0 < reached["steps"][reached["method"]][0] <= 24  # a run has its own final loss at its end, if not before
    assert (tmp_path / "quarter_budget_synthetic.png").exists()


def test_horizons_go_on_where_they_were(
    tmp_path: Path, mlflow_store: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import horizons

    mlflow_store(tmp_path)
    trained = Interrupted(monkeypatch, after=45)
    found = goes_on_where_it_was(horizons.main, tmp_path, ["--steps", "32", "--settings", "2"], trained)
    assert np.array(found["values"]["T"]).shape == (2, 2)
    assert {"T/4 scale-free", "T/4 unscaled", "T cut at T/16"} < {*found["judged"]}
    assert (tmp_path / "horizons.png").exists()


def test_unscaled_settings_are_the_same_at_their_own_length_and_keep_their_constants() -> None:
    from horizons import unscaled

    from tuner.schedulers.registry import defaults, resolve

    settings = {**defaults("fastface"), "decision_every_fraction": 1 / 30}
    written = unscaled(settings, steps=600, first_loss=20.0)
    assert {"ema_window", "haar_window", "threshold", "patience_fraction"} < {*written}
    one, other = (resolve("fastface", each, total_steps=600).params for each in (settings, written))
    assert one.rule == other.rule
    assert (one.a, one.b) == pytest.approx((other.a, other.b))
    assert one.threshold_scale * 20.0 == pytest.approx(other.threshold_offset)
    shorter = resolve("fastface", written, total_steps=150).params
    assert (shorter.a, shorter.threshold_offset) == (other.a, other.threshold_offset)


def test_a_sensitivity_goes_on_where_it_was(
    tmp_path: Path, mlflow_store: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sensitivity

    mlflow_store(tmp_path)
    smaller = ["--steps", "8", "--settings", "4", "--trials", "2", "--also", "max_decays=1,8"]
    trained = Interrupted(monkeypatch, after=45)
    found = goes_on_where_it_was(sensitivity.main, tmp_path, smaller, trained)
    steps = trained.steps
    sensitivity.main(["--out", str(tmp_path), "--small", *smaller])  # a third time there is nothing left to train
    assert trained.steps == steps
    assert {**json.loads((tmp_path / "sensitivity.json").read_text()), "about": found["about"]} == found
    assert set(found["points"]) == {*found["importances"], "max_decays"}
    seen = [*found["best"]["values"], *(each["value"] for each in found["random"])]
    assert found["best"]["value"] == max(value for value in seen if value is not None)
    assert (tmp_path / "sensitivity.png").exists()


def test_a_plan_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import quarter_budget

    quarter_budget.main(["--out", str(tmp_path / "out"), "--plan"])
    assert "29 units, 152,000 steps asked for" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()

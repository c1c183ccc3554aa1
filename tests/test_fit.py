"""The fit finds settings again from nothing but the LR column, and says honestly where it cannot."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tuner.analysis.fit import fit
from tuner.analysis.loss_csv import read_loss_csv
from tuner.analysis.loss_log import LossLog, lr_column, make_log
from tuner.analysis.lr_rule import read_lr_rule
from tuner.analysis.replay import Agreement, compare, replay
from tuner.cli.main import app
from tuner.errors import UserError
from tuner.names import Setting
from tuner.schedulers.registry import resolve

PUBLISHED = Path(__file__).parents[1].parent / "shared" / "data" / "loss_logs" / "webface4m_r100.csv"


def staircase(num_steps: int, *, seed: int) -> list[float]:
    """Return a noisy loss that falls in four epochs, with a plateau at the end of each."""
    steps = np.arange(num_steps)
    epoch = num_steps // 4
    fall = 6 * np.exp(-(steps % epoch) / (epoch / 5)) * 0.5 ** (steps // epoch) + 12 * 0.5 ** (steps // epoch) + 2
    return [float(loss) for loss in fall + np.random.default_rng(seed).normal(0, 0.15, num_steps)]


def recorded(
    name: str, settings: dict[str, Setting], *, base_lr: float, num_steps: int, every: int, form: str, seed: int = 0
) -> LossLog:
    """Return the log that a run with these settings would have left, one row for `every` steps."""
    losses = staircase(num_steps, seed=seed)
    truth = make_log("truth", steps=range(1, num_steps + 1), losses=losses, lr=None)
    lrs = np.full(num_steps, base_lr)
    for change in replay(resolve(name, settings, total_steps=num_steps), truth, base_lr=base_lr, delay=1).changes:
        lrs[change.step - 1 :] = change.after
    rows = range(every, num_steps + 1, every)
    means = [float(np.mean(losses[row - every : row])) for row in rows]
    column = lr_column(format(float(lrs[row - 1]), form) if form else repr(float(lrs[row - 1])) for row in rows)
    return make_log("made-up log", steps=rows, losses=means, lr=column)


def agreement_of(name: str, log: LossLog, **fixed: Setting) -> Agreement:
    found = fit(name, log, fixed=fixed, delay=1)
    schedule = resolve(name, found.settings, total_steps=log.num_steps)
    agreement = compare(log, replay(schedule, log, base_lr=found.base_lr, delay=1))
    assert agreement is not None
    return agreement


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published log is not in ../shared")
def test_the_published_log_is_fitted_from_its_lrs_alone() -> None:
    result = CliRunner().invoke(app, ["replay", str(PUBLISHED), "--scheduler", "haar", "--fit", "--json"])
    assert result.exit_code == 0
    data = json.loads(result.stdout)
    published = read_loss_csv(PUBLISHED).recorded_changes()
    assert len(data["changes"]) == 18
    for found, recorded_change in zip(data["changes"], published, strict=True):
        assert abs(found["step"] - recorded_change.step) <= 100
        assert round(found["to"], 6) == recorded_change.after
    assert (data["base_lr"], data["settings"]["decay_factor"], data["settings"]["rebound"]) == (0.02, 2, 4)
    assert data["settings"]["haar_window"] == pytest.approx(2481, rel=0.03)
    assert data["settings"]["threshold"] == pytest.approx(0.0615, rel=0.03)
    # What was found is a whole setting: replayed as such it gives the same changes.
    words = [word for name, value in data["settings"].items() for word in ("--set", f"{name}={value}")]
    again = CliRunner().invoke(app, ["replay", str(PUBLISHED), "--scheduler", "haar", *words, "--json"])
    assert json.loads(again.stdout)["changes"] == data["changes"]


@pytest.mark.parametrize(
    ("name", "settings", "base_lr", "form"),
    [
        ("haar", {"haar_window": 45, "patience": 65, "rebound": 4, "rebound_after": 3}, 0.02, ".6f"),
        ("haar", {"haar_window": 30, "patience": 90, "rebound": 0, "decay_factor": 10, "max_decays": 3}, 0.1, ".3e"),
        ("haar", {"haar_window": 60, "patience": 100, "rebound": 0, "decay_factor": 1.7, "warmup": 100}, 0.3, ""),
        ("fastface", {"ema_window": 20, "haar_window": 45, "patience": 75, "decay_factor": 3}, 0.05, ".6f"),
    ],
)
def test_settings_are_found_again(name: str, settings: dict[str, Setting], base_lr: float, form: str) -> None:
    every = 10 if name == "haar" else 1  # the noise of single steps, which an EMA hears, must be in the log
    log = recorded(name, settings, base_lr=base_lr, num_steps=3000, every=every, form=form)
    agreement = agreement_of(name, log)
    assert agreement.num_recorded >= 3
    warmup_rows = [one for one, _ in agreement.pairs if one and one.after > one.before and one.step <= 100]
    assert len(agreement.offsets) >= agreement.num_recorded - len(warmup_rows)
    assert agreement.max_offset is not None
    assert agreement.max_offset <= 60


def test_fixed_settings_stay() -> None:
    log = recorded(
        "haar", {"haar_window": 90, "patience": 130, "rebound": 0}, base_lr=0.1, num_steps=4000, every=1, form=""
    )
    found = fit("haar", log, fixed={"patience_fraction": 130 / 4000, "haar_window": 90}, delay=1)
    assert found.settings["patience_fraction"] == 130 / 4000
    assert found.settings["haar_window"] == 90
    assert "patience" not in found.settings
    schedule = resolve("haar", found.settings, total_steps=log.num_steps)
    agreement = compare(log, replay(schedule, log, base_lr=found.base_lr, delay=1))
    assert agreement is not None
    assert agreement.complete
    assert agreement.max_offset == 0


def test_the_same_log_gives_the_same_fit() -> None:
    log = recorded("haar", {"haar_window": 50, "patience": 90}, base_lr=0.1, num_steps=2000, every=5, form=".6f")
    shares: list[float] = []
    first = fit("haar", log, delay=1, progress=shares.append)
    assert fit("haar", log, delay=1) == first
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def lr_log(lrs: list[str]) -> LossLog:
    return make_log("log", steps=range(1, len(lrs) + 1), losses=[1.0] * len(lrs), lr=lr_column(lrs))


def test_rounded_lrs_tell_the_factors() -> None:
    halved = read_lr_rule(lr_log(["0.02", "0.01", "0.005", "0.0025", "0.00125", "0.000625", "0.000313", "0.000156"]))
    assert (halved.base_lr, halved.decay_factor, halved.rebound, halved.num_decays) == (0.02, 2, 0, 7)
    rebound = read_lr_rule(lr_log(["0.02", "0.01", "0.005", "0.02", "0.01", "0.005", "0.0025", "0.01"]))
    assert (rebound.decay_factor, rebound.rebound) == (2, 4)
    digits = [f"{0.0123 / 2.718**i:.3e}" for i in range(30)]
    assert read_lr_rule(lr_log(digits)).decay_factor == 2.718
    gamma = read_lr_rule(lr_log([repr(0.1 * 0.3**i) for i in range(6)]))
    assert gamma.decay_factor == pytest.approx(1 / 0.3, rel=1e-12)
    floored = read_lr_rule(lr_log(["0.1", "0.01", "0.001", "0.0004"]))
    assert (floored.decay_factor, floored.floor) == (10, pytest.approx(0.004))


def test_streaks_tell_patience_and_when_the_rebound_comes() -> None:
    lrs = ["0.08"] * 40 + ["0.04"] * 30 + ["0.02"] * 11 + ["0.01"] * 11 + ["0.02"] * 50
    rule = read_lr_rule(lr_log(lrs))
    assert (rule.patience, rule.rebound_after, rule.rebound) == (10, 3, 2)


def test_a_warm_up_is_no_change_of_the_rule() -> None:
    lrs = [repr(0.4 * (step + 1) / 20) for step in range(20)] + ["0.4"] * 30 + ["0.2"] * 30
    rule = read_lr_rule(lr_log(lrs))
    assert (rule.base_lr, rule.warmup, rule.num_decays, len(rule.changes)) == (0.4, 20, 1, 1)


@pytest.mark.parametrize(
    ("lrs", "problem"),
    [
        (["0.1"] * 5, "this one never does"),
        ([repr(0.1 * (1 - i / 20)) for i in range(15)], "another kind of schedule"),
    ],
)
def test_a_log_that_no_rule_makes_is_refused(lrs: list[str], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        fit("haar", lr_log(lrs), delay=1)


def test_a_fit_needs_a_detector_and_recorded_lrs() -> None:
    with pytest.raises(UserError, match="a fit needs a detector, haar or fastface"):
        fit("cosine", lr_log(["0.2", "0.1"]), delay=1)
    with pytest.raises(UserError, match="no column `lr`"):
        fit("haar", make_log("log", steps=[1], losses=[1.0], lr=None), delay=1)


def test_a_poor_fit_is_reported_as_one(tmp_path: Path) -> None:
    """On a loss that falls smoothly nothing tells the steps of these changes from others."""
    path = tmp_path / "c.csv"
    lrs = [0.1] * 100 + [0.05] * 7 + [0.025] * 200 + [0.0125] * 3 + [0.00625] * 90
    path.write_text("step,loss,lr\n" + "".join(f"{i},{1000 / (1 + i)},{lr}\n" for i, lr in enumerate(lrs)))
    result = CliRunner().invoke(app, ["replay", str(path), "--scheduler", "haar", "--fit"])
    assert result.exit_code == 0
    assert "0 of 4 recorded LR changes replayed" in result.stdout
    assert "the closest that was found: --set" in result.stdout

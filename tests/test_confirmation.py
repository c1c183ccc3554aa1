"""The statistics of a confirmation, on simulated sweeps whose truth is known."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from scipy import stats

from tuner.analysis.confirmation import Findings, Interval, confirm

SIMULATIONS = 800
NOISE = 0.01
Truth = np.ndarray


@dataclass(frozen=True)
class Simulated:
    """One sweep: the true values (row 0 is the published setting), and what its confirmation found."""

    truth: Truth
    found: Findings


def simulate(
    truth: Callable[[np.random.Generator], Truth], *, seeds: int, searched: int | None = None, number: int = SIMULATIONS
) -> list[Simulated]:
    """Confirm the best K of many sweeps, or all settings where none was `searched` for.

    Values have a part that all settings share under a seed, and one that neighbours share, as settings do that differ
    late only; the search itself runs under one seed, common to all.
    """
    rng, found = np.random.default_rng(20), []
    for _ in range(number):
        true = truth(rng)
        order, before = np.arange(1, len(true)), np.full(len(true), np.nan)
        if searched is not None:
            before = values(rng, true, seeds=1)[:, 0]
            order = order[np.argsort(-before[1:])][:searched]
        rows = np.concatenate([[0], order])
        seen = [None if math.isnan(each) else float(each) for each in before[rows]]
        confirmed = confirm(
            values(rng, true[rows], seeds=seeds), published=0, chosen=range(1, len(rows)), searched=seen, maximize=True
        )
        found.append(Simulated(true[rows], confirmed))
    return found


def values(rng: np.random.Generator, true: Truth, *, seeds: int) -> np.ndarray:
    own, seed = rng.normal(size=(len(true) + 1, seeds)), rng.normal(size=seeds)
    return true[:, None] + NOISE * (own[:-1] + own[1:] + 2 * seed)


def equal(count: int) -> Callable[[np.random.Generator], Truth]:
    return lambda _: np.full(count + 1, 0.9)


def scattered(count: int, spread: float = NOISE) -> Callable[[np.random.Generator], Truth]:
    return lambda rng: 0.9 + rng.normal(size=count + 1) * spread


def rate_error(rate: float, number: int) -> float:
    """Return 3.5 standard errors of a rate: more than that is no chance."""
    return 3.5 * math.sqrt(rate * (1 - rate) / number)


def holds(interval: Interval | None, value: float) -> bool:
    assert interval is not None
    return interval.low <= value <= interval.high


@pytest.mark.parametrize("seeds", [2, 5, 10])
def test_intervals_of_means_gains_and_luck_cover_at_their_stated_rate(seeds: int) -> None:
    sweeps = simulate(scattered(20), seeds=seeds, searched=3)
    means = [holds(each.found.means[1].interval, each.truth[1]) for each in sweeps]
    gains = [holds(each.found.gains[2].interval, each.truth[2] - each.truth[0]) for each in sweeps]
    luck = [
        holds(each.found.luck.interval, 1 - (each.truth[1] - each.truth[0]) / each.found.luck.promised)
        for each in sweeps
        if each.found.luck.share is not None and each.found.luck.promised is not None
    ]
    assert len(luck) > 0.9 * len(sweeps)
    for covered in (means, gains, luck):
        assert np.mean(covered) == pytest.approx(0.95, abs=rate_error(0.95, len(covered)))


@pytest.mark.parametrize("seeds", [2, 5])
@pytest.mark.parametrize("top", [1, 3, 8])
def test_corrected_intervals_hold_together_and_so_for_the_one_that_is_named_best(top: int, seeds: int) -> None:
    sweeps = simulate(scattered(top), seeds=seeds)
    at_once = [
        all(holds(each.found.gains[row].corrected, each.truth[row] - each.truth[0]) for row in range(1, top + 1))
        for each in sweeps
    ]
    assert np.mean(at_once) >= 0.95 - rate_error(0.95, len(sweeps))
    best = [each.found.winner.index for each in sweeps]
    of_best = [
        holds(each.found.gains[row].corrected, each.truth[row] - each.truth[0])
        for each, row in zip(sweeps, best, strict=True)
    ]
    assert np.mean(of_best) >= 0.95 - rate_error(0.95, len(sweeps))


@pytest.mark.parametrize("seeds", [2, 5])
def test_among_equal_settings_one_is_called_different_no_oftener_than_stated(seeds: int) -> None:
    sweeps = simulate(equal(6), seeds=seeds)
    p = np.array([[gain.p for gain in each.found.gains[1:]] for each in sweeps])
    corrected = np.array([[gain.corrected_p for gain in each.found.gains[1:]] for each in sweeps])
    assert np.mean(p.min(axis=1) < 0.05) > 0.12  # what the correction is for
    assert np.mean(corrected.min(axis=1) < 0.05) <= 0.05 + rate_error(0.05, len(sweeps))
    assert np.mean(p < 0.05) == pytest.approx(0.05, abs=rate_error(0.05, len(sweeps)))


def biases(truth: Callable[[np.random.Generator], Truth], *, seeds: int) -> list[tuple[float, float]]:
    """Return mean and standard error of the errors of the best setting's value, corrected value and corrected gain."""
    errors = []
    for each in simulate(truth, seeds=seeds, number=1600):
        winner = each.found.winner
        assert winner is not None
        assert winner.corrected_value is not None
        assert winner.corrected_gain is not None
        true = each.truth[winner.index]
        gain = true - each.truth[0]
        errors.append((winner.value - true, winner.corrected_value - true, winner.corrected_gain - gain))
    return [(float(np.mean(each)), float(np.std(each) / math.sqrt(len(each)))) for each in zip(*errors, strict=True)]


@pytest.mark.parametrize(
    ("truth", "seeds"),
    [(equal(5), 2), (equal(5), 5), (scattered(5, NOISE / 2), 5)],
    ids=["equal-2", "equal-5", "scattered-5"],
)
def test_the_winners_curse_is_gone_after_the_correction(
    truth: Callable[[np.random.Generator], Truth], seeds: int
) -> None:
    (naive, naive_error), *corrected = biases(truth, seeds=seeds)
    assert naive > 8 * naive_error
    for bias, error in corrected:
        assert abs(bias) < 3 * error


def test_with_two_seeds_the_correction_is_cautious_by_less_than_half_the_curse() -> None:
    (naive, _), *corrected = biases(scattered(5, NOISE / 2), seeds=2)
    for bias, error in corrected:
        assert -naive / 2 < bias < 3 * error


def test_what_a_search_promises_is_luck_where_all_settings_are_equal() -> None:
    lucky = [each.found.luck for each in simulate(equal(20), seeds=5, searched=3)]
    confirmed = [each.confirmed for each in lucky if each.confirmed is not None]
    promised = [each.promised for each in lucky if each.confirmed is not None]
    assert np.mean(promised) > NOISE
    assert abs(np.mean(confirmed)) < 3 * np.std(confirmed) / math.sqrt(len(confirmed))


def test_one_case_agrees_with_the_textbook() -> None:
    published, first, second = [0.90, 0.91, 0.93, 0.92], [0.92, 0.92, 0.96, 0.93], [0.91, 0.90, 0.93, 0.94]
    found = confirm([first, published, second], published=1, chosen=[0, 2], searched=[0.98, 0.95, 0.97], maximize=True)
    gain, mean = found.gains[0], found.means[0]
    assert gain is not None
    assert mean is not None
    assert gain.p == pytest.approx(stats.ttest_rel(first, published).pvalue)
    assert gain.corrected_p == pytest.approx(2 * stats.ttest_rel(first, published).pvalue)
    assert gain.corrected is not None
    interval = stats.ttest_rel(first, published).confidence_interval(0.975)
    assert (gain.corrected.low, gain.corrected.high) == pytest.approx((interval.low, interval.high))
    expected = stats.t.interval(0.95, 3, np.mean(first), stats.sem(first))
    assert mean.interval is not None
    assert (mean.interval.low, mean.interval.high) == pytest.approx(expected)
    assert found.gains[1] is None
    assert found.winner is not None
    assert (found.winner.index, found.winner.value) == (0, pytest.approx(np.mean(first)))
    assert found.luck.promised == pytest.approx(0.03)
    assert found.luck.share == pytest.approx(1 - np.mean(np.subtract(first, published)) / 0.03)


def test_losses_are_better_where_they_are_lower() -> None:
    rows = np.array([[3.0, 3.2, 3.1], [2.9, 3.0, 2.8], [3.3, 3.5, 3.9]])
    down = confirm(rows, published=0, chosen=[1, 2], searched=[3.0, 2.5, 2.9], maximize=False)
    up = confirm(-rows, published=0, chosen=[1, 2], searched=[-3.0, -2.5, -2.9], maximize=True)
    assert down.gains == up.gains
    assert down.luck == up.luck
    assert down.winner is not None
    assert up.winner is not None
    assert (down.winner.index, down.winner.gain) == (1, up.winner.gain)
    assert down.winner.value == -up.winner.value


def test_one_seed_gives_values_but_nothing_certain() -> None:
    found = confirm([[0.9], [0.95]], published=0, chosen=[1], searched=[0.9, 0.99], maximize=True)
    assert found.means[1] is not None
    assert (found.means[1].mean, found.means[1].sd, found.means[1].interval) == (0.95, None, None)
    gain = found.gains[1]
    assert gain is not None
    assert (gain.interval, gain.p, gain.corrected, gain.corrected_p) == (None, None, None, None)
    assert found.winner is not None
    assert (found.winner.corrected_value, found.winner.corrected_gain) == (None, None)
    assert found.luck.share == pytest.approx(1 - 0.05 / 0.09)
    assert found.luck.interval is None


@pytest.mark.parametrize("step", [0.0, 0.01])
def test_differences_that_do_not_vary_are_no_certainty(step: float) -> None:
    published = [0.91, 0.93, 0.92]
    found = confirm(
        [published, [value + step for value in published]], published=0, chosen=[1], searched=[0.9, 0.95], maximize=True
    )
    gain = found.gains[1]
    assert gain is not None
    assert gain.mean == pytest.approx(step)
    assert (gain.interval, gain.p, gain.corrected_p) == (None, None, None)


def test_failed_runs_cost_their_pairs_and_a_setting_that_fails_is_not_named_best() -> None:
    nan = math.nan
    rows = [[0.90, 0.91, nan], [0.99, nan, 0.99], [0.91, 0.92, 0.93], [nan, nan, nan]]
    found = confirm(rows, published=0, chosen=[1, 2, 3], searched=[0.9, 0.99, 0.92, 0.91], maximize=True)
    assert [None if gain is None else gain.pairs for gain in found.gains] == [None, 1, 2, None]
    assert found.means[3] is None
    assert found.winner is not None
    assert found.winner.index == 2


def test_settings_that_fail_under_different_seeds_are_compared_all_the_same() -> None:
    rows = [[0.90, 0.90], [0.99, math.nan], [math.nan, 0.91]]
    found = confirm(rows, published=0, chosen=[1, 2], searched=[0.9, 0.99, 0.92], maximize=True)
    assert found.winner is not None
    assert (found.winner.index, found.winner.corrected_value) == (1, None)


@pytest.mark.parametrize(
    ("searched", "reason"),
    [
        ([0.95, 0.95], "nothing better than the published setting"),
        ([0.95, 0.9], "nothing better than the published setting"),
        ([None, 0.9], "did not run the published setting"),
        ([0.95, None], "ran no other setting"),
    ],
)
def test_without_a_promise_there_is_no_luck_and_a_sentence_says_so(searched: list[float | None], reason: str) -> None:
    found = confirm([[0.9, 0.91], [0.92, 0.94]], published=0, chosen=[1], searched=searched, maximize=True)
    assert found.luck.share is None
    assert found.luck.reason is not None
    assert reason in found.luck.reason


def test_where_nothing_gave_a_value_nothing_is_found() -> None:
    found = confirm(np.full((3, 2), math.nan), published=0, chosen=[1, 2], searched=[0.9, 0.91, 0.92], maximize=True)
    assert found.winner is None
    assert set(found.means) == {None}
    assert found.luck.reason == "no new seed gave both settings a value"


def test_baselines_are_a_family_of_their_own() -> None:
    rng = np.random.default_rng(0)
    found = confirm(rng.normal(size=(6, 4)), published=0, chosen=[1, 2, 3], searched=[None] * 6, maximize=True)
    assert [gain.family for gain in found.gains if gain is not None] == [3, 3, 3, 2, 2]

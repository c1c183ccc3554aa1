"""Which trials of the compared sweeps are shown, and in what order."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tuner.analysis.collected import CollectedSweep, Shown, check_metric
from tuner.analysis.keys import check_keys, sorted_by, values
from tuner.analysis.summary import ranked
from tuner.analysis.target import Target, steps_to
from tuner.analysis.where import parse_where
from tuner.names import METRIC_LOSS

_AT_ONCE: Final = 4


def select(
    sweeps: Sequence[CollectedSweep],
    *,
    where: Sequence[str] = (),
    sort: str | None = None,
    target: Target | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> list[Shown]:
    """Return the trials that meet all conditions, in order; best first, where no other order is asked for.

    Sweeps that are judged by different metrics are not mixed then. Curves and evaluations are read only for a `target`.

    Args:
        sweeps: with names that tell them apart.
        where: conditions, see `tuner.analysis.where`.
        sort: keys joined by commas, `-KEY` descends.
        target: what to note for each trial: when it reached this.
        progress: hears the share that is done, 0 to 1.

    Raises:
        UserError: a condition that is none, a key or a metric that no trial has, or a record that is damaged.
    """
    conditions = [parse_where(text) for text in where]
    keys = [key.strip() for key in (sort or "").split(",") if key.strip()]
    trials = [Shown(sweep, trial) for sweep in sweeps for trial in ranked(sweep.trials, maximize=sweep.maximize)]
    if target is not None:
        check_metric(target.metric, sweeps, option="--target", others=[METRIC_LOSS])
        with ThreadPoolExecutor(_AT_ONCE) as pool:  # numpy and arrow let each other run
            steps = pool.map(lambda each: steps_to(target, each.sweep, each.trial), trials)
            for place, (each, found) in enumerate(zip(trials, steps, strict=True)):
                trials[place] = Shown(each.sweep, each.trial, found)
                progress((place + 1) / len(trials))
    rows = [(each, values(each, target=target is not None)) for each in trials]
    check_keys([key for each in conditions for key in each.keys], [row for _, row in rows], option="--where")
    check_keys([key.removeprefix("-") for key in keys], [row for _, row in rows], option="--sort")
    rows = [(each, row) for each, row in rows if all(condition.holds(row) for condition in conditions)]
    if keys:
        return sorted_by(keys, rows)
    if len({(sweep.metric, sweep.maximize) for sweep in sweeps}) > 1:
        return [each for each, _ in rows]
    return sorted_by(["-value" if any(sweep.maximize for sweep in sweeps) else "value"], rows)


def first(shown: Sequence[Shown], num: int | None) -> list[Shown]:
    """Return the first trials of each sweep, in the order of all; None: all of them."""
    counts: dict[str, int] = {}
    found = []
    for each in shown:
        counts[each.sweep.name] = counts.get(each.sweep.name, 0) + 1
        if num is None or counts[each.sweep.name] <= num:
            found.append(each)
    return found

"""Which settings a confirmation trains: the published one, the best distinct ones of the sweep, and baselines."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tuner.analysis.confirmed import Contender
from tuner.analysis.summary import ranked
from tuner.config.run import RunConfig
from tuner.errors import UserError
from tuner.names import CURVE_FILE
from tuner.schedulers import registry
from tuner.schedulers.scale import rescale
from tuner.search.ledger import Ledger
from tuner.search.plan import Assignment, Plan, reference, references, run_config, run_key
from tuner.sweep.folder import SweepFolder, find_sweep
from tuner.trials import TrialRecord


def choose_contenders(
    ledger: Ledger, folder: SweepFolder, *, top: int, baselines: Sequence[str]
) -> tuple[list[Contender], list[str]]:
    """Return the settings to train, the published one first, and what a person should know, a line each.

    Trials that were the same run in the sweep, step for step, count once: they had the same LR at each step, whatever
    their settings say. The published setting is the reference of the space's first scheduler, which trial 0 runs.

    Args:
        ledger: the sweep's record.
        folder: its files, whose curves tell which runs were the same.
        top: how many settings besides the published one.
        baselines: names of schedulers, taken as published, or of other sweeps, of which the best trial is taken.

    Raises:
        UserError: no trial besides the published setting has finished, or a baseline is neither of the two.
    """
    plan, notes = ledger.plan, list[str]()
    records = [record for record in ledger.trials() if record.state == "COMPLETE"]
    if not records:
        raise UserError(
            f"a confirmation needs a trial that has finished, but the sweep {folder.path} has none; "
            f"go on with it: fastface-tuner resume {folder.argument}"
        )
    runs = _distinct(ranked(records, maximize=plan.space.objective.maximize), folder, steps=plan.steps)
    published = _published(plan, runs)
    others = [run for run in runs if published.trial not in [record.number for record in run]]
    if not others:
        raise UserError(
            f"a confirmation needs a finished trial that differs from the published setting, but the sweep "
            f"{folder.path} has none; go on with it: fastface-tuner resume {folder.argument} --trials N"
        )
    if len(others) < top:
        count = f"{len(others)} setting{'' if len(others) == 1 else 's'}"
        notes.append(f"--top {top} was asked for, but the sweep has {count} besides the published one")
    contenders = [published, *(_of_run(run) for run in others[:top])]
    for baseline in baselines:
        added = _baseline(plan, baseline)
        key = _key(plan, added)
        twin = next((each for each in contenders if _key(plan, each) == key), None)
        if twin is None:
            contenders.append(added)
        else:
            notes.append(f"the baseline {added.name} is the same run as {_called(twin)}, and counts once")
    return contenders, notes


def config_of(plan: Plan, contender: Contender, *, seed: int) -> RunConfig:
    """Return the training run of a contender under a seed."""
    chosen = Assignment(contender.scheduler, contender.settings, contender.base_lr)
    return run_config(replace(plan, seed=seed), chosen)


def new_seeds(plan: Plan, *, number: int, first: int | None) -> list[int]:
    """Return `number` seeds from `first` on (None: the one after the search's), without that of the search."""
    first = plan.seed + 1 if first is None else first
    return [seed for seed in range(first, first + number + 1) if seed != plan.seed][:number]


def _distinct(records: Sequence[TrialRecord], folder: SweepFolder, *, steps: int) -> list[list[TrialRecord]]:
    """Return the trials by what they ran, in the order given: two are together where they had the same LR all along.

    Only curves of trials whose metrics are all equal, to the last bit, are looked at: the others were different runs.
    """
    results = Counter(_result(record) for record in records)
    by_key: dict[str, str] = {}
    for record in sorted(records, key=lambda record: record.number):
        if record.key not in by_key:
            alike = results[_result(record)] > 1
            history = _history(folder.trial(record.number), steps=steps) if alike else None
            by_key[record.key] = history or record.key
    runs: dict[str, list[TrialRecord]] = {}
    for record in records:
        runs.setdefault(by_key[record.key], []).append(record)
    return list(runs.values())


def _result(record: TrialRecord) -> tuple[object, ...]:
    return (record.value, *sorted(record.metrics.items()))


def _history(trial: Path, *, steps: int) -> str | None:
    """Return a digest of the LRs that a trial had; None where its curve is not (whole) there."""
    try:
        rows = (trial / CURVE_FILE).read_bytes().splitlines()[1:]
        lrs = [row.split(b",")[2] for row in rows]
    except (OSError, IndexError):
        return None
    return hashlib.sha256(b",".join(lrs)).hexdigest() if len(lrs) == steps else None


def _published(plan: Plan, runs: Sequence[Sequence[TrialRecord]]) -> Contender:
    chosen = references(plan)[0]
    key = run_key(run_config(plan, chosen))
    found = next((record for run in runs for record in run if record.key == key), None)
    same = [] if found is None else next(run for run in runs if found in run)
    return Contender(
        role="published",
        name="published",
        scheduler=chosen.scheduler,
        settings=dict(chosen.settings),
        base_lr=chosen.base_lr,
        trial=None if found is None else found.number,
        same_as=() if found is None else tuple(sorted(each.number for each in same if each.number != found.number)),
        searched=None if found is None else found.value,
    )


def _of_run(run: Sequence[TrialRecord]) -> Contender:
    first, *others = sorted(run, key=lambda record: record.number)
    return Contender(
        role="chosen",
        name=f"trial {first.number}",
        scheduler=first.scheduler,
        settings=dict(first.settings),
        base_lr=first.base_lr,
        params=dict(first.params),
        trial=first.number,
        same_as=tuple(record.number for record in others),
        searched=first.value,
    )


def _baseline(plan: Plan, name: str) -> Contender:
    if name in registry.names():
        chosen = reference(plan, name)
        return Contender(
            role="baseline", name=name, scheduler=name, settings=dict(chosen.settings), base_lr=chosen.base_lr
        )
    try:
        folder = find_sweep(name)
    except UserError:
        raise UserError(
            f"--baseline must be a scheduler ({', '.join(registry.names())}) or another sweep, but got {name!r}; "
            "give one of them"
        ) from None
    other = Ledger.open(folder.journal, read_only=True)
    best = other.best()
    if best is None:
        raise UserError(
            f"a baseline's sweep needs a finished trial, but {folder.path} has none; "
            f"go on with it: fastface-tuner resume {folder.argument}"
        )
    settings = dict(best.settings)
    if other.plan.steps != plan.steps:
        settings = rescale(best.scheduler, settings, from_steps=other.plan.steps, to_steps=plan.steps).scale_free
    return Contender(
        role="baseline",
        name=f"{folder.read().name}, trial {best.number}",
        scheduler=best.scheduler,
        settings=settings,
        base_lr=best.base_lr,
        params=dict(best.params),
    )


def _key(plan: Plan, contender: Contender) -> str:
    return run_key(config_of(plan, contender, seed=plan.seed))


def _called(contender: Contender) -> str:
    return "the published setting" if contender.role == "published" else contender.name

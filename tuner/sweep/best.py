"""The setting that a sweep says to train with, written out for the real run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import yaml

from tuner.analysis.confirmed import Confirmation
from tuner.analysis.confirmed_record import read_confirmation
from tuner.analysis.confirmed_text import headline, verdict
from tuner.analysis.snippet import comment
from tuner.analysis.verdict import judge
from tuner.config.run import RunConfig, SchedulerConfig
from tuner.errors import UserError
from tuner.names import CONFIRM_FILE
from tuner.schedulers.registry import setting_names
from tuner.schedulers.scale import rescale
from tuner.search.ledger import Ledger
from tuner.search.plan import Assignment, Plan, first_trials, run_config
from tuner.search.space import BASE_LR, Parameter, parameters
from tuner.sweep.folder import SweepFolder
from tuner.trials import TrialRecord

_HOW = """\
# train with it:  fastface-tuner train {file}
# search on:      `workload` and `total_steps` (as `steps`) can stand in a search space as they are, and the settings
#                 under `fixed` of the scheduler, but for those that are searched again under `parameters`
"""
_TRY_FIRST: Final = """\
# try it first:   in the space that found it, beside the `parameters` of {scheduler}:
#                   first:
#                     - {setting}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The trial to train with, its run as the sweep made it, and why it, in a sentence or more.

    `searched` is what the space searches for its scheduler; nothing where the space has that trial tried first anyway.
    """

    trial: TrialRecord
    config: RunConfig
    sentence: str
    searched: tuple[Parameter, ...]


def find_best(folder: SweepFolder) -> Best:
    """Return the best trial of a sweep, or the one that its confirmation names.

    Raises:
        UserError: no trial has finished, or a file of the sweep is damaged.
    """
    ledger = Ledger.open(folder.journal, read_only=True)
    best = best_of(ledger, folder, read_confirmation(folder.path))
    if best is None:
        reason = next((record.reason for record in ledger.trials() if record.reason), None)
        why = "no trial has ended" if reason is None else f"all failed, the first because: {reason}"
        raise UserError(
            f"the best of a sweep needs a finished trial, but {folder.argument} has none: {why}; "
            f"go on with it: fastface-tuner resume {folder.argument}"
        )
    return best


def best_of(ledger: Ledger, folder: SweepFolder, confirmation: Confirmation | None) -> Best | None:
    """Return the trial that the confirmation names, or else the best of the ledger; None where no trial has finished.

    Raises:
        UserError: the sweep does not have the trial that the confirmation names.
    """
    plan, records, trial = ledger.plan, ledger.trials(), ledger.best()
    named = None if confirmation is None else confirmation.best_trial
    if named is not None:
        trial = next((record for record in records if record.number == named), None)
        if trial is None:
            raise UserError(
                f"{folder.path / CONFIRM_FILE}: names trial {named}, which the sweep does not have; remove it"
            )
    if trial is None:
        return None
    objective = plan.space.objective
    found = judge(records, metric=objective.metric, maximize=objective.maximize)
    said = found.headline
    if confirmation is not None and named is not None:
        said = f"{headline(confirmation)} {verdict(confirmation)} In the search: {said}"
    sentence = f"{folder.read().name}: {said}"
    known = trial.number < len(first_trials(plan))
    searched = () if known else parameters(plan.space, trial.scheduler)
    return Best(trial=trial, config=_run_of(plan, trial), sentence=sentence, searched=searched)


def for_real_run(config: RunConfig, *, steps: int | None = None, loss_scale: float | None = None) -> RunConfig:
    """Return the same setting for a run of `steps`, where losses are `loss_scale` times as large.

    Windows and patience keep their share of the run. A threshold in loss per step is scaled with both; one that is a
    fraction of the first loss follows the loss by itself.

    Raises:
        UserError: a number that cannot be.
    """
    if loss_scale is not None and not 0 < loss_scale < float("inf"):
        raise UserError(f"`--loss-scale > 0` must hold, but got {loss_scale}; give the ratio of the runs' first losses")
    steps = config.total_steps if steps is None else steps
    name, settings = config.scheduler.name, dict(config.scheduler.settings)
    if steps != config.total_steps:
        settings = rescale(name, settings, from_steps=config.total_steps, to_steps=steps).scale_free
    specs = setting_names(name)
    for key, value in settings.items():
        if specs[key].unit == "response" and loss_scale is not None and not isinstance(value, str):
            settings[key] = value * loss_scale
    return config.model_copy(update={"scheduler": SchedulerConfig(name=name, settings=settings), "total_steps": steps})


def run_yaml(config: RunConfig, *, about: str, file: str, searched: Sequence[Parameter] = ()) -> str:
    """Return a run as YAML that `fastface-tuner train` takes, under comments that say what it is and what it is for.

    Where it is a point of what was `searched`, they say also how another sweep comes to try it first.
    """
    settings = config.to_dict()
    what_was_sought = {name: settings.pop(name) for name in ("scheduler", "total_steps")}
    text = yaml.safe_dump({**what_was_sought, **settings}, sort_keys=False, allow_unicode=True)
    return f"{comment(about)}\n{_HOW.format(file=file)}{_try_first(config, searched)}{text}"


def _try_first(config: RunConfig, searched: Sequence[Parameter]) -> str:
    known = {BASE_LR: config.workload.reference_lr, **config.scheduler.settings}
    # What is searched in steps has no place here where the settings were rescaled.
    if not searched or not all(each.setting in known and each.holds(known[each.setting]) for each in searched):
        return ""
    setting = yaml.safe_dump(
        {each.setting: known[each.setting] for each in searched},
        default_flow_style=True,
        sort_keys=False,
        width=float("inf"),
    )
    return _TRY_FIRST.format(scheduler=config.scheduler.name, setting=setting.strip())


def _run_of(plan: Plan, trial: TrialRecord) -> RunConfig:
    return run_config(plan, Assignment(trial.scheduler, trial.settings, trial.base_lr))

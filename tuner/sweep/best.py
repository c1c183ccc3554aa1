"""The setting that a sweep says to train with, written out for the real run."""

from dataclasses import dataclass

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
from tuner.search.plan import Assignment, Plan, run_config
from tuner.sweep.folder import SweepFolder
from tuner.trials import TrialRecord

_HOW = """\
# train with it:  fastface-tuner train {file}
# search on:      `workload` and `total_steps` (as `steps`) can stand in a search space as they are, and the settings
#                 under `fixed` of the scheduler, but for those that are searched again under `parameters`
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The trial to train with, its run as the sweep made it, and why it, in a sentence or more."""

    trial: TrialRecord
    config: RunConfig
    sentence: str


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
        raise UserError(f"the best of a sweep needs a finished trial, but {folder.argument} has none: {why}")
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
    return Best(trial=trial, config=_run_of(plan, trial), sentence=sentence)


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


def run_yaml(config: RunConfig, *, about: str, file: str) -> str:
    """Return a run as YAML that `fastface-tuner train` takes, under comments that say what it is and what it is for."""
    settings = config.to_dict()
    what_was_sought = {name: settings.pop(name) for name in ("scheduler", "total_steps")}
    text = yaml.safe_dump({**what_was_sought, **settings}, sort_keys=False, allow_unicode=True)
    return f"{comment(about)}\n{_HOW.format(file=file)}{text}"


def _run_of(plan: Plan, trial: TrialRecord) -> RunConfig:
    return run_config(plan, Assignment(trial.scheduler, trial.settings, trial.base_lr))

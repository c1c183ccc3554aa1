"""From a search space to training runs: what a sweep does, what a trial's parameters mean, when two runs are one."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from optuna.distributions import BaseDistribution, CategoricalDistribution

from tuner.config.run import RunConfig, SchedulerConfig, WorkloadConfig
from tuner.config.space_check import check_space
from tuner.config.space_first import first_settings
from tuner.config.space_model import SamplerName, SpaceFile
from tuner.errors import UserError
from tuner.names import Setting
from tuner.schedulers import registry
from tuner.schedulers.settings import check_settings, whole_steps
from tuner.search.space import BASE_LR, SCHEDULER, Parameter, Params, drawn_scheduler, parameters, schedulers

COST_AWARE_SAMPLERS: Final[tuple[SamplerName, ...]] = ("tpe", "random", "gp")
"""What can draw several candidates for one trial; the grid has an order, and CMA-ES a population."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a sweep searches and how, enough to make any of its runs again.

    `data` None is the workload's own source. Detectors decide on each `steps / decision_grid`-th step, 0: on any.
    `cost_aware`: candidates of the sampler are weighed by what they still cost, see `tuner.search.cost_aware`.
    """

    space: SpaceFile
    steps: int
    seed: int
    sampler: SamplerName
    data: str | None = None
    decision_grid: int = 0
    cost_aware: bool = False


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one trial runs: a scheduler, all its settings (defaults written out), and the base LR."""

    scheduler: str
    settings: Mapping[str, Setting]
    base_lr: float


@dataclass(frozen=True, slots=True)
class First:
    """A trial that no sampler draws: what it is in the words of the space, what it runs, and if it is a reference."""

    params: Params
    chosen: Assignment
    reference: bool


def make_plan(
    space: SpaceFile,
    *,
    steps: int | None = None,
    seed: int = 0,
    sampler: SamplerName | None = None,
    data: str | None = None,
    decision_grid: int | None = None,
    cost_aware: bool | None = None,
) -> Plan:
    """Return the plan of a space with the command line's overrides.

    Raises:
        UserError: the space cannot be searched at this length or by this sampler.
    """
    steps = space.steps if steps is None else steps
    decision_grid = space.decision_grid if decision_grid is None else decision_grid
    for name, value, least in (("steps", steps, 1), ("seed", seed, 0), ("decision_grid", decision_grid, 0)):
        if value < least:
            raise UserError(f"`{name} >= {least}` must hold, but got {value}; give another number")
    check_space(space, steps=steps, sampler=sampler)
    sampler = sampler or space.sampler
    cost_aware = space.cost_aware if cost_aware is None else cost_aware
    if cost_aware and sampler not in COST_AWARE_SAMPLERS:
        raise UserError(
            f"a cost-aware search takes its candidates from {' or '.join(COST_AWARE_SAMPLERS)}, but got {sampler}; "
            "use another sampler, or --no-cost-aware"
        )
    return Plan(
        space=space,
        steps=steps,
        seed=seed,
        sampler=sampler,
        cost_aware=cost_aware,
        data=data,
        decision_grid=decision_grid,
    )


def assignment(plan: Plan, params: Params) -> Assignment:
    """Return what a drawn point means: its own settings over the file's `fixed` ones over the scheduler's defaults."""
    space = plan.space
    name = drawn_scheduler(space, params)
    fixed = next(entry.fixed for entry in space.schedulers if entry.name == name)
    own = {entry.setting: params[entry.name] for entry in parameters(space, name) if entry.setting != BASE_LR}
    base_lr = float(params[BASE_LR]) if BASE_LR in params else space.reference_base_lr
    settings = check_settings(name, registry.setting_names(name).values(), {**_grid(plan, name), **fixed, **own})
    return Assignment(name, settings, base_lr)


def references(plan: Plan) -> tuple[Assignment, ...]:
    """Return what the first trials run: each scheduler's reference setting, whatever is searched or fixed."""
    return tuple(reference(plan, name) for name in schedulers(plan.space))


def first_trials(plan: Plan) -> tuple[First, ...]:
    """Return the trials before the sampler's: the references, then what the space wants tried first, each run once."""
    found = [First(reference_params(plan, chosen.scheduler), chosen, reference=True) for chosen in references(plan)]
    keys = {run_key(run_config(plan, first.chosen)) for first in found}
    for scheduler, setting in first_settings(plan.space):
        params: dict[str, Setting] = {SCHEDULER: scheduler} if len(plan.space.schedulers) > 1 else {}
        params |= {entry.name: setting[entry.setting] for entry in parameters(plan.space, scheduler)}
        chosen = assignment(plan, params)
        key = run_key(run_config(plan, chosen))
        if key not in keys:
            keys.add(key)
            found.append(First(params, chosen, reference=False))
    return tuple(found)


def reference(plan: Plan, scheduler: str) -> Assignment:
    """Return the reference setting of any scheduler, also of one that the space does not have, on the plan's grid."""
    return Assignment(scheduler, _reference_settings(plan, scheduler), plan.space.reference_base_lr)


def reference_params(plan: Plan, scheduler: str) -> dict[str, Setting]:
    """Return a reference in the words of the space, as far as it has words for it; values may lie outside a range."""
    params: dict[str, Setting] = {SCHEDULER: scheduler} if len(plan.space.schedulers) > 1 else {}
    for entry in parameters(plan.space, scheduler):
        value = _reference_value(plan, scheduler, entry)
        if value is not None:
            params[entry.name] = value
    return params


def in_space(plan: Plan, scheduler: str) -> bool:
    """Return whether the reference of a scheduler is a point of the space, so that a sampler may learn from it."""
    params = reference_params(plan, scheduler)
    if not all(entry.name in params and entry.holds(params[entry.name]) for entry in parameters(plan.space, scheduler)):
        return False
    settings = assignment(plan, params).settings
    reached = registry.resolve(scheduler, settings, total_steps=plan.steps)
    reference = registry.resolve(scheduler, _reference_settings(plan, scheduler), total_steps=plan.steps)
    return _alike(reached.params, reference.params)


def recorded_distributions(plan: Plan, params: Params) -> dict[str, BaseDistribution]:
    """Return the distributions under which the journal keeps a trial's parameters."""
    name, found = drawn_scheduler(plan.space, params), dict[str, BaseDistribution]()
    if SCHEDULER in params:
        found[SCHEDULER] = CategoricalDistribution(schedulers(plan.space))
    for entry in parameters(plan.space, name):
        if entry.name in params:
            found[entry.name] = entry.recorded(_reference_value(plan, name, entry))
    return found


def planned_workload(plan: Plan) -> WorkloadConfig:
    """Return the space's workload with the plan's data: what all of its runs have in common."""
    workload = plan.space.workload
    return workload if plan.data is None else workload.from_source(plan.data)


def run_config(plan: Plan, chosen: Assignment) -> RunConfig:
    """Return the training run of an assignment: the space's workload with the plan's data, length and seed."""
    return RunConfig(
        workload=planned_workload(plan).at_lr(chosen.base_lr),
        scheduler=SchedulerConfig(name=chosen.scheduler, settings=dict(chosen.settings)),
        total_steps=plan.steps,
        seed=plan.seed,
    )


def run_key(config: RunConfig) -> str:
    """Return a name for what a run does: equal for two configurations whose runs are the same, step for step.

    The scheduler enters as resolved for the run's length, so that a patience of 0.05 and one of 30 steps of 600 are the
    same.
    """
    schedule = config.schedule()
    rest = config.model_dump(mode="json", exclude={"scheduler"})
    text = json.dumps([rest, schedule.name, repr(schedule.params)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _grid(plan: Plan, scheduler: str) -> dict[str, Setting]:
    """Return the setting that puts a detector's decisions on the plan's grid; none where the space sets its own."""
    given = {
        key for entry in plan.space.schedulers if entry.name == scheduler for key in (*entry.fixed, *entry.parameters)
    }
    own = {"decision_every", "decision_every_fraction"} & given
    if plan.decision_grid == 0 or own or "decision_every_fraction" not in registry.setting_names(scheduler):
        return {}
    return {"decision_every_fraction": 1.0 / plan.decision_grid}


def _reference_settings(plan: Plan, scheduler: str) -> dict[str, Setting]:
    return {**_grid(plan, scheduler), **registry.defaults(scheduler)}


def _reference_value(plan: Plan, scheduler: str, entry: Parameter) -> Setting | None:
    """Return the reference's value of a searched setting, in steps where those are searched; None: not expressible."""
    if entry.setting == BASE_LR:
        return plan.space.reference_base_lr
    defaults, specs = registry.defaults(scheduler), registry.setting_names(scheduler)
    if entry.setting in defaults:
        return defaults[entry.setting]
    wanted = specs[entry.setting]
    for name, value in defaults.items():
        if specs[name].group == wanted.group and specs[name].unit == "fraction" and not isinstance(value, str):
            steps = value * plan.steps
            if wanted.unit == "steps":
                return whole_steps(value, plan.steps) if entry.whole else steps
            if wanted.unit == "decay":
                return 1.0 - 1.0 / max(1.0, steps)
    return None  # such as a threshold in loss per step, which depends on the first loss


def _alike(one: Any, other: Any) -> bool:
    """Return whether two resolved parameter sets are equal but for rounding (1 - (1 - a) is not a)."""
    if hasattr(one, "__dataclass_fields__"):
        return type(one) is type(other) and all(
            _alike(getattr(one, name), getattr(other, name)) for name in one.__dataclass_fields__
        )
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-15)
    return bool(one == other)

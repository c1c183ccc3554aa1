"""What a command line asks of a sweep, and how much the sweep may do."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from tuner.config.own import OwnConfig
from tuner.config.run import FaceConfig, WorkloadConfig
from tuner.config.run_file import load_run
from tuner.config.space_file import space_argument, with_workload
from tuner.config.space_model import SamplerName, SpaceFile
from tuner.errors import UserError
from tuner.sweep.data import placed
from tuner.tracking.uri import redact
from tuner.trials import TrialRecord

DEFAULT_SPACE: Final = "fastface"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was said of a sweep; None where nothing was: the space or the sweep that exists decides then.

    `recipe` is a run's file, or the name of a shipped recipe, whose workload takes the place of the space's own, as
    `workload` does, a class of one's own; `max_identities` and `max_images` take a part of the faces; `sets`, files or
    folders, judge it in place of held-out people. `share` lets trials take over the steps that earlier trials of the
    working folder have trained, whose checkpoints may take `checkpoint_budget` ("20GiB") on disk. `trials`,
    `budget_steps` and `budget_minutes` make the `Budget`. `concurrent` trials run side by side, on the machines of the
    Ray cluster at `ray_address`, or on this one; the ledger is kept in the `storage` of this address.
    """

    space: str | None = None
    recipe: str | None = None
    workload: str | None = None
    data: str | None = None
    max_identities: int | None = None
    max_images: int | None = None
    sets: tuple[str, ...] = ()
    steps: int | None = None
    seed: int | None = None
    sampler: SamplerName | None = None
    cost_aware: bool | None = None
    decision_grid: int | None = None
    share: bool | None = None
    checkpoint_budget: str | None = None
    trials: int | None = None
    budget_steps: int | None = None
    budget_minutes: float | None = None
    name: str | None = None
    out: Path | None = None
    tracking_uri: str | None = None
    concurrent: int | None = None
    ray_address: str | None = None
    storage: str | None = None


def asked_space(asked: Asked, space: SpaceFile) -> SpaceFile:
    """Return a space with the workload, or that of the recipe, that was asked for, a part of the data, and whole paths.

    Raises:
        UserError: there is no such workload or recipe, its data is not named, or the verification sets cannot be.
    """
    workload = space.workload
    if asked.recipe is not None:
        recipe = load_run(asked.recipe)
        if asked.data is None:
            recipe.check_data()
        workload = recipe.config.workload
    if asked.workload is not None:
        if asked.recipe is not None:
            raise UserError("a sweep trains one workload, but got --recipe and --workload; leave one of them out")
        workload = named_workload(asked.workload, workload)
    if isinstance(workload, FaceConfig):
        workload = placed(workload, sets=asked.sets, max_identities=asked.max_identities, max_images=asked.max_images)
    else:
        check_faces_only(workload, asked.max_identities, asked.max_images, asked.sets)
    if workload is not space.workload:
        space = with_workload(space, workload)
    check_source(space.workload, asked.data)
    return space


def repeating(asked: Asked, space: SpaceFile) -> tuple[str, ...]:
    """Return the words of a command line that name what a new sweep trains, in every working folder; `space` as asked.

    They name the space first, then what takes the place of something in it. How it is searched, for how long,
    and where the data is, the plan knows. No address of a tracking store is among them, and no password.
    """
    options: list[tuple[str, object]] = [
        ("--recipe", None if asked.recipe is None else load_run(asked.recipe).argument),
        ("--workload", asked.workload),
        ("--max-identities", asked.max_identities),
        ("--max-images", asked.max_images),
    ]
    if asked.sets and isinstance(space.workload, FaceConfig):
        options += [("--sets", path) for path in space.workload.evaluation.sets]
    given = [str(word) for option, value in options if value is not None for word in (option, value)]
    return tuple(
        redact(word) for word in (space_argument(DEFAULT_SPACE if asked.space is None else asked.space), *given)
    )


def named_workload(name: str, workload: WorkloadConfig) -> OwnConfig:
    """Return the workload that `--workload` names, with the settings of `workload` where that is the same.

    Raises:
        UserError: it cannot be a name.
    """
    if isinstance(workload, OwnConfig) and workload.name == name:
        return workload
    try:
        return OwnConfig(name=name)
    except ValidationError as error:
        rule = error.errors()[0]["ctx"]["error"]
        raise UserError(f"--workload: {rule}, but got {name!r}; write for example my_training:Digits") from None


def check_faces_only(workload: OwnConfig, *given: object) -> None:
    """Raise UserError where something was `given` that only a workload of faces has."""
    if any(given):
        raise UserError(
            f"--max-identities, --max-images and --sets are for faces, but {workload.name} is trained; leave them out"
        )


def check_source(workload: WorkloadConfig, data: str | None) -> None:
    """Raise UserError where `--data` is given to a workload that has no setting for it."""
    if data is not None and isinstance(workload, OwnConfig) and "data" not in workload.settings:
        raise UserError(f"--data sets the setting `data`, but {workload.name} has none; leave it out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much a sweep may do, whichever is reached first; None: no limit of this kind.

    `steps` are training steps that were actually run, `minutes` the wall time of trials. A trial that has begun is
    trained to its end, so that both may be exceeded by part of a run.

    Raises:
        UserError: the minutes are not finite, so that they would never be spent.
    """

    trials: int | None
    steps: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if self.minutes is not None and not math.isfinite(self.minutes):
            raise UserError(
                f"`--budget-minutes` must be a finite number, but got {self.minutes}; give --trials instead"
            )

    def spent(self, records: Sequence[TrialRecord]) -> float:
        """Return the share that is spent; from 1 on there is to be no other trial."""
        ended = [record for record in records if record.state != "RUNNING"]
        executed = sum(record.steps_executed for record in ended)
        minutes = sum(record.seconds for record in ended) / 60
        spending = ((len(ended), self.trials), (executed, self.steps), (minutes, self.minutes))
        return max(done / limit for done, limit in spending if limit is not None)

    def out_of(self, done: int) -> str:
        """Return how many trials are done beside what the sweep may do, e.g. "3 of 12 trials"."""
        if self.trials is not None and self.steps is None and self.minutes is None:
            return f"{done} of {self.trials} trials"
        return f"{done} trials (budget {self})"

    def __str__(self) -> str:
        limits = ((self.trials, "trials"), (self.steps, "training steps"), (self.minutes, "minutes"))
        return " or ".join(f"{limit:.12g} {unit}" for limit, unit in limits if limit is not None)

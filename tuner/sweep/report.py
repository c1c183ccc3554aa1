"""What the report of a sweep is made from, gathered from its folder; the page itself is made in `tuner.analysis`."""

import os
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from tuner.analysis.confirmed_record import read_confirmation
from tuner.analysis.report_material import Facts, Material
from tuner.config.run import DataConfig, FaceConfig
from tuner.config.space_file import space_text
from tuner.errors import UserError
from tuner.files import read_record
from tuner.names import CURVE_FILE, SYNTHETIC
from tuner.search.ledger import Ledger
from tuner.search.plan import Plan, first_trials
from tuner.stages.store import DEFAULT_BUDGET
from tuner.sweep.best import best_of, run_yaml
from tuner.sweep.folder import ENVIRONMENT, SweepDescription, SweepFolder


def report_material(folder: SweepFolder) -> Material:
    """Return all that ledger and files say of a sweep, which may be running.

    Raises:
        UserError: a file of the sweep is damaged.
    """
    description = folder.read()
    ledger = Ledger.open(folder.journal, read_only=True)
    plan, records = ledger.plan, ledger.trials()
    objective, confirmation = plan.space.objective, read_confirmation(folder.path)
    best = best_of(ledger, folder, confirmation)
    return Material(
        name=description.name,
        argument=folder.argument,
        question=plan.space.question,
        metric=objective.metric,
        maximize=objective.maximize,
        steps=plan.steps,
        records=records,
        study=ledger.study(),
        confirmation=confirmation,
        chosen=None if best is None else best.trial.number,
        run="" if best is None else run_yaml(best.config, about=best.sentence, file="FILE", searched=best.searched),
        curves={
            record.number: folder.trial(record.number if record.duplicate_of is None else record.duplicate_of)
            / CURVE_FILE
            for record in records
        },
        label=description.parent_run_id,
        environment=_environment(folder),
        data=list(_data(plan, description)),
        search=list(_search(plan, description, folder)),
        commands=_commands(plan, description, folder),
        space_text=plan.space.text or yaml.safe_dump(plan.space.model_dump(mode="json"), sort_keys=False),
    )


def _environment(folder: SweepFolder) -> Facts:
    try:
        found = read_record(folder.environment, kind=ENVIRONMENT)
    except FileNotFoundError:
        return [("recorded", "not in this folder; environment.json is an artifact of the sweep's MLflow run")]
    except UserError as error:
        return [("recorded", str(error))]
    return list(_facts(found))


def _facts(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "processor", f"{found.get('processor', '')}, {found.get('cores', '?')} cores, {found.get('memory_gib')} GiB"
    yield "accelerators", ", ".join(map(str, found.get("accelerators", ()))) or "none: trained on the processor"
    yield "system", str(found.get("platform", ""))
    yield "python", str(found.get("python", ""))
    packages = found.get("packages", {})
    yield "packages", ", ".join(f"{name} {version}" for name, version in packages.items())
    command = found.get("command", [])
    if command:
        yield "command", shlex.join([os.path.basename(str(command[0])), *map(str, command[1:])])  # noqa: PTH119


def _data(plan: Plan, description: SweepDescription) -> Iterator[tuple[str, str]]:
    workload = plan.space.workload
    source = plan.data or workload.source
    yield "source", source
    if isinstance(workload, FaceConfig):
        yield from _faces(workload.data, synthetic=source == SYNTHETIC)
    yield "digest", description.faces or "not recorded"


def _faces(data: DataConfig, *, synthetic: bool) -> Iterator[tuple[str, str]]:
    if synthetic:
        yield "identities", f"{data.identities}, {data.images_per_identity} images each"
    for name, limit in (("identities at most", data.max_identities), ("images at most", data.max_images)):
        if limit is not None:
            yield name, f"{limit:,}"
    yield "image size", f"{data.image_size} pixels"
    yield "held out", f"{data.held_out:.0%} of the identities (split seed {data.split_seed})"


def _search(plan: Plan, description: SweepDescription, folder: SweepFolder) -> Iterator[tuple[str, str]]:
    workload = plan.space.workload
    yield "steps of a trial", f"{plan.steps:,}"
    yield "budget", str(description.budget)
    yield "sampler", f"{plan.sampler}, cost-aware" if plan.cost_aware else plan.sampler
    if wanted := sum(not first.reference for first in first_trials(plan)):
        yield (
            "tried first",
            f"{wanted} {'setting' if wanted == 1 else 'settings'} of the space, after the published one",
        )
    yield "decision grid", f"{plan.decision_grid}" if plan.decision_grid else "any step"
    yield "seed", f"{plan.seed}"
    if isinstance(workload, FaceConfig):
        yield "model", f"{workload.model.backbone}, embedding {workload.model.embedding_size}"
    else:
        yield "workload", f"{workload.name} {workload.settings}"
    yield "batch", f"{workload.batch_size or 'not known'}"
    yield "stage store", description.store or "none: trials shared nothing"
    yield "MLflow", f"{description.tracking_uri}, run {description.parent_run_id}"
    yield "folder", str(folder.path)


def _commands(plan: Plan, description: SweepDescription, folder: SweepFolder) -> list[str]:
    """Return the command that makes the sweep again, and those that go on from what it found.

    Where the space is not there any more, or says something else by now, it is `space.yaml`, whose text the page shows.
    """
    budget = description.budget
    space, *given = description.asked or ("space.yaml",)
    options: dict[str, object] = {
        "--data": plan.data,
        "--trials": budget.trials,
        "--budget-steps": budget.steps,
        "--budget-minutes": budget.minutes,
        "--steps": plan.steps,
        "--seed": plan.seed,
        "--sampler": plan.sampler,
        "--decision-grid": plan.decision_grid,
    }
    words = ["fastface-tuner", "sweep", space if _says(space, plan.space.text) else "space.yaml", *given]
    for option, value in options.items():
        words += [] if value is None else [option, str(value)]
    words.append("--cost-aware" if plan.cost_aware else "--no-cost-aware")
    words += [] if description.store else ["--no-share"]
    if description.checkpoint_budget != DEFAULT_BUDGET:
        words += ["--checkpoint-budget", f"{description.checkpoint_budget / 1024:.17g}KiB"]
    return [
        shlex.join(words),
        f"fastface-tuner compare {folder.argument}",
        f"fastface-tuner report {folder.argument}",
        f"fastface-tuner confirm {folder.argument}",
        f"fastface-tuner best {folder.argument} -o best.yaml",
    ]


def _says(space: str, text: str) -> bool:
    """Return whether a space, by its name or path, still has this text."""
    try:
        return space_text(space) == text
    except UserError:
        return False

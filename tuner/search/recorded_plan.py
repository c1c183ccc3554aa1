"""The plan of a sweep as the ledger keeps it: among the study's attributes, with a format version."""

from pathlib import Path
from typing import Any, Final

from optuna.storages import BaseStorage

from tuner.config.space_file import space_from_record, space_record
from tuner.errors import UserError
from tuner.names import FORMAT_VERSION
from tuner.search.plan import Plan

PLAN: Final = "plan"


def plan_record(plan: Plan) -> dict[str, Any]:
    """Return the plan as JSON-like data."""
    return {
        "format": FORMAT_VERSION,
        "steps": plan.steps,
        "seed": plan.seed,
        "sampler": plan.sampler,
        "data": plan.data,
        "decision_grid": plan.decision_grid,
        "cost_aware": plan.cost_aware,
        **space_record(plan.space),
    }


def read_plan(path: Path, storage: BaseStorage, *, study: str) -> Plan:
    """Return the plan that a study holds; UserError where it is not that of a sweep, or of another version.

    `path` stands for the storage in messages.
    """
    studies = {each.study_name: each for each in storage.get_all_studies()}
    record = studies[study].user_attrs.get(PLAN) if study in studies else None
    if not isinstance(record, dict):
        raise UserError(f"{path}: Optuna's, but not of a sweep of this tool; give the folder of a sweep")
    if record.get("format") != FORMAT_VERSION:
        raise UserError(
            f"{path}: written in format {record.get('format')}, but this version reads format {FORMAT_VERSION}; "
            "use the version of fastface-tuner that made the sweep"
        )
    try:
        return Plan(
            space=space_from_record(record),
            steps=record["steps"],
            seed=record["seed"],
            sampler=record["sampler"],
            data=record["data"],
            decision_grid=record["decision_grid"],
            cost_aware=record["cost_aware"],
        )
    except KeyError as error:
        raise UserError(f"{path}: the sweep's plan lacks {error}; restore the file from a copy") from error

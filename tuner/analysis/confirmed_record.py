"""A confirmation as it is kept in a sweep's folder, and as programs read it."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from tuner.analysis.confirmation import LEVEL, Gain, Mean
from tuner.analysis.confirmed import Confirmation, Contender, Cost
from tuner.analysis.confirmed_text import verdict
from tuner.errors import UserError
from tuner.files import read_record, write_record
from tuner.names import CONFIRM_FILE

_KIND: Final = "confirmation"


def confirmation_json(confirmation: Confirmation) -> dict[str, Any]:
    """Return all of it as JSON-like data."""
    found, contenders, best = confirmation.findings, confirmation.contenders, confirmation.best
    winner, luck = found.winner, found.luck
    return {
        "sweep": confirmation.sweep,
        "metric": confirmation.metric,
        "direction": "maximize" if confirmation.maximize else "minimize",
        "steps": confirmation.steps,
        "search_seed": confirmation.search_seed,
        "seeds": list(confirmation.seeds),
        "level": LEVEL,
        "verdict": verdict(confirmation),
        "best_trial": confirmation.best_trial,
        "best": None if best is None else contenders[best].name,
        "shown": confirmation.shown,
        "contenders": [
            {
                **asdict(each),
                "same_as": list(each.same_as),
                "values": list(confirmation.values[row]),
                "mean": _json(found.means[row]),
                "gain": _json(found.gains[row]),
            }
            for row, each in enumerate(contenders)
        ],
        "winner": None if winner is None else {**asdict(winner), "name": contenders[winner.index].name},
        "luck": {**asdict(luck), "name": None if luck.index is None else contenders[luck.index].name},
        "cost": asdict(confirmation.cost),
        "failures": list(confirmation.failures),
        "notes": list(confirmation.notes),
        "group_run_id": confirmation.group_run_id,
    }


def write_confirmation(sweep: Path, confirmation: Confirmation) -> None:
    """Leave the result in a sweep's folder, whole or not at all."""
    write_record(sweep / CONFIRM_FILE, confirmation_json(confirmation), kind=_KIND)


def read_confirmation(sweep: Path) -> Confirmation | None:
    """Return the result that a sweep's folder holds; None where nothing was confirmed. Findings are computed anew.

    Raises:
        UserError: the file is damaged, or not such a result.
    """
    try:
        content = read_record(sweep / CONFIRM_FILE, kind=_KIND)
    except FileNotFoundError:
        return None
    except UserError as error:
        raise UserError(f"{error}, or confirm again") from None
    return Confirmation(
        sweep=content["sweep"],
        metric=content["metric"],
        maximize=content["direction"] == "maximize",
        steps=content["steps"],
        search_seed=content["search_seed"],
        seeds=tuple(content["seeds"]),
        contenders=tuple(_contender(each) for each in content["contenders"]),
        values=tuple(tuple(each["values"]) for each in content["contenders"]),
        cost=Cost(**content["cost"]),
        failures=tuple(content["failures"]),
        notes=tuple(content["notes"]),
        group_run_id=content["group_run_id"],
    )


def _contender(content: Mapping[str, Any]) -> Contender:
    own = {name: content[name] for name in Contender.__dataclass_fields__}
    return Contender(**{**own, "same_as": tuple(own["same_as"])})


def _json(found: Mean | Gain | None) -> dict[str, Any] | None:
    return None if found is None else asdict(found)

"""What a trial is asked for by name: `--where` and `--sort`, and one flat row for tables of programs."""

import math
from collections.abc import Sequence

from tuner.analysis.collected import Shown
from tuner.config.strict_yaml import did_you_mean
from tuner.errors import UserError
from tuner.names import Setting

Value = Setting | None
_FIELDS = (
    *("state", "value", "scheduler", "base_lr", "reference", "steps_executed", "steps_repeated", "steps_shared"),
    *("seconds", "run_id", "duplicate_of", "reason"),
)


def fields(shown: Shown) -> dict[str, Value]:
    """Return what every trial has, by name; flags are 0 or 1."""
    own = {name: getattr(shown.trial, name) for name in _FIELDS}
    if math.isnan(shown.trial.base_lr):
        own["base_lr"] = None
    return {
        "sweep": shown.sweep.name,
        "trial": shown.trial.number,
        **{name: int(value) if isinstance(value, bool) else value for name, value in own.items()},
    }


def flat_row(shown: Shown) -> dict[str, Value]:
    """Return a trial as one flat row: its fields, then `params.NAME` and `metrics.NAME`, as MLflow calls them."""
    row = fields(shown)
    row |= {f"params.{name}": value for name, value in shown.trial.params.items()}
    row |= {f"metrics.{name}": value for name, value in shown.trial.metrics.items()}
    return row


def values(shown: Shown, *, target: bool) -> dict[str, Value]:
    """Return all that a trial can be asked for: also settings that were not searched, and bare names.

    Of equal bare names a field comes before a parameter, that before a setting, and that before a metric.
    """
    trial = shown.trial
    settings = {**trial.settings, **trial.params}
    found: dict[str, Value] = {**trial.metrics, **settings, **fields(shown)}
    found["minutes"] = trial.seconds / 60
    found |= {f"params.{name}": value for name, value in settings.items()}
    found |= {f"metrics.{name}": value for name, value in trial.metrics.items()}
    if target:
        found |= {"target_steps": shown.target_steps, "target_seconds": shown.target_seconds}
    return found


def check_keys(keys: Sequence[str], rows: Sequence[dict[str, Value]], *, option: str) -> None:
    """Raise UserError for a key that no trial has; without trials any key will do."""
    known = {key for row in rows for key in row}
    for key in keys:
        if rows and key not in known:
            bare = sorted(name for name in known if not name.startswith(("params.", "metrics.")))
            raise UserError(f"`{option}`: no trial has `{key}`; {did_you_mean(key, bare)}")


def sorted_by(keys: Sequence[str], rows: Sequence[tuple[Shown, dict[str, Value]]]) -> list[Shown]:
    """Return trials by these keys, the first one first; `-KEY` descends; trials without a value come last."""
    found = list(rows)
    for key in reversed(keys):
        name, descends = key.removeprefix("-"), key.startswith("-")
        with_value = [row for row in found if row[1].get(name) is not None]
        without = [row for row in found if row[1].get(name) is None]
        with_value.sort(key=lambda row, name=name: _order(row[1][name]), reverse=descends)  # type: ignore[misc]
        found = with_value + without
    return [shown for shown, _ in found]


def _order(value: Value) -> tuple[bool, float, str]:
    return (True, 0.0, value) if isinstance(value, str) else (False, float(value or 0), "")

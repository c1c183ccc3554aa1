"""A replay in words: a table of LR changes for people, and JSON-like data for programs."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from tuner.analysis.loss_log import LossLog, LRChange
from tuner.analysis.replay import Agreement, Replay
from tuner.names import Setting

_ROWS = 60
"""Changes that a table shows at most; where there are more, the middle is left out."""


def replay_data(
    replay: Replay,
    log: LossLog,
    *,
    scheduler: str,
    settings: Mapping[str, Setting],
    base_lr: float,
    total_steps: int,
    delay: int,
    agreement: Agreement | None,
) -> dict[str, Any]:
    """Return the replay as JSON-like data; `recorded` and `agreement` are there where the log has LRs."""
    data: dict[str, Any] = {
        "total_steps": total_steps,
        "changes": [_change(change) for change in replay.changes],
        "scheduler": scheduler,
        "settings": dict(settings),
        "base_lr": base_lr,
        "loss_delay": delay,
        "recorded_steps": log.num_steps,
    }
    if agreement is not None:
        data["recorded"] = [_change(change) for change in log.recorded_changes()]
        data["agreement"] = {
            "recorded": agreement.num_recorded,
            "replayed": agreement.num_replayed,
            "matched": len(agreement.offsets),
            "mean_offset": agreement.mean_offset,
            "max_offset": agreement.max_offset,
        }
    return data


def changes_table(replay: Replay, agreement: Agreement | None) -> Table:
    """Return the LR changes as a terminal table, the recorded ones beside them."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("step", "LR from", "to"):
        table.add_column(heading, justify="right")
    pairs: list[tuple[LRChange | None, LRChange | None]] = [(None, change) for change in replay.changes]
    if agreement is not None:
        pairs = list(agreement.pairs)
        for heading in ("recorded at", "LR to", "offset"):
            table.add_column(heading, justify="right")
    for index, (recorded, replayed) in enumerate(pairs):
        if _ROWS // 2 <= index < len(pairs) - _ROWS // 2:
            if index == _ROWS // 2:
                table.add_row(f"... {len(pairs) - _ROWS:,} more")
            continue
        own = ["-", "", ""] if replayed is None else [f"{replayed.step:,}", _lr(replayed.before), _lr(replayed.after)]
        if agreement is not None:
            own += ["-", "", ""] if recorded is None else [f"{recorded.step:,}", _lr(recorded.after), ""]
        if recorded is not None and replayed is not None:
            own[-1] = f"{replayed.step - recorded.step:+d}"
        table.add_row(*own)
    return table


def summary(replay: Replay, agreement: Agreement | None) -> str:
    """Return in one line what the replay did, and how well that agrees with the recorded LRs."""
    if agreement is None:
        return f"{_count(len(replay.changes), 'LR change')}, the last LR is {_lr(_last_lr(replay))}"
    if not agreement.pairs:
        return "the LR never changes, neither here nor in the log"
    recorded = _count(agreement.num_recorded, "recorded LR change")
    text = f"{len(agreement.offsets)} of {recorded} replayed in order, with equal LRs"
    if agreement.offsets:
        text += f"; steps off by {agreement.mean_offset:.1f} on average, {agreement.max_offset} at most"
    extra = agreement.num_replayed - len(agreement.offsets)
    return f"{text}; {_count(extra, 'replayed change')} not recorded" if extra else text


def _last_lr(replay: Replay) -> float:
    return replay.changes[-1].after if replay.changes else replay.first_lr


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _lr(value: float) -> str:
    return f"{value:.6g}"


def _change(change: LRChange) -> dict[str, Any]:
    return {"step": change.step, "from": change.before, "to": change.after}

"""What a sweep found, in a sentence: for the description of its run, and for whoever trains with it."""

from collections.abc import Sequence

from tuner.analysis.compare import setting_text
from tuner.analysis.summary import ranked
from tuner.trials import TrialRecord


def answer(records: Sequence[TrialRecord], *, metric: str, maximize: bool) -> str:
    """Return which setting was best and how it stands beside the reference of the first trial."""
    best = next(iter(ranked(records, maximize=maximize)), None)
    if best is None or best.value is None:
        reason = next((record.reason for record in records if record.reason), None)
        return "No trial has finished." if reason is None else f"No trial has finished; the first failed: {reason}"
    what = "the reference setting" if best.reference else setting_text(best)
    found = f"The best of {len(records)} trials is trial {best.number}, {what}: {metric} {best.value:.4f}"
    first = next((record for record in records if record.reference and record.value is not None), None)
    if first is None or first.value is None or first.number == best.number:
        return f"{found}."
    return f"{found}, against {first.value:.4f} of trial {first.number}, the reference setting."

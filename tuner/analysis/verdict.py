"""The answer of a sweep: which setting was best, against the published one, at what cost, and whether to believe it.

Belief rests on what one sweep can know. Where the workload reports how far its ten folds spread, the standard error of
one accuracy follows, and differences below twice that of a difference (sqrt(2) larger) count as none. This says how
well *these* runs were measured; what another seed would have given, and how much of the gain is the luck of having
picked the best of many, only a confirmation with new seeds can say.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from tuner.analysis.summary import ranked
from tuner.analysis.words import count, duration, fixed, listed, plain, setting_line
from tuner.names import METRIC_ACCURACY, METRIC_ACCURACY_STD
from tuner.trials import TrialRecord

Belief = Literal["nothing", "alone", "tie", "published", "unclear", "unmeasured", "clear"]
"""What to make of the best value: see `Verdict.doubt`, which says it in words."""

NUM_FOLDS: Final = 10
_NAMED: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a sweep found.

    `best` has the best value, the earliest of equals, and `reference` is the published setting of the first scheduler
    (trial 0), None where it has no value. `runners_up` are the other settings that came to an end, best first, repeats
    of a run left out. `error` is the standard error of the best value where folds give one; `rivals` are the runners-up
    whose distance from the best is within what it can tell apart. Steps and seconds are sums over all trials.
    """

    metric: str
    maximize: bool
    best: TrialRecord | None
    reference: TrialRecord | None
    runners_up: tuple[TrialRecord, ...]
    error: float | None
    rivals: tuple[TrialRecord, ...]
    complete: int
    failed: int
    running: int
    steps_executed: int
    steps_shared: int
    seconds: float
    first_reason: str | None
    belief: Belief

    @property
    def gain(self) -> float | None:
        """By how much the best is better than the published setting, positive where it is; None where unknown."""
        if self.best is None or self.reference is None:
            return None
        return self._lead(self.best, self.reference)

    @property
    def answer(self) -> str:
        """The answer in a sentence or two: best setting, value, against the published one, and what it cost."""
        return " ".join(filter(None, (self.headline, self.cost)))

    @property
    def headline(self) -> str:
        """The best setting, its value, and how it stands against the published one."""
        if self.best is None or self.best.value is None:
            return self._nothing
        best, value = self.best, fixed(self.best.value)
        own = f"the published setting of {best.scheduler} (trial {best.number})"
        if not self.runners_up:
            what = own if best.reference else f"trial {best.number} ({setting_line(best.params)})"
            return f"Only {what} came to an end: {self._metric} {value}."
        if best is self.reference:
            return f"No setting was better than {own}: {self._metric} {value}."
        searched = {name: each for name, each in best.params.items() if name != "scheduler"}
        what = own if best.reference else f"{best.scheduler} with {setting_line(searched)} (trial {best.number})"
        return f"The best setting is {what}: {self._metric} {value}, {self._beside}."

    @property
    def doubt(self) -> str:
        """Whether to believe it, in a sentence or two."""
        match self.belief:
            case "nothing":
                return "There is nothing to believe yet."
            case "alone":
                return "It is the only setting that came to an end, so nothing says whether it is good."
            case "tie":
                return (
                    f"All {len(self.runners_up) + 1} settings reached the same value: the search cannot tell them "
                    "apart, and the first of them is named."
                )
            case "published":
                return f"{self._gap} The search gives no reason to leave the published setting."
            case "unclear":
                return f"{self._gap} {self._measured} Do not believe the difference without new seeds."
            case "unmeasured":
                return f"{self._gap} One run each does not say how much of that is chance."
            case "clear":
                return f"{self._gap} {self._measured} New seeds will tell how much of it was the luck of the pick."

    def __str__(self) -> str:
        return f"{self.answer} {self.doubt}"

    def _lead(self, one: TrialRecord, other: TrialRecord) -> float:
        """Return by how much `one` is better than `other`."""
        lead = (one.value or 0.0) - (other.value or 0.0)
        return lead if self.maximize else -lead

    @property
    def _metric(self) -> str:
        return plain(self.metric)

    @property
    def _nothing(self) -> str:
        if self.failed:
            return f"No trial came to an end; the first failed because: {self.first_reason}."
        return "No trial has come to an end yet." if self.running else "No trial was run."

    @property
    def cost(self) -> str:
        """How many trials, training steps and hours the search took; empty where no trial has ended."""
        ended = self.complete + self.failed
        if not ended:
            return ""
        failed = f" ({self.failed} failed)" if self.failed and self.complete else ""
        shared = f" ({self.steps_shared:,} more were shared)" if self.steps_shared else ""
        so_far = "So far the" if self.running else "The"
        return (
            f"{so_far} search took {count(ended, 'trial')}{failed}, "
            f"{count(self.steps_executed, 'training step')}{shared} and {duration(self.seconds)}."
        )

    @property
    def _beside(self) -> str:
        """How the best value stands against the published setting."""
        if self.reference is None or self.reference.value is None or self.gain is None:
            return "while the published setting did not come to an end"
        which = "more" if (self.gain > 0) == self.maximize else "less"
        step = "as much as" if self.gain == 0 else f"{fixed(abs(self.gain))} {which} than"
        whose = f"the published setting of {self.reference.scheduler}"
        return f"{step} {whose} ({fixed(self.reference.value)}, trial {self.reference.number})"

    @property
    def _gap(self) -> str:
        if self.best is None or not self.runners_up:
            return ""
        following = self.runners_up[:_NAMED]
        gaps = listed([f"{fixed(self._lead(self.best, each))} (trial {each.number})" for each in following])
        return f"The next best {'is' if len(following) == 1 else 'are'} {gaps} behind."

    @property
    def _measured(self) -> str:
        if self.error is None:
            return ""
        least = fixed(_resolution(self.error))
        if not self.rivals:
            return f"The evaluation tells differences of {least} apart, and no other setting is within that."
        others = "1 other setting is" if len(self.rivals) == 1 else f"{len(self.rivals)} other settings are"
        including = ", the published one among them" if any(each is self.reference for each in self.rivals) else ""
        return f"The evaluation tells differences of {least} apart: {others} as good by that measure{including}."


def judge(records: Sequence[TrialRecord], *, metric: str, maximize: bool) -> Verdict:
    """Return what a sweep's trials say; any trials will do, finished or not, none at all too."""
    complete = [record for record in ranked(records, maximize=maximize) if record.value is not None]
    best = complete[0] if complete else None
    runners_up = tuple(record for record in complete[1:] if record.duplicate_of is None)
    first = next((record for record in records if record.reference), None)
    reference = first if first is not None and first.value is not None else None
    error = _standard_error(best, metric)
    near = () if best is None or error is None else runners_up
    rivals = tuple(each for each in near if abs(_value(each) - _value(best)) <= _resolution(error or 0.0))
    return Verdict(
        metric=metric,
        maximize=maximize,
        best=best,
        reference=reference,
        runners_up=runners_up,
        error=error,
        rivals=rivals,
        complete=len(complete),
        failed=sum(record.state == "FAIL" for record in records),
        running=sum(record.state == "RUNNING" for record in records),
        steps_executed=sum(record.steps_executed for record in records),
        steps_shared=sum(record.steps_shared for record in records),
        seconds=sum(record.seconds for record in records),
        first_reason=next((record.reason for record in records if record.reason), None),
        belief=_belief(best, runners_up, reference=reference, rivals=rivals, error=error),
    )


def _belief(
    best: TrialRecord | None,
    runners_up: Sequence[TrialRecord],
    *,
    reference: TrialRecord | None,
    rivals: Sequence[TrialRecord],
    error: float | None,
) -> Belief:
    if best is None:
        return "nothing"
    if not runners_up:
        return "alone"
    if all(each.value == best.value for each in runners_up):
        return "tie"
    if best is reference:
        return "published"
    if error is None:
        return "unmeasured"
    # Good neighbours of a good setting are no reason to doubt it; the published setting among them is.
    return "unclear" if any(each is reference for each in rivals) else "clear"


def _standard_error(best: TrialRecord | None, metric: str) -> float | None:
    """Return the standard error of an accuracy from the spread of its folds; None for metrics without folds."""
    spread = None if best is None or metric != METRIC_ACCURACY else best.metrics.get(METRIC_ACCURACY_STD)
    return spread / math.sqrt(NUM_FOLDS - 1) if spread is not None and math.isfinite(spread) else None


def _resolution(error: float) -> float:
    """Return the least difference of two values that counts, given the standard error of one."""
    return 2 * math.sqrt(2) * error


def _value(record: TrialRecord | None) -> float:
    return math.nan if record is None or record.value is None else record.value

"""Whether sharing changed anything: trials of a sweep beside the same trials trained from scratch, bit for bit."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

from tuner.curves import HEADER
from tuner.errors import UserError
from tuner.evaluations import read_evaluations
from tuner.files import read_record, write_record
from tuner.names import COMMON_RANDOM_NUMBERS, CURVE_FILE, EVALUATIONS_FILE, VERIFY_FILE

NOT_BITWISE: Final = f"kernels are not deterministic here, so shared steps are {COMMON_RANDOM_NUMBERS}"
"""To be said of trials that shared steps and do not give the same bits each time."""
_KIND: Final = "sharing verified"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first difference of two runs: the `step` it is at, None where a file says nothing, and in words."""

    step: int | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialCheck:
    """One trial trained again: `steps_shared` were not its own; `difference` is None where all is equal."""

    trial: int
    steps: int
    steps_shared: int
    difference: Difference | None

    def __str__(self) -> str:
        if self.difference is None:
            return f"trial {self.trial}: equal, bit for bit ({self.steps} steps, {self.steps_shared} of them shared)"
        return f"trial {self.trial}: {self.difference.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What retraining some trials showed; `deterministic` says whether equal runs give equal bits on that device."""

    trials: tuple[TrialCheck, ...]
    deterministic: bool

    @property
    def passed(self) -> bool:
        """Whether sharing kept its promise: equal bits, or common random numbers where bits are not to be had."""
        return not self.deterministic or all(check.difference is None for check in self.trials)

    @property
    def conclusion(self) -> str:
        """The result in one line."""
        if not self.trials:
            return "no trial has finished, so there is none to verify"
        differing = [check.trial for check in self.trials if check.difference is not None]
        line = f"{len(self.trials) - len(differing)} of {len(self.trials)} trials equal, bit for bit"
        if differing and not self.deterministic:
            return f"{line}; {NOT_BITWISE}"
        return f"{line}; not so: {', '.join(map(str, differing))}" if differing else line


def compare_runs(
    own: Path, alone: Path, *, metrics: Mapping[str, float], metrics_alone: Mapping[str, float]
) -> Difference | None:
    """Return where two runs first differ; None where curves, evaluations and final metrics are equal, bit for bit.

    Args:
        own: folder of the trial as the sweep ran it.
        alone: folder of the same trial, trained from scratch.
        metrics: final metrics of the first, by name.
        metrics_alone: those of the second.
    """
    try:
        found = _first_row(own / CURVE_FILE, alone / CURVE_FILE)
        if found is not None:
            return found
        left, right = read_evaluations(own / EVALUATIONS_FILE), read_evaluations(alone / EVALUATIONS_FILE)
    except (OSError, UserError) as error:
        return Difference(step=None, text=f"cannot be compared: {error}")
    for steps in sorted({*left, *right}):
        found = _first_metric(steps, left.get(steps, {}), right.get(steps, {}))
        if found is not None:
            return found
    return _first_metric(max(right, default=0), metrics, metrics_alone)


def write_verification(sweep: Path, verification: Verification) -> None:
    """Leave the result in a sweep's folder, whole or not at all."""
    content = {
        "conclusion": verification.conclusion,
        "passed": verification.passed,
        "deterministic": verification.deterministic,
        "trials": [asdict(check) for check in verification.trials],
    }
    write_record(sweep / VERIFY_FILE, content, kind=_KIND)


def read_verification(sweep: Path) -> Verification | None:
    """Return the result that a sweep's folder holds; None where its trials were not verified.

    Raises:
        UserError: the file is damaged, or not such a result.
    """
    try:
        content = read_record(sweep / VERIFY_FILE, kind=_KIND)
    except FileNotFoundError:
        return None
    return Verification(
        trials=tuple(_check(each) for each in content["trials"]), deterministic=content["deterministic"]
    )


def _check(content: Mapping[str, Any]) -> TrialCheck:
    difference = content["difference"]
    return TrialCheck(**{**content, "difference": None if difference is None else Difference(**difference)})


def _first_row(own: Path, alone: Path) -> Difference | None:
    """Compare two curve files as texts: each number has one spelling, so equal texts are equal bits."""
    left, right = (path.read_text("ascii", "replace").splitlines() for path in (own, alone))
    for step, (one, other) in enumerate(zip_longest(left, right), start=-1):  # the header comes before step 0
        if one == other:
            continue
        if one is None or other is None:
            shorter = "its recorded curve ends" if one is None else "trained alone its curve ends"
            return Difference(step=step, text=f"{shorter} before step {step}")
        cells = zip_longest(HEADER, one.split(","), other.split(","))
        name, recorded, found = next(cell for cell in cells if cell[1] != cell[2])
        return Difference(
            step=max(0, step),
            text=f"differs from step {max(0, step)} on, where {name} is {recorded}, and {found} when trained alone",
        )
    return None


def _first_metric(steps: int, own: Mapping[str, float], alone: Mapping[str, float]) -> Difference | None:
    """Compare the metrics after a number of steps."""
    for name in sorted({*own, *alone}):
        if repr(own.get(name)) != repr(alone.get(name)):
            return Difference(
                step=max(0, steps - 1),
                text=f"differs after {steps} steps, where {name} is {own.get(name)}, "
                f"and {alone.get(name)} when trained alone",
            )
    return None

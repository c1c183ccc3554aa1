"""What a look at a folder or file of faces finds: what it is, what there is of it, what is wrong and what is odd."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

NAMED: Final = 5
"""So many names stand in a line; as data there are more."""
_KEPT: Final = 100


@dataclass(frozen=True, slots=True)
class Finding:
    """Something found: a `problem`, or else something that works and is worth knowing; `names` of what it concerns."""

    problem: bool
    text: str
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        more = ", ..." if len(self.names) > NAMED else ""
        names = f": {', '.join(self.names[:NAMED])}{more}" if self.names else ""
        return f"{'problem' if self.problem else 'note'}: {self.text}{names}"


@dataclass(slots=True)
class Checkup:
    """A look at `path`: what it is (`kind`), `facts` for people, `numbers` for programs, and the findings."""

    path: Path
    kind: str
    facts: list[str] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def fit(self) -> bool:
        """Whether there is no problem."""
        return not any(finding.problem for finding in self.findings)

    def problem(self, text: str, names: Iterable[str] = ()) -> None:
        """Add a problem."""
        self.findings.append(Finding(True, text, _some(names)))

    def note(self, text: str, names: Iterable[str] = ()) -> None:
        """Add something that is no problem."""
        self.findings.append(Finding(False, text, _some(names)))

    def as_json(self) -> dict[str, Any]:
        """Return all of it as JSON-like data."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            "fit": self.fit,
            **self.numbers,
            "findings": [
                {"problem": each.problem, "text": each.text, "names": list(each.names)} for each in self.findings
            ],
        }


def _some(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name, _ in zip(names, range(_KEPT), strict=False))


def counted(number: int, what: str, *, plural: str | None = None) -> str:
    """Return a number with its noun: "1 image", "5,000 images"."""
    return f"{number:,} {what if number == 1 else plural or f'{what}s'}"

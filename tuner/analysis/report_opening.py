"""How a report opens: the answer, and whether to believe it; what new seeds said outranks the search's own doubt."""

from dataclasses import dataclass

from tuner.analysis.confirmed_text import headline, verdict
from tuner.analysis.report_material import Material
from tuner.analysis.words import duration, fixed

_CONFIRMED = {True: "confirmed", False: "unconfirmed"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """The answer in a sentence, what else there is to it, and whether to believe it, in a sentence or two.

    `belief` is that of the search (see `tuner.analysis.verdict`), or "confirmed" or "unconfirmed": whether new seeds
    have shown the setting to be better than the published one.
    """

    headline: str
    more: str
    doubt: str
    belief: str


def opening_of(material: Material) -> Opening:
    """Return how the report on this sweep opens."""
    found, confirmation = material.verdict, material.confirmation
    if confirmation is None:
        return Opening(headline=found.headline, more=found.cost, doubt=found.doubt, belief=found.belief)
    return Opening(
        headline=headline(confirmation),
        more=f"In the search: {found.answer}",
        doubt=verdict(confirmation),
        belief=_CONFIRMED[confirmation.shown],
    )


def tiles(material: Material) -> list[tuple[str, str]]:
    """Return the numbers that stand out, each with its name."""
    found, confirmation = material.verdict, material.confirmation
    named: list[tuple[str, str]] = []
    if confirmation is not None and confirmation.best is not None:
        mean = confirmation.findings.means[confirmation.best]
        named += [] if mean is None else [("with new seeds", fixed(mean.mean))]
    if found.best is not None and found.best.value is not None:
        named.append((f"best {material.metric_words}", fixed(found.best.value)))
    if found.reference is not None and found.reference.value is not None:
        named.append(("published setting", fixed(found.reference.value)))
    named.append(("trials", f"{found.complete + found.failed}"))
    named.append(("steps trained", f"{found.steps_executed:,}"))
    named.append(("steps shared", f"{found.steps_shared:,}"))
    named.append(("time", duration(found.seconds)))
    return named

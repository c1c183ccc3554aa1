"""The tree of shared stages: which trial trained which steps, who branched off whom where, and what that saved."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tuner.analysis.report_figures import BEST, INK, MUTED, REFERENCE, Figure, Section, Trace, shade
from tuner.analysis.report_material import Material
from tuner.analysis.words import count
from tuner.names import COMMON_RANDOM_NUMBERS
from tuner.trials import TrialRecord

_LABELLED_ROWS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """What a trial trained: the steps `first .. stop - 1`, after it had taken over those before `first`.

    `parent` is the trial of this sweep that trained the step before `first`; None at the start of training, and where
    that trial belongs to another sweep (`foreign`). `repeats`: it trained nothing, being the same run as its parent.
    """

    record: TrialRecord
    first: int
    stop: int
    parent: int | None
    foreign: bool
    repeats: bool


def branches(material: Material) -> list[Branch]:
    """Return the branches of all trials that have ended, each after its parent, siblings by where they branch off."""
    known = {record.number for record in material.records}
    found = {r.number: _branch(material, r, known) for r in material.records if r.state != "RUNNING"}
    children: dict[int | None, list[Branch]] = {}
    for branch in found.values():
        children.setdefault(branch.parent if branch.parent in found else None, []).append(branch)
    return list(_in_order(children))


def sharing_section(material: Material) -> Section:
    """Return the section about shared steps."""
    section = Section(id="sharing", title="What trials shared")
    tree = branches(material)
    shared = sum(branch.record.steps_shared for branch in tree)
    if not tree:
        return Section(id=section.id, title=section.title, missing="No trial has ended yet.")
    if shared == 0:
        why = "there was only one" if len(tree) == 1 else "their LRs differ from the first step on, or sharing was off"
        return Section(id=section.id, title=section.title, missing=f"No trial took over steps of another: {why}.")
    executed = sum(branch.record.steps_executed for branch in tree)
    repeated = sum(branch.record.steps_repeated for branch in tree)
    whole = executed - repeated + shared
    lead = (
        f"The {count(len(tree), 'trial')} have {whole:,} steps. {executed:,} were trained, of them {repeated:,} a "
        f"second time on the way from a checkpoint; {shared:,} were taken over from trials that had trained the same "
        f"steps. {_saving(whole, executed)}"
    )
    if not all(branch.record.deterministic for branch in tree):
        lead += (
            f" Kernels were not deterministic (`deterministic: false`), so shared steps are {COMMON_RANDOM_NUMBERS}: "
            "trials can be compared all the same, but are not bit for bit what each would have given alone."
        )
    foreign = any(branch.foreign for branch in tree)
    figure = Figure(
        id="sharing",
        title="The tree of training runs.",
        caption="A bar is what a trial trained itself, from where its learning rate first differed from all earlier "
        "ones; the thin line leads to the trial whose steps it took over before. A ring marks a trial that repeats "
        "another one to the end."
        + (" A dotted line leads to steps that another sweep in this folder had trained." if foreign else "")
        + " A cross is a failure.",
        height=max(180, min(900, 70 + len(tree) * (16 if len(tree) <= _LABELLED_ROWS else 5))),
        data=_traces(material, tree),
        layout={
            "xaxis": {"title": {"text": "training step"}, "tickformat": "~s", "range": [0, material.steps * 1.01]},
            "yaxis": _rows(material, tree),
            "hovermode": "closest",
        },
    )
    return Section(id=section.id, title=section.title, lead=lead, figures=[figure])


def _saving(whole: int, executed: int) -> str:
    if executed > 0.95 * whole:
        return "Sharing saved next to nothing here."
    if executed == 0:
        return "Nothing had to be trained at all."
    return f"That is {whole / executed:.1f} times less work than training each trial alone."


def _branch(material: Material, record: TrialRecord, known: set[int]) -> Branch:
    if record.duplicate_of is not None:
        stop = material.steps if record.state == "COMPLETE" else 0
        return Branch(record=record, first=stop, stop=stop, parent=record.duplicate_of, foreign=False, repeats=True)
    first = record.steps_shared
    parent = _owner(material, record.shared_with, known) if first else None
    return Branch(
        record=record,
        first=first,
        stop=first + record.steps_executed - record.steps_repeated,
        parent=None if parent == record.number else parent,
        foreign=first > 0 and parent is None,
        repeats=first >= material.steps,
    )


def _owner(material: Material, shared_with: Mapping[str, int], known: set[int]) -> int | None:
    """Return the trial of this sweep that trained the last of the shared steps; None where another sweep's did."""
    *_, last = ("", *shared_with)
    sweep, _, number = last.rpartition("/")
    return int(number) if sweep == material.label and number.isdigit() and int(number) in known else None


def _in_order(children: Mapping[int | None, list[Branch]]) -> Iterator[Branch]:
    def ordered(parent: int | None) -> list[Branch]:
        own = children.get(parent, [])
        return sorted(own, key=lambda branch: (branch.first, branch.record.number), reverse=True)

    waiting = ordered(None)
    while waiting:
        branch = waiting.pop()
        yield branch
        waiting += ordered(branch.record.number)


def _traces(material: Material, tree: Sequence[Branch]) -> list[Trace]:
    row = {branch.record.number: place for place, branch in enumerate(tree)}
    width = 7 if len(tree) <= _LABELLED_ROWS else 3
    connectors = _gapped([_connector(branch, row) for branch in tree if branch.parent in row])
    dotted = _gapped(
        [[(0, row[b.record.number]), (b.first, row[b.record.number])] for b in tree if b.foreign],
    )
    traces: list[Trace] = [
        _line(connectors, color=MUTED, width=1),
        {**_line(dotted, color=MUTED, width=1), "line": {"color": MUTED, "width": 1, "dash": "dot"}},
    ]
    by_color: dict[str, list[Branch]] = {}
    for branch in tree:
        if not branch.repeats and branch.stop > branch.first:
            by_color.setdefault(_color(material, branch.record), []).append(branch)
    for color, own in by_color.items():
        bars = [[(b.first, row[b.record.number]), (b.stop, row[b.record.number])] for b in own]
        trials = [number for b in own for number in (b.record.number, b.record.number, None)]
        traces.append(
            _line(_gapped(bars), color=color, width=width)
            | {"trials": trials, "hoverinfo": None, "hovertemplate": "%{text}<br>step %{x:,}<extra></extra>"}
        )
    ends = (("repeats", "circle-open", INK), ("failed", "x-thin-open", "@failed"))
    for kind, symbol, color in ends:
        own = [b for b in tree if (b.repeats if kind == "repeats" else b.record.state == "FAIL" and not b.repeats)]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [branch.stop for branch in own],
                "y": [row[branch.record.number] for branch in own],
                "trials": [branch.record.number for branch in own],
                "marker": {"symbol": symbol, "size": 8, "color": color, "line": {"width": 1.5, "color": color}},
                "hovertemplate": "%{text}<extra></extra>",
                "cliponaxis": False,
            }
        )
    return traces


def _connector(branch: Branch, row: Mapping[int, int]) -> list[tuple[int, int]]:
    assert branch.parent is not None  # noqa: S101 - only those are asked for
    return [(branch.first, row[branch.parent]), (branch.first, row[branch.record.number])]


def _color(material: Material, record: TrialRecord) -> str:
    if record.number == material.best:
        return BEST
    if record.number == material.reference:
        return REFERENCE
    return shade(material, record)


def _gapped(lines: Sequence[Sequence[tuple[int, int]]]) -> tuple[list[int | None], list[int | None]]:
    x: list[int | None] = []
    y: list[int | None] = []
    for line in lines:
        x += [*(point[0] for point in line), None]
        y += [*(point[1] for point in line), None]
    return x, y


def _line(points: tuple[list[int | None], list[int | None]], *, color: str, width: float) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": points[0],
        "y": points[1],
        "line": {"color": color, "width": width},
        "hoverinfo": "skip",
    }


def _rows(material: Material, tree: Sequence[Branch]) -> Trace:
    labelled = len(tree) <= _LABELLED_ROWS
    return {
        "range": [len(tree) - 0.3, -0.7],
        "tickvals": list(range(len(tree))) if labelled else [],
        "ticktext": [material.mark(branch.record.number) for branch in tree] if labelled else [],
        "title": {"text": "trial"},
        "showgrid": False,
        "zeroline": False,
    }

"""One picture of a confirmation: what the search saw of each setting, and what new seeds gave."""

import io

from tuner.analysis.confirmed import Confirmation

_INK, _GREY, _BLUE, _ORANGE = "#222222", "#8a8a8a", "#2b6cb0", "#d9730d"


def drawn(confirmation: Confirmation) -> str:
    """Return the picture as SVG: for each setting a row with its value in the search, its new values and their mean."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    found, contenders = confirmation.findings, confirmation.contenders
    figure = Figure(figsize=(8, 1.4 + 0.45 * len(contenders)), layout="constrained")
    axes = figure.subplots()
    for row, each in enumerate(contenders):
        values = [value for value in confirmation.values[row] if value is not None]
        mean = found.means[row]
        axes.plot(values, [row] * len(values), "o", color=_GREY, zorder=3, markersize=4, label="a new seed" * (not row))
        if mean is not None and mean.interval is not None:
            axes.plot([mean.interval.low, mean.interval.high], [row, row], color=_BLUE, linewidth=2)
        if mean is not None:
            axes.plot([mean.mean], [row], "D", color=_BLUE, markersize=6, label="mean, 95 %" * (not row))
        if each.searched is not None:
            axes.plot(
                [each.searched], [row], "o", color=_ORANGE, fillstyle="none", markersize=8,
                label="in the search" * (not row),
            )  # fmt: skip
    if found.means[0] is not None:
        axes.axvline(found.means[0].mean, color=_GREY, linewidth=0.7, zorder=0)
    axes.set_yticks(range(len(contenders)), [each.name for each in contenders], color=_INK)
    axes.invert_yaxis()
    axes.set_xlabel(f"{confirmation.metric} after {confirmation.steps} steps")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8, ncols=3)
    text = io.StringIO()
    # Text as text, and names of parts from a fixed salt: the same confirmation gives the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "confirmation"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()

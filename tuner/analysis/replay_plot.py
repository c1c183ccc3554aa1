"""One picture of a replay: the loss, the detector's response with its threshold, and the LR, over the same steps."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tuner.analysis.loss_log import LossLog
from tuner.analysis.replay import Replay, Trace
from tuner.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]

BINS = 1600
"""Bins a curve is thinned to, about one a pixel; each keeps its smallest, mean and largest value."""

_INK, _GREY, _BLUE, _ORANGE, _GREEN = "#222222", "#8a8a8a", "#2b6cb0", "#d9730d", "#2f855a"


def draw_replay(path: Path, *, log: LossLog, replay: Replay, trace: Trace, title: str) -> None:
    """Write the picture to `path`; its suffix says the format (png, svg, pdf, ...).

    Raises:
        UserError: the suffix names no format, or the file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import StrMethodFormatter

    figure = Figure(figsize=(11, 7.6), dpi=130, layout="constrained")
    loss, detector, lr = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 2.4))
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, color=_INK, linespacing=1.4)
    for axes in (loss, detector, lr):
        _plain(axes)
        for change in replay.changes if len(replay.changes) <= 200 else ():
            axes.axvline(change.step, color=_GREY, linewidth=0.5, alpha=0.45, zorder=0)
    steps = np.arange(log.first_step, log.first_step + log.num_steps, dtype=np.float64)
    _curve(loss, steps, log.losses, color=_BLUE, label="training loss")
    loss.set_ylabel("loss")
    _detector(detector, steps, trace)
    _lr(lr, log=log, replay=replay, last_step=int(steps[-1]))
    for axes in (loss, detector, lr):
        if axes.get_legend_handles_labels()[1]:  # above the panel, where it hides nothing
            axes.legend(
                loc="lower right", bbox_to_anchor=(1.0, 0.98), borderaxespad=0, frameon=False, fontsize=9, ncols=3
            )
    figure.align_ylabels()
    lr.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    lr.set_xlabel("training step")
    lr.set_xlim(float(steps[0]), max(float(steps[-1]), float(steps[0]) + 1))
    supported = sorted(figure.canvas.get_supported_filetypes())
    if path.suffix.lstrip(".").lower() not in supported:
        raise UserError(f"the picture's name must end in one of {', '.join(supported)}, but got {path}; use {path}.png")
    try:
        figure.savefig(path)
    except OSError as error:
        raise UserError(f"{path}: the picture cannot be written ({error.strerror}); name another file") from None


@dataclass(frozen=True, slots=True)
class Thinned:
    """A curve in bins: the bins' middle steps and each bin's smallest, mean and largest value."""

    steps: Array
    low: Array
    mean: Array
    high: Array


def thin(steps: Array, values: Array, *, bins: int = BINS) -> Thinned:
    """Return finite `values` over rising `steps` in at most `bins` bins of equal size; no extreme value is lost."""
    keep = np.isfinite(values)
    steps, values = steps[keep], values[keep]
    if len(values) == 0:
        return Thinned(steps, values, values, values)
    starts = np.unique(np.linspace(0, len(values), min(bins, len(values)), endpoint=False).astype(np.int64))
    sizes = np.diff(starts, append=len(values))
    return Thinned(
        steps=np.add.reduceat(steps, starts) / sizes,
        low=np.minimum.reduceat(values, starts),
        mean=np.add.reduceat(values, starts) / sizes,
        high=np.maximum.reduceat(values, starts),
    )


def _plain(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_GREY)
    axes.tick_params(colors=_INK, labelsize=9)
    axes.margins(x=0)


def _curve(axes: "Axes", steps: Array, values: Array, *, color: str, label: str) -> Thinned:
    thinned = thin(steps, values)
    axes.fill_between(thinned.steps, thinned.low, thinned.high, color=color, alpha=0.28, linewidth=0)
    axes.plot(thinned.steps, thinned.mean, color=color, linewidth=1.1, label=label)
    return thinned


def _detector(axes: "Axes", steps: Array, trace: Trace) -> None:
    axes.set_ylabel("detector response")
    if not np.isfinite(trace.response).any():
        axes.text(0.5, 0.5, "this scheduler has no detector", transform=axes.transAxes, ha="center", color=_GREY)
        axes.set_yticks([])
        return
    thinned = _curve(axes, steps, trace.response, color=_GREEN, label="response (falling loss: positive)")
    threshold = float(trace.threshold[np.isfinite(trace.threshold)][-1])
    axes.axhline(threshold, color=_ORANGE, linewidth=1.2, linestyle=(0, (5, 2)), label=f"threshold {threshold:.3g}")
    axes.fill_between(
        thinned.steps,
        0,
        1,
        where=(thinned.mean < threshold).tolist(),
        transform=axes.get_xaxis_transform(),
        color=_ORANGE,
        alpha=0.10,
        linewidth=0,
        label="stationary",
    )
    if threshold > 0:
        # Early responses are hundreds of times the threshold; what decides happens around it, and below it too.
        axes.set_yscale("symlog", linthresh=2 * threshold)


def _lr(axes: "Axes", *, log: LossLog, replay: Replay, last_step: int) -> None:
    axes.set_ylabel("learning rate")
    if log.lr is not None:
        axes.step(log.row_steps, log.lr.values, where="pre", color=_GREY, linewidth=3.4, alpha=0.55, label="recorded")
    steps = [log.first_step, *(change.step for change in replay.changes), last_step]
    lrs = [replay.first_lr, *(change.after for change in replay.changes)]
    axes.step(steps, [*lrs, lrs[-1]], where="post", color=_BLUE, linewidth=1.4, label="replayed")
    if min(lrs) > 0 and max(lrs) > 10 * min(lrs):
        axes.set_yscale("log")

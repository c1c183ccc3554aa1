"""The figure of `sensitivity.py`: accuracy along each setting's range, from the runs' MLflow store."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from sensitivity_statistics import FLAT, Point

from tuner.analysis.collected import CollectedSweep
from tuner.names import METRIC_ACCURACY, Setting

mpl.use("Agg")
from matplotlib import pyplot as plt


def draw(
    collected: CollectedSweep, found: Mapping[str, Sequence[Point]], *, centre: Mapping[str, Setting], path: Path
) -> Path:
    """Draw a panel for each setting: the difference to the best setting under each seed, and the mean."""
    by_name: dict[str, dict[str, dict[Setting, float]]] = {}
    best: dict[str, float] = {}
    for trial in collected.trials:
        if trial.params.get("part") == "variation":
            seed, value = str(trial.params["unit"]), trial.metrics.get(METRIC_ACCURACY, 0.5)
            if trial.params["varied"] == "nothing":
                best[seed] = value
            else:
                by_name.setdefault(str(trial.params["varied"]), {}).setdefault(seed, {})[trial.params["level"]] = value
    figure, axes = plt.subplots(
        1, len(found), figsize=(3.0 * len(found), 3.4), layout="constrained", sharey=True, squeeze=False
    )
    for (name, row), axis in zip(found.items(), axes[0], strict=True):
        ticks: list[Setting] = [point.level for point in row]
        places = np.arange(len(ticks))
        for seed, values in by_name[name].items():
            heights = [values.get(level, np.nan) - best[seed] if level in values else np.nan for level in ticks]
            axis.plot(places, heights, "o", ms=3, color="0.6")
        axis.errorbar(
            places,
            [point.difference for point in row],
            yerr=[[0 if point.low is None else (point.high or 0) - point.difference for point in row]] * 2,
            color="C0",
            marker="o",
            ms=5,
            capsize=3,
        )
        axis.axhspan(-FLAT, FLAT, color="C2", alpha=0.2)
        axis.plot(ticks.index(centre[name]), 0.0, "*", ms=12, color="C3")
        axis.set_xticks(
            places, [f"{tick:.3g}" if isinstance(tick, float) else str(tick) for tick in ticks], rotation=45
        )
        axis.set_title(name.removesuffix("_fraction").replace("_", " "))
    axes[0][0].set_ylabel("accuracy minus the best setting's")
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path

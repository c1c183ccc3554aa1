"""The figure of `horizons.py`: early against late accuracy, from the runs' MLflow store."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
from horizons_statistics import Judged

from tuner.analysis.collected import CollectedSweep
from tuner.names import METRIC_ACCURACY
from tuner.trials import TrialRecord

mpl.use("Agg")
from matplotlib import pyplot as plt


def draw(collected: CollectedSweep, judged: Mapping[str, Judged], *, path: Path) -> Path:
    """Draw a panel for each way of looking ahead: the means over the seeds of each setting, early and at T."""
    by_way: dict[str, dict[int, list[TrialRecord]]] = {}
    for trial in collected.trials:
        setting = by_way.setdefault(str(trial.params["way"]), {}).setdefault(int(trial.params["setting"]), [])
        setting.append(trial)
    late = {setting: _mean([trial.metrics for trial in trials]) for setting, trials in by_way["T"].items()}
    ways = [way for way in judged if way != "T"]
    figure, axes = plt.subplots(1, len(ways), figsize=(3.2 * len(ways), 3.4), layout="constrained", sharey=True)
    for way, axis in zip(ways, axes, strict=True):
        if way in by_way:
            early = {setting: _mean([trial.metrics for trial in trials]) for setting, trials in by_way[way].items()}
        else:
            steps = max(len(collected.recorded.curve(t, ["step"])["step"]) for t in by_way["T"][0])
            early = {
                setting: _mean([collected.recorded.evaluations(trial).get(_cut(way, steps), {}) for trial in trials])
                for setting, trials in by_way["T"].items()
            }
        settings = sorted(early)
        axis.plot([early[each] for each in settings], [late[each] for each in settings], "o", ms=4, alpha=0.7)
        axis.plot(early[0], late[0], "o", ms=7, mfc="none", color="C3", label="published")
        rank = judged[way].rank
        axis.set(xlabel=f"accuracy, {way}", title="all equal" if rank is None else f"rank correlation {rank:.2f}")
    axes[0].set_ylabel("accuracy at T")
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _cut(way: str, steps: int) -> int:
    return steps // int(way.rpartition("/")[2])


def _mean(metrics: list[Mapping[str, float]]) -> float:
    return float(np.mean([each.get(METRIC_ACCURACY, 0.5) for each in metrics]))

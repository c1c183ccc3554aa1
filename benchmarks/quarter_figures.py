"""The figures of `quarter_budget.py`, and when a run has the loss of a full one, from the runs' MLflow store."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np

from tuner.analysis.collected import CollectedSweep
from tuner.analysis.target import Target, steps_to
from tuner.names import METRIC_FINAL_LOSS, METRIC_LOSS, METRIC_LR
from tuner.trials import TrialRecord

mpl.use("Agg")
from matplotlib import pyplot as plt


def evaluations(collected: CollectedSweep, *, data: str) -> dict[str, dict[int, TrialRecord]]:
    """Return the evaluation runs on a data set by method and seed."""
    found: dict[str, dict[int, TrialRecord]] = {}
    for trial in collected.trials:
        if trial.params.get("part") == "evaluation" and trial.params.get("unit", "").startswith(f"{data} seed "):  # type: ignore[union-attr]
            seed = int(str(trial.params["unit"]).split()[-2])
            found.setdefault(str(trial.params["method"]), {})[seed] = trial
    return found


def steps_to_full_loss(
    collected: CollectedSweep, *, data: str, methods: Sequence[str], best: str
) -> dict[str, list[int | None]]:
    """Return, by method and seed, after how many steps a run has the final loss of `best` under the same seed.

    A loss is a mean over a twentieth of the run, as for `fastface-tuner compare --target`.
    """
    runs = evaluations(collected, data=data)
    found: dict[str, list[int | None]] = {method: [] for method in methods}
    for seed, full in sorted(runs[best].items()):
        loss = full.metrics.get(METRIC_FINAL_LOSS)
        for method in methods:
            trial = runs[method].get(seed)
            done = trial is not None and trial.state == "COMPLETE" and loss is not None
            target = Target(METRIC_LOSS, loss or 0.0, maximize=False)
            found[method].append(steps_to(target, collected, trial) if done and trial is not None else None)
    return found


def draw(collected: CollectedSweep, accuracy: Mapping[str, Sequence[float | None]], *, data: str, path: Path) -> Path:
    """Draw LR and loss of the first evaluation seed, and all accuracies by method."""
    runs = evaluations(collected, data=data)
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    for index, (method, by_seed) in enumerate(sorted(runs.items())):
        trial = by_seed[min(by_seed)]
        curve = collected.recorded.curve(trial, [METRIC_LOSS, METRIC_LR])
        style = {"color": f"C{index % 10}", "lw": 1.2, "ls": "-" if method.endswith("T/4") else "--"}
        losses = curve[METRIC_LOSS]
        width = max(1, len(losses) // 50)
        smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
        left.plot(curve[METRIC_LR], **style)
        middle.plot(np.arange(len(smooth)) + width, smooth, label=method, **style)
    left.set(xlabel="step", ylabel="LR", yscale="log", title=f"{data}, one seed")
    middle.set(xlabel="step", ylabel="training loss, smoothed", title="the same runs")
    middle.legend(fontsize=7)
    for place, values in enumerate(accuracy.values()):
        found = [value for value in values if value is not None]
        right.plot(found, [place] * len(found), "o", ms=3, color="0.6")
        right.plot(np.mean(found) if found else np.nan, place, "|", ms=16, mew=2, color="C3")
    right.set_yticks(range(len(accuracy)), list(accuracy), fontsize=8)
    right.invert_yaxis()
    right.set(xlabel="accuracy on new people", title="each evaluation seed, and the mean")
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path

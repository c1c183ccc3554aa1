"""The figure of `scale.py`: how long a batch takes on 1 to 64 GPUs, and what the GPUs do meanwhile."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from scale_model import Order, Outcome, Trial, shortest, unshared

mpl.use("Agg")
from matplotlib import pyplot as plt


def draw(
    trials: Sequence[Trial], outcomes: Mapping[Order, Mapping[int, Outcome]], *, seconds: float, title: str, path: Path
) -> None:
    """Draw makespan and GPU hours against the number of GPUs, a line for each order."""
    numbers = list(next(iter(outcomes.values())))
    hours = seconds / 3600
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    left.plot(numbers, [unshared(trials, gpus=n) * hours for n in numbers], "o-", color="0.6", ms=3, label="not shared")
    least = [shortest(trials, gpus=n) * hours for n in numbers]
    left.plot(numbers, least, "--", color="0.6", lw=1, label="no order can be faster")
    for index, (order, by_gpus) in enumerate(outcomes.items()):
        color, found = f"C{index}", list(by_gpus.values())
        left.plot(numbers, [each.makespan * hours for each in found], "o-", color=color, ms=4, label=order)
        busy = [each.busy * hours for each in found]
        right.plot(
            numbers, [(each.busy + each.waiting) * hours for each in found], "o-", color=color, ms=4, label=order
        )
        right.plot(numbers, busy, ":", color=color, lw=1.5, label="of these training" if index == 0 else None)
    whole = next(iter(outcomes["first come"].values())).asked
    right.axhline(whole * hours, color="0.6", label="not shared")
    left.set(xlabel="GPUs", ylabel="hours until all are done", title=title, xscale="log", yscale="log")
    right.set(
        xlabel="GPUs", ylabel="GPU hours", title="GPU hours kept, and spent on training", xscale="log", ylim=(0, None)
    )
    for axis in (left, right):
        axis.set_xticks(numbers, [str(each) for each in numbers])
        axis.minorticks_off()
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)

"""What one `step` of the scheduler costs: FastFaceLR and HaarLR against torch's ReduceLROnPlateau, side by side.

    python benchmarks/scheduler_step.py [--rounds 101] [--block 500]

Each round runs one block of steps of each scheduler in turn, so that whatever else the machine does falls on all of
them; a ratio is taken within a round, and the median and the quartiles over the rounds are printed. The rounds are
repeated after 10^5 and 10^6 steps: a cost that grows would show. Rule: the median ratio of FastFaceLR, at
each step count and for each kind of loss, is at most 1.
"""

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau

from tuner import FastFaceLR, HaarLR

TOTAL_STEPS = 1_500_000
STEP_COUNTS = (0, 100_000, 1_000_000)
Step = Callable[[float | torch.Tensor], None]


def optimizer() -> SGD:
    """Return an optimizer with one param group, the cheapest case for the reference."""
    return SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)


def schedulers() -> dict[str, Step]:
    """Return the `step` of each scheduler, all with the same patience, the reference first."""
    patience = TOTAL_STEPS // 20
    return {
        "ReduceLROnPlateau": ReduceLROnPlateau(optimizer(), patience=patience).step,
        "FastFaceLR": FastFaceLR(optimizer(), total_steps=TOTAL_STEPS, patience=patience).step,
        "FastFaceLR, no delay": FastFaceLR(optimizer(), total_steps=TOTAL_STEPS, patience=patience, loss_delay=0).step,
        "HaarLR": HaarLR(optimizer(), total_steps=TOTAL_STEPS, patience=patience).step,
    }


def block(step: Step, losses: Sequence[float | torch.Tensor]) -> float:
    """Return the nanoseconds that one call of `step` took, on average over `losses`."""
    begin = time.perf_counter_ns()
    for loss in losses:
        step(loss)
    return (time.perf_counter_ns() - begin) / len(losses)


def measure(steps: dict[str, Step], losses: Sequence[float | torch.Tensor], rounds: int) -> dict[str, list[float]]:
    """Return the cost of each scheduler in each round, in nanoseconds per step."""
    costs: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            costs[name].append(block(step, losses))
    return costs


def main() -> int:
    """Print the table; return 1 where the rule does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--block", type=int, default=500)
    arguments = parser.parse_args()
    values = np.random.default_rng(0).normal(8, 1, arguments.block).tolist()
    kinds: dict[str, list[float | torch.Tensor]] = {
        "float": values,
        "CPU tensor": [torch.tensor(value) for value in values],
    }
    print(f"{platform.platform()}, {_processor()}, {os.cpu_count()} cores")
    print(f"Python {platform.python_version()}, torch {torch.__version__}")
    print(f"{arguments.rounds} rounds of {arguments.block} steps; ratio to ReduceLROnPlateau: median (quartiles)\n")
    print(f"{'steps before':>12}  {'loss':<10}  {'scheduler':<20}  {'ns/step':>8}  ratio")
    worst = 0.0
    steps = schedulers()
    done = 0
    for count in STEP_COUNTS:
        for name, step in steps.items():
            if name != "ReduceLROnPlateau":  # its cost has no way to depend on the count
                for _ in range((count - done) // len(values)):
                    block(step, values)
        done = count
        for kind, losses in kinds.items():
            costs = measure(steps, losses, arguments.rounds)
            done += arguments.rounds * arguments.block
            for name, cost in costs.items():
                ratios = [ours / theirs for ours, theirs in zip(cost, costs["ReduceLROnPlateau"], strict=True)]
                low, median, high = statistics.quantiles(ratios, n=4)
                row = f"{count:>12}  {kind:<10}  {name:<20}  {statistics.median(cost):8.0f}"
                print(f"{row}  {median:.2f} ({low:.2f}-{high:.2f})")
                if name == "FastFaceLR":
                    worst = max(worst, median)
    print(f"\nworst median ratio of FastFaceLR: {worst:.2f}, at most 1.00 is {'met' if worst <= 1 else 'NOT met'}")
    return 0 if worst <= 1 else 1


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown processor"


if __name__ == "__main__":
    sys.exit(main())

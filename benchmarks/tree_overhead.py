"""What the stage tree costs a trial that shares nothing: recording, checkpoints on their grid and at decays, look-up.

The same run of the default workload with a fresh store and without one, in turn; the ratio of their times.

    python benchmarks/tree_overhead.py --rounds 3
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
from machine import banner

from tuner.config.run import RunConfig
from tuner.stages.store import StageStore
from tuner.stages.trial import run_trial

CPU = torch.device("cpu")


def main() -> None:
    """Print seconds with and without a store, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="each round runs both once")
    parser.add_argument("--steps", type=int, default=600, help="training steps of a run")
    options = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    print(banner("torch", "fastface-tuner"))
    settings = {"patience_fraction": 0.1, "decay_factor": 2.0}
    config = RunConfig.model_validate({"total_steps": options.steps, "scheduler": {"settings": settings}})
    run(config, share=False)  # the first one decodes the faces and warms the kernels up
    ratios = []
    for index in range(options.rounds):
        # Either goes first in turn: the machine may change its pace.
        times = {share: run(config, share=share) for share in ((True, False) if index % 2 else (False, True))}
        ratios.append(times[True] / times[False])
        print(f"without {times[False]:.2f} s, with {times[True]:.2f} s, ratio {ratios[-1]:.3f}", flush=True)
    print(f"ratio: median {statistics.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}")


def run(config: RunConfig, *, share: bool) -> float:
    """Return the seconds that a run takes."""
    with tempfile.TemporaryDirectory() as folder:
        store = StageStore(Path(folder) / "stages") if share else None
        started = time.perf_counter()
        for _ in run_trial(config, Path(folder), device=CPU, store=store, label="x"):
            pass
        return time.perf_counter() - started


if __name__ == "__main__":
    main()

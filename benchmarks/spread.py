"""Does the schedule explain a sweep's spread? Best and worst trial against the same setting under other seeds.

Takes a finished sweep, trains the settings of its best trial, its worst and its reference again with new seeds, and
prints both spreads. Seeds change the initial weights and the order of the batches, not the people held out.

    fastface-tuner sweep fastface --data synthetic --name first
    python benchmarks/spread.py first --seeds 3
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path

import torch
from machine import banner

from tuner.search.ledger import Ledger
from tuner.search.plan import Assignment, run_config
from tuner.stages.trial import run_trial
from tuner.sweep.folder import find_sweep
from tuner.training.process import training_device


def main() -> None:
    """Print the sweep's spread and that of the seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", help="a sweep's folder or name")
    parser.add_argument("--seeds", type=int, default=3, help="new seeds of each setting")
    options = parser.parse_args()
    training_device(threads=len(os.sched_getaffinity(0)))
    ledger = Ledger.open(find_sweep(options.sweep).journal, read_only=True)
    plan = ledger.plan
    metric, maximize = plan.space.objective.metric, plan.space.objective.maximize
    done = sorted((trial for trial in ledger.trials() if trial.value is not None), key=lambda trial: trial.value or 0.0)
    worst, best = (done[0], done[-1]) if maximize else (done[-1], done[0])
    print(banner("torch", "fastface-tuner"))
    print(f"sweep {options.sweep}: {len(done)} trials of {plan.steps} steps on {plan.data or 'synthetic faces'}")
    print(f"  {metric} from {worst.value:.4f} (trial {worst.number}) to {best.value:.4f} (trial {best.number})")
    for name, trial in (("best", best), ("reference", ledger.trials()[0]), ("worst", worst)):
        values = []
        config = run_config(plan, Assignment(trial.scheduler, trial.settings, trial.base_lr))
        for seed in range(plan.seed + 1, plan.seed + 1 + options.seeds):
            seeded = config.model_copy(update={"seed": seed})
            with tempfile.TemporaryDirectory() as folder:
                *_, last = run_trial(seeded, Path(folder), device=torch.device("cpu"), store=None)
            values.append(last.metrics[metric])
        listed = ", ".join(f"{value:.4f}" for value in values)
        print(
            f"  {name:9} trial {trial.number:2}: {metric} {trial.value:.4f}; new seeds {listed}: "
            f"spread {max(values) - min(values):.4f}, standard deviation {statistics.stdev(values):.4f}",
            flush=True,
        )
    print(f"best - worst in the sweep: {abs((best.value or 0) - (worst.value or 0)):.4f}")


if __name__ == "__main__":
    main()

"""What a decision grid costs the result, and what it saves: the same settings with decisions every T/G steps, and any.

Random settings of the default space, each trained without a grid and on grids of several G. For each G: the mean
difference of the value to the run without a grid, paired by setting, and the steps that the settings execute when they
share a store.

    python benchmarks/decision_grid.py --settings 40 --out grid_runs
"""

import argparse
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from laboratory import Account, Laboratory, valued
from machine import banner
from scipy.stats import spearmanr

from tuner.config.space_file import load_space
from tuner.search.plan import Assignment, assignment, make_plan, run_config
from tuner.search.samplers import Past, Suggester
from tuner.training.process import training_device


def main() -> None:
    """Train, and print a row for each grid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="fastface", help="search space")
    parser.add_argument("--steps", type=int, help="steps of a run [default: the space's]")
    parser.add_argument("--settings", type=int, default=40, help="random settings of the space")
    parser.add_argument("--grids", type=int, nargs="+", default=[100, 50, 30], help="values of G")
    parser.add_argument("--seed", type=int, default=1000, help="of the settings; training is seeded with 0")
    parser.add_argument("--compile", action="store_true", help="train with `compute.compile`, which is faster")
    parser.add_argument("--out", type=Path, help="where finished runs are kept, to go on later")
    options = parser.parse_args()
    training_device(threads=1)
    print(banner("torch", "fastface-tuner"))
    with tempfile.TemporaryDirectory() as scratch:
        measure(options, Path(scratch))


def measure(options: argparse.Namespace, scratch: Path) -> None:
    """Print a row for each grid as soon as it is known."""
    plan = make_plan(load_space(options.space), steps=options.steps, decision_grid=0)
    laboratory = Laboratory(options.out or scratch / "runs")
    suggester = Suggester(plan.space, sampler="random", seed=options.seed)
    drawn, past = [], list[Past]()
    for number in range(options.settings):
        params = suggester.draw(number, past) or {}
        drawn.append(params)
        past.append(Past(number, params, 0.0, drawn=True))
    values: dict[int, list[float]] = {}
    metric = plan.space.objective.metric
    print(f"{options.settings} random settings of {options.space}, {plan.steps} steps each; {metric} on the same seed")
    print("   G   executed   asked / executed   mean difference to no grid   std   rank correlation   best")
    for grid in (0, *options.grids):
        account = Account(scratch / str(grid))
        executed, found = 0, []
        for number, params in enumerate(drawn):
            chosen: Assignment = assignment(replace(plan, decision_grid=grid), params)
            config = valued(run_config(plan, chosen), compiled=options.compile)
            run = laboratory.run(config)
            executed += account.book(config, run, label=str(number)).executed
            found.append(run.metrics[metric])
        values[grid] = found
        differences = [value - base for value, base in zip(found, values[0], strict=True)]
        spread = statistics.stdev(differences)
        error = spread / len(differences) ** 0.5
        rank = 1.0 if grid == 0 else spearmanr(found, values[0]).statistic
        print(
            f"{grid:4} {executed:10} {options.settings * plan.steps / executed:18.2f}"
            f" {statistics.mean(differences):+17.4f} ± {error:.4f} {spread:9.4f} {rank:16.3f} {max(found):10.4f}",
            flush=True,
        )
    if options.out:
        (options.out / "decision_grid.json").write_text(json.dumps(values))


if __name__ == "__main__":
    main()

"""Recorded runs through the stage tree on 1 to 64 simulated GPUs: how long, how many GPU hours, what is shared.

A batch of trials that are all known beforehand, as of a random sampler, is trained on a number of GPUs at once. No GPU
is needed: of each run LRs and losses are on record, so it is known where any two part, and the simulation follows the
rules of the runner (`scale_model.py`): no step is trained twice, who comes second follows, each departure costs the
steps back to the nearest checkpoint. Three orders, none of which knows more than the stage store does at that moment:

    first come       trials in their order; each GPU takes the next one, and waits where another one trains its steps
    critical path    of the trials that need not wait, the one with most steps left to train
    depth first      of the trials that need not wait, the one with fewest steps left

Without runs the benchmark makes its own: the real schedulers with settings drawn at random from a space, on losses of a
simple model, not of training.

    python benchmarks/scale.py --out scale                            # simulated losses, half a minute
    python benchmarks/scale.py --sweep fastface --out scale           # a finished sweep, by name or folder
    python benchmarks/scale.py --laboratory lab --named random --out scale    # runs of another benchmark
"""

import argparse
import json
import math
import random
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from machine import banner
from scale_figures import draw
from scale_model import ORDERS, Order, Outcome, Recorded, Trial, batch, rows, shortest, simulate, unshared

from tuner.config.space_file import load_space
from tuner.curves import read_curve
from tuner.evaluations import read_evaluations
from tuner.names import CURVE_FILE, EVALUATIONS_FILE
from tuner.search.ledger import Ledger
from tuner.search.plan import make_plan
from tuner.stages.tree import Plan
from tuner.stages.trial import plan_of
from tuner.sweep.folder import find_sweep
from tuner.training import delay

GPUS = (1, 2, 4, 8, 16, 32, 64)


def main() -> None:
    """Take or make runs, simulate, print the table, draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--sweep", help="a finished sweep's folder or name")
    source.add_argument("--laboratory", type=Path, help="the folder of a benchmark that keeps its runs")
    parser.add_argument("--named", default="", help="of a laboratory with a log, the runs whose names begin so")
    parser.add_argument("--space", default="fastface", help="search space of simulated runs")
    parser.add_argument("--steps", type=int, help="steps of a simulated run [default: the space's]")
    parser.add_argument("--trials", type=int, default=100, help="runs to take at most, or to make")
    parser.add_argument("--gpus", type=int, nargs="+", default=GPUS, help="numbers of GPUs")
    parser.add_argument("--seconds", type=float, default=0.5, help="of a training step, for the hours")
    parser.add_argument("--seed", type=int, default=0, help="of simulated runs")
    parser.add_argument("--out", type=Path, default=Path(), help="where the picture and the numbers go")
    options = parser.parse_args()
    print(banner("fastface-tuner"))
    if options.sweep is not None:
        runs, what = of_sweep(options.sweep), f"recorded runs of the sweep {options.sweep}"
    elif options.laboratory is not None:
        runs, what = of_laboratory(options.laboratory, named=options.named), "recorded runs"
    else:
        runs = simulated(options.space, trials=options.trials, steps=options.steps, seed=options.seed)
        what = f"runs of {options.space} with SIMULATED losses"
    measure(runs[: options.trials], what, gpus=options.gpus, seconds=options.seconds, out=options.out)


def measure(runs: Sequence[Recorded], what: str, *, gpus: Sequence[int], seconds: float, out: Path) -> None:
    """Simulate all orders and numbers of GPUs; print and draw."""
    trials = batch(runs)
    print(f"{len(trials)} {what}, {sum(each.num_steps for each in trials)} steps, {seconds:g} s a step")
    outcomes = {order: {n: simulate(trials, gpus=n, order=order) for n in gpus} for order in ORDERS}
    print(table(trials, outcomes, seconds=seconds))
    out.mkdir(parents=True, exist_ok=True)
    draw(trials, outcomes, seconds=seconds, title=f"{len(trials)} {what}", path=out / "scale.png")
    (out / "scale.json").write_text(json.dumps(rows(outcomes), indent=1))
    print(f"drawn: {out / 'scale.png'}")


def table(trials: Sequence[Trial], outcomes: dict[Order, dict[int, Outcome]], *, seconds: float) -> str:
    """Return all outcomes as a table."""
    hours = seconds / 3600
    lines = [
        "| GPUs | order | makespan, steps | hours | times not shared | GPU hours training | waiting | repeated steps "
        "| steps saved |",
        "|---:|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for gpus in next(iter(outcomes.values())):
        least, without = shortest(trials, gpus=gpus), unshared(trials, gpus=gpus)
        for order, by_gpus in outcomes.items():
            each = by_gpus[gpus]
            lines.append(
                f"| {gpus} | {order} | {each.makespan} | {each.makespan * hours:.2f} | {each.makespan / without:.2f} "
                f"| {each.busy * hours:.2f} | {each.waiting * hours:.2f} | {each.repeated} | {100 * each.saved:.1f} % |"
            )
        lines.append(f"| {gpus} | *no order can be faster* | {math.ceil(least)} | {least * hours:.2f} | | | | | |")
    return "\n".join(lines)


def of_sweep(name: str) -> list[Recorded]:
    """Return the finished trials of a sweep."""
    folder = find_sweep(name)
    done = [trial for trial in Ledger.open(folder.journal, read_only=True).trials() if trial.value is not None]
    return [recorded(folder.trial(trial.number)) for trial in done]


def of_laboratory(folder: Path, *, named: str = "") -> list[Recorded]:
    """Return the runs that `laboratory.py` keeps in a folder, as its log names them, or in the order of their ends."""
    runs, log = folder / "runs", folder / "log.jsonl"
    if log.exists():
        noted = [json.loads(line) for line in log.read_text().splitlines()]
        names = [each["folder"] for each in noted if each["run"].startswith(named)]
    else:
        names = [
            path.parent.name for path in sorted(runs.glob(f"*/{CURVE_FILE}"), key=lambda path: path.stat().st_mtime)
        ]
    return [recorded(runs / name) for name in dict.fromkeys(names) if not (runs / name / "failure.txt").exists()]


def recorded(folder: Path) -> Recorded:
    """Return the run whose curve and evaluations are in a folder."""
    curve = read_curve(folder / CURVE_FILE)
    evaluations = read_evaluations(folder / EVALUATIONS_FILE)
    return Recorded([each.lr for each in curve], [each.loss for each in curve], frozenset(evaluations))


def simulated(space: str, *, trials: int, steps: int | None, seed: int) -> list[Recorded]:
    """Make runs of settings drawn at random, with the losses of `simulated_losses`."""
    plan = make_plan(load_space(space), steps=steps, seed=seed, sampler="random", cost_aware=False)
    made = []
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger.create(Path(folder) / "study.journal", plan=plan)
        for number in range(trials):
            suggestion = ledger.ask()
            if suggestion is None:
                break
            run = simulated_run(plan_of(suggestion.config), seed=seed)
            made.append(replace(run, evaluate_at=frozenset(suggestion.config.evaluation_steps())))
            ledger.tell(number, value=-run.losses[-1])
    return made


def simulated_run(plan: Plan, *, seed: int) -> Recorded:
    """Run a schedule on a loss that falls by a part of its way each step, the faster the higher the LR.

    It stays above a floor that falls with the LR too, and has the same noise for all runs of a seed, so that runs with
    the same LRs are the same run.
    """
    noise = random.Random(seed)  # noqa: S311 - no secret
    outlook, distance = plan.begin(), 1.0
    lrs, losses = [], []
    for _ in range(plan.total_steps):
        share = outlook.factors[0]
        loss = 1.0 + 6.0 * distance + 1.5 * share + 0.15 * noise.gauss(0.0, 1.0)
        lrs.append(plan.base_lr * share)
        losses.append(loss)
        distance *= 1.0 - 8.0 * share / plan.total_steps
        outlook = delay.advance(plan.schedule, outlook, loss)
    return Recorded(lrs, losses)


if __name__ == "__main__":
    main()

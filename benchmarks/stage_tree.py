"""What the stage tree saves, and what a search gains that knows what is free: the default space on rendered faces.

For each seed of the search:

    plain       the space's own sampler, 100 trials that share their steps; unshared they cost 100 runs
    cost-aware  candidates by expected improvement per step that is left to train, for a fifth of those 100 runs' steps

(a) steps that the plain trials ask for / steps that they execute;
(b) steps that the cost-aware search executes until it has the plain search's best value / steps of 100 runs.

Seeds differ in the search only: training is seeded with 0 throughout, so every distinct run is trained once, on one
store, while the steps of each search are counted by the very runner on a store of its own (see `laboratory.py`). Ten
trials, drawn at random, are trained once more without sharing and compared bit for bit.

The wall time of a search is that of asking for its trials, measured, and of running them, by the pace of this machine:
every run that was trained here noted its seconds (data, restored checkpoint, steps, checkpoints, records, evaluation)
and its executed steps; a line through them gives the seconds of a step and those of a run besides. Sharing, a trial
takes the latter and its executed steps, and nothing where it repeats an earlier trial of its search; not sharing, the
latter and all of its steps. Ray and MLflow are left out of all of them.

    python benchmarks/stage_tree.py --seeds 5 --out lab       # an hour and more; goes on where it was
    python benchmarks/stage_tree.py --first-seed 10 --seeds 5 --compile --out lab     # other seeds, sooner
    python benchmarks/stage_tree.py --seeds 5 --out lab --checked 0       # draws again what is there, in minutes
    python benchmarks/stage_tree.py --space smoke --trials 12 --seeds 2 --checked 2      # a minute
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import matplotlib as mpl
from laboratory import CPU, Account, Laboratory, valued
from machine import banner
from scipy.stats import theilslopes

from tuner.config.space_file import load_space
from tuner.names import CURVE_FILE
from tuner.search.ledger import Ledger
from tuner.search.plan import Plan, make_plan
from tuner.stages.trial import run_trial
from tuner.training.process import training_device

mpl.use("Agg")
from matplotlib import pyplot as plt


@dataclass(frozen=True)
class Pace:
    """How long a run takes on this machine, in seconds, as the `runs` that were trained on it say.

    `explained` is what it gives for those runs in all, as a share of what they took.
    """

    step: float
    besides: float
    runs: int
    explained: float

    @classmethod
    def of(cls, costs: Sequence[Mapping[str, float]]) -> "Pace":
        """Return the pace of runs with these costs; a busy hour of the machine does not move it much."""
        steps, seconds = ([float(each[name]) for each in costs] for name in ("steps_executed", "seconds"))
        if len(set(steps)) > 1:
            slope, intercept, *_ = theilslopes(seconds, steps, method="joint")
        else:
            slope, intercept = sum(seconds) / max(1.0, sum(steps)), 0.0
        step, besides = float(slope), max(0.0, float(intercept))
        return cls(step, besides, len(costs), (step * sum(steps) + besides * len(costs)) / sum(seconds))

    def __str__(self) -> str:
        return (
            f"{1000 * self.step:.1f} ms a step and {self.besides:.2f} s a run besides, from {self.runs} runs, "
            f"{self.explained:.2f} of what they took in all"
        )


@dataclass(frozen=True)
class Search:
    """One search: after each trial, its value (more is better), and what it took until then.

    `executed` and `asked` count steps, `trained` runs that were not repeats of an earlier one, `asking` the seconds in
    which trials were chosen.
    """

    values: list[float]
    executed: list[int]
    asked: list[int]
    trained: list[int]
    asking: list[float]

    def best(self) -> list[float]:
        """Return the best value so far."""
        return [max(self.values[: index + 1]) for index in range(len(self.values))]

    def steps_until(self, value: float) -> int | None:
        """Return the steps executed until a value was reached; None: it never was."""
        return next((steps for steps, mine in zip(self.executed, self.values, strict=True) if mine >= value), None)

    def wall(self, pace: Pace, *, shared: bool) -> list[float]:
        """Return the seconds after each trial."""
        steps, runs = (self.executed, self.trained) if shared else (self.asked, range(1, len(self.asked) + 1))
        return [a + pace.step * s + pace.besides * r for a, s, r in zip(self.asking, steps, runs, strict=True)]

    def wall_until(self, value: float, pace: Pace, *, shared: bool) -> float:
        """Return the seconds until a value was reached; infinity: it never was."""
        reached = zip(self.wall(pace, shared=shared), self.values, strict=True)
        return next((seconds for seconds, mine in reached if mine >= value), float("inf"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all searches, print the figures, draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="fastface", help="search space")
    parser.add_argument("--steps", type=int, help="steps of a run [default: the space's]")
    parser.add_argument("--trials", type=int, default=100, help="trials of the plain search")
    parser.add_argument("--seeds", type=int, default=5, help="number of search seeds")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of them; the others follow it")
    parser.add_argument("--compile", action="store_true", help="train with `compute.compile`, which is faster")
    parser.add_argument("--checked", type=int, default=10, help="trials to train again without sharing")
    parser.add_argument("--part", choices=["all", "plain", "cost-aware"], default="all", help="which searches")
    parser.add_argument("--out", type=Path, help="where runs are kept, to go on later, and the picture goes")
    options = parser.parse_args(arguments)
    training_device(threads=1)
    print(banner("torch", "optuna", "scikit-learn", "fastface-tuner"))
    with tempfile.TemporaryDirectory() as scratch:
        measure(options, Path(scratch))


def measure(options: argparse.Namespace, scratch: Path) -> None:
    """Run the searches of all seeds."""
    out = options.out or scratch / "out"
    laboratory = Laboratory(out)
    plan = make_plan(load_space(options.space), steps=options.steps)
    searched = partial(search, laboratory=laboratory, compiled=options.compile)
    whole = options.trials * plan.steps
    print(
        f"space {options.space}, decision grid {plan.decision_grid}, {options.trials} trials of {plan.steps} steps"
        f"{', compiled' if options.compile else ''}"
    )
    plain: dict[int, Search] = {}
    thrifty: dict[int, Search] = {}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        seeded = replace(plan, seed=seed)
        if options.part != "cost-aware":
            plain[seed] = searched(seeded, scratch / f"plain{seed}", trials=options.trials)
            report(f"seed {seed} plain     ", plain[seed])
        if options.part != "plain":
            thrifty[seed] = searched(seeded, scratch / f"thrifty{seed}", budget=whole // 5)
            report(f"seed {seed} cost-aware", thrifty[seed])
    if not (plain and thrifty):
        return
    ratios = [each.asked[-1] / each.executed[-1] for each in plain.values()]
    print(f"(a) asked / executed of {options.trials} plain trials: {short(ratios)}")
    never = float("inf")
    shares = [(thrifty[seed].steps_until(max(plain[seed].values)) or never) / whole for seed in plain]
    print(f"(b) cost-aware to the plain best, share of the unshared steps: {short(shares)}")
    sharing = [(plain[seed].steps_until(max(plain[seed].values)) or never) / whole for seed in plain]
    print(f"    the plain search itself, with sharing: {short(sharing)}")
    pace = Pace.of(laboratory.costs())
    print(f"wall time: {pace}")
    ends = {seed: each.wall(pace, shared=False)[-1] for seed, each in plain.items()}
    for name, searches in (("cost-aware", thrifty), ("plain, shared", plain)):
        until = [searches[s].wall_until(max(plain[s].values), pace, shared=True) / ends[s] for s in plain]
        print(f"    {name} to the plain best, share of the unshared wall time: {short(until)}")
    if options.checked:
        check(laboratory, out, number=options.checked)
    draw(plain, thrifty, whole=whole, pace=pace, path=out / "stage_tree.png")
    found = {"plain": rows(plain, pace), "cost_aware": rows(thrifty, pace), "pace": asdict(pace)}
    (out / "stage_tree.json").write_text(json.dumps(found))


def search(
    plan: Plan,
    folder: Path,
    *,
    laboratory: Laboratory,
    compiled: bool,
    trials: int | None = None,
    budget: int | None = None,
) -> Search:
    """Search for `trials` trials, or, cost-aware, for `budget` executed steps."""
    folder.mkdir()
    ledger, account = Ledger.create(folder / "study.journal", plan=plan), Account(folder / "stages")
    sign = 1.0 if plan.space.objective.maximize else -1.0
    found, known = Search([], [], [], [], []), set[Path]()
    executed, asking, number = 0, 0.0, 0
    while number < trials if trials is not None else executed < (budget or 0) and number < 10 * plan.space.trials + 500:
        started = time.perf_counter()
        look_up = None if budget is None else account.prospects(plan)
        suggestion = ledger.ask(forecast=look_up, spent=executed / (budget or 1))
        asking += time.perf_counter() - started
        if suggestion is None:
            break
        config = valued(suggestion.config, compiled=compiled)
        run = laboratory.run(config)
        executed += account.book(config, run, label=str(number)).executed
        value = run.metrics[plan.space.objective.metric]
        ledger.tell(number, value=value)
        number += 1
        found.values.append(sign * value)
        found.executed.append(executed)
        found.asked.append(number * plan.steps)
        known.add(run.folder)
        found.trained.append(len(known))
        found.asking.append(asking)
    return found


def check(laboratory: Laboratory, out: Path, *, number: int) -> None:
    """Train some of the runs again without sharing, and compare curves and metrics bit for bit."""
    chosen = random.Random(0).sample(laboratory.configs, min(number, len(laboratory.configs)))  # noqa: S311
    equal, seconds = 0, 0.0
    for index, config in enumerate(chosen):
        folder = out / "unshared" / str(index)
        started = time.perf_counter()
        *_, last = run_trial(config, folder, device=CPU, store=None)
        seconds += time.perf_counter() - started
        run = laboratory.run(config)
        curves: Mapping[bool, bytes] = {
            shared: (place / CURVE_FILE).read_bytes() for shared, place in ((True, run.folder), (False, folder))
        }
        equal += curves[True] == curves[False] and dict(last.metrics) == dict(run.metrics)
    print(
        f"trained again without sharing: {equal} of {len(chosen)} equal bit for bit, {seconds / len(chosen):.1f} s each"
    )


def report(name: str, found: Search) -> None:
    """Print one search."""
    print(
        f"{name}: {len(found.values)} trials, {found.asked[-1]} steps asked, {found.executed[-1]} executed "
        f"(ratio {found.asked[-1] / found.executed[-1]:.2f}), best {max(found.values):.4f} after "
        f"{found.steps_until(max(found.values))} steps; asking took {found.asking[-1]:.1f} s",
        flush=True,
    )


def rows(searches: Mapping[int, Search], pace: Pace) -> dict[int, dict[str, list[float]]]:
    """Return the searches as JSON-like data."""
    return {
        seed: {
            **asdict(each),
            "wall_shared": each.wall(pace, shared=True),
            "wall_unshared": each.wall(pace, shared=False),
        }
        for seed, each in searches.items()
    }


def draw(plain: Mapping[int, Search], thrifty: Mapping[int, Search], *, whole: int, pace: Pace, path: Path) -> None:
    """Draw steps saved against trials, and the best value against steps and against wall time."""
    figure, (left, right, last) = plt.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
    for seed, each in plain.items():
        number = range(1, len(each.values) + 1)
        once = "" if seed == min(plain) else "_"  # which keeps a line out of the legend
        left.plot(number, [a / e for a, e in zip(each.asked, each.executed, strict=True)], color="C0", lw=1)
        right.step(each.asked, each.best(), where="post", color="0.6", lw=1, label=f"{once}not shared")
        right.step(each.executed, each.best(), where="post", color="C0", lw=1, label=f"{once}shared")
        for shared, color in ((False, "0.6"), (True, "C0")):
            last.step(minutes(each.wall(pace, shared=shared)), each.best(), where="post", color=color, lw=1)
    for seed, each in thrifty.items():
        label = "shared, cost-aware" if seed == min(thrifty) else "_"
        right.step(each.executed, each.best(), where="post", color="C1", lw=1.5, label=label)
        last.step(minutes(each.wall(pace, shared=True)), each.best(), where="post", color="C1", lw=1.5)
    left.set(xlabel="trials", ylabel="steps asked for / steps executed", title="plain sampler", ylim=(1, None))
    right.set(xlabel="training steps executed", ylabel="best value", title="a line for each search seed")
    right.axvline(whole / 5, color="0.8", ls="--")
    low = statistics.median(value for each in plain.values() for value in each.values)
    title = f"{1000 * pace.step:.0f} ms a step, {pace.besides:.1f} s a run besides"
    last.set(xlabel="minutes of searching and training", ylabel="best value", title=title)
    for panel in (right, last):
        panel.set_ylim(bottom=low)
    right.legend(loc="lower right")
    figure.savefig(path, dpi=110)
    print(f"drawn: {path.name}")


def minutes(seconds: Sequence[float]) -> list[float]:
    """Return seconds as minutes."""
    return [each / 60 for each in seconds]


def short(numbers: list[float]) -> str:
    """Return the median and all numbers as text."""
    return f"median {statistics.median(numbers):.3f} of " + ", ".join(f"{number:.3f}" for number in numbers)


if __name__ == "__main__":
    main()

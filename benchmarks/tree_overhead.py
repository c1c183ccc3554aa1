"""What the stage tree costs: a trial that shares nothing beside one without a tree, and the seconds of a whole sweep.

    python benchmarks/tree_overhead.py --rounds 3           the same run with a fresh store and without one, in turn
    python benchmarks/tree_overhead.py --sweep fastface     the sweep of a space, on a store of its own

Of a sweep every second between asking for the first trial and the end of the last is counted once, under the innermost
of: training (building the workload, its steps, reading losses, evaluations, opening the data), search (the sampler and
its model), and what the tree does: look-up (reading shelves, replaying schedules, also for forecasts), restore
(checkpoints read and loaded), checkpoints (copies made, waiting for writes), records (rows). The rest, "replay", is
known steps handed on, the loop, and the curve's file, which a trial without a tree has too. Writes in the background
are given beside them in CPU seconds. What known steps cost that were trained again is the tree's too.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from threading import current_thread, local, main_thread
from typing import Any
from unittest.mock import patch

import torch
from machine import banner

from tuner.config.run import RunConfig
from tuner.config.space_file import load_space
from tuner.search.ledger import Ledger
from tuner.search.plan import make_plan
from tuner.stages import checkpoint
from tuner.stages import trial as trials
from tuner.stages.recording import Recording
from tuner.stages.shelf import Shelf
from tuner.stages.store import StageStore
from tuner.stages.tree import Tree
from tuner.stages.trial import run_trial
from tuner.sweep import known_ground
from tuner.training.face import FaceWorkload
from tuner.training.loop import PendingLoss
from tuner.training.opened import OpenFaces
from tuner.training.process import training_device

CPU = torch.device("cpu")
TRAINING, SEARCH, BACKGROUND = "training", "search", "writes in the background"
PARTS = (
    (trials, "open_workload", TRAINING),
    (OpenFaces, "fingerprint", TRAINING),
    (OpenFaces, "build", TRAINING),
    (FaceWorkload, "training_step", TRAINING),
    (FaceWorkload, "evaluate", TRAINING),
    (PendingLoss, "read", TRAINING),
    (StageStore, "shelf", "look-up"),
    (known_ground.KnownGround, "refresh", "look-up"),
    (known_ground, "forecast", "look-up"),
    (Tree, "walk", "look-up"),
    (Shelf, "open_checkpoint", "restore"),
    (checkpoint, "load", "restore"),
    (FaceWorkload, "load_state_dict", "restore"),
    (Recording, "checkpoint", "checkpoints"),
    (Recording, "settle", "checkpoints"),
    (Recording, "close", "checkpoints"),
    (Recording, "evaluation", "records"),
    (Recording, "step", "records"),
    (Recording, "_attempt", BACKGROUND),
)


def main() -> None:
    """Print seconds with and without a store, or those of a sweep by kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="each round runs both once")
    parser.add_argument("--sweep", metavar="SPACE", help="account for the sweep of this space instead")
    parser.add_argument("--trials", type=int, help="of the sweep [default: the space's]")
    parser.add_argument("--steps", type=int, help="training steps of a run [default: 600, or the space's]")
    options = parser.parse_args()
    training_device(threads=len(os.sched_getaffinity(0)))
    print(banner("torch", "fastface-tuner"))
    if options.sweep is None:
        compare(options.steps or 600, rounds=options.rounds)
    else:
        with tempfile.TemporaryDirectory() as folder:
            tell(*account(Path(folder), space=options.sweep, trials=options.trials, steps=options.steps))


def compare(steps: int, *, rounds: int) -> None:
    """Train the same run with a fresh store and without one, in turn."""
    settings = {"patience_fraction": 0.1, "decay_factor": 2.0}
    config = RunConfig.model_validate({"total_steps": steps, "scheduler": {"settings": settings}})
    run(config, share=False)  # the first one decodes the faces and warms the kernels up
    ratios = []
    for index in range(rounds):
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


class Stopwatch:
    """Counts each second of the main thread once, under the innermost kind; CPU seconds of other threads apart."""

    def __init__(self) -> None:
        self.seconds = Counter[str]()
        self._inner = local()

    def timed(self, kind: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return the call with its time taken."""

        @wraps(call)
        def measured(*arguments: Any, **named: Any) -> Any:
            main = current_thread() is main_thread()
            clock = time.perf_counter if main else time.thread_time
            outer, self._inner.seconds = getattr(self._inner, "seconds", 0.0), 0.0
            started = clock()
            try:
                return call(*arguments, **named)
            finally:
                whole = clock() - started
                self.seconds[kind if main else BACKGROUND] += whole - self._inner.seconds
                self._inner.seconds = outer + whole

        return measured


def account(folder: Path, *, space: str, trials: int | None, steps: int | None) -> tuple[Counter[str], Counter[str]]:
    """Run a sweep as the tool does, without Ray and MLflow; return its seconds by kind and its steps."""
    plan = make_plan(load_space(space), steps=steps)
    ledger = Ledger.create(folder / "study.journal", plan=plan)
    store, ground = StageStore(folder / "stages"), known_ground.KnownGround(folder / "stages", ledger)
    number_of, watch, counted = trials or plan.space.trials, Stopwatch(), Counter[str]()

    def ask(done: int) -> Any:
        ground.refresh()
        return ledger.ask(forecast=ground.prospect if plan.cost_aware else None, spent=done / number_of)

    def train(config: RunConfig, number: int) -> Any:
        *_, last = run_trial(config, folder / str(number), device=CPU, store=store, label=str(number))
        return last

    with ExitStack() as patches:
        for place, name, kind in PARTS:
            patches.enter_context(patch.object(place, name, watch.timed(kind, getattr(place, name))))
        for number in range(number_of):
            suggestion = watch.timed(SEARCH, ask)(number)
            twin = None if suggestion is None else ledger.twin(number)
            if suggestion is None:
                break
            counted["steps asked for"] += plan.steps
            if twin is not None:
                ledger.tell(number, value=twin.value, metrics=twin.metrics, duplicate_of=twin.number)
                continue
            last = watch.timed("replay", train)(suggestion.config, number)
            counts = last.counts
            value = last.metrics[plan.space.objective.metric]
            ledger.tell(number, value=value, steps_executed=counts.executed, shelf=last.shelf)
            counted["steps trained"] += counts.executed
            counted["of them trained again"] += counts.repeated
            print(
                f"trial {number}: {counts.executed} of {plan.steps} steps trained, {counts.shared} shared", flush=True
            )
    return watch.seconds, counted


def tell(seconds: Counter[str], counted: Counter[str]) -> None:
    """Print the account."""
    print(", ".join(f"{name}: {number:,}" for name, number in counted.items()))
    training, search = seconds.pop(TRAINING), seconds.pop(SEARCH)
    again = training * counted["of them trained again"] / max(1, counted["steps trained"])
    training -= again
    tree = sum(seconds.values()) + again
    print(f"{TRAINING}: {training:.2f} s; {SEARCH}: {search:.2f} s ({search / training:.1%} of training)")
    for kind, spent in sorted((*seconds.items(), ("known steps trained again", again))):
        print(f"  {kind}: {spent:.2f} s ({spent / training:.2%})")
    print(f"the tree: {tree:.2f} s, {tree / training:.2%} of training (to be under 5 %)")


if __name__ == "__main__":
    main()

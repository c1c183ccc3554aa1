"""Run sweeps again and again until they end, each time in a fork that is killed at a random moment.

All is imported once and Ray is left out, so that a start costs no seconds: the fork runs the trials' actor itself. Run
as a program, since the fork of a process that has used torch may hang:

    python forked_sweep.py SEED FOLDER:KILLS:SIGNAL[:no-share]...

Each folder has an `mlflow.db`. For each it prints how many of the kills hit a sweep that had not ended.
"""

import os
import random
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from plain_executor import stand_in
from rich.console import Console

import tuner.sweep.run
import tuner.sweep.trial_process
import tuner.sweep.view
from tuner.names import TRACKING_URI_VARIABLE
from tuner.stages.files import ROW_BYTES, STEPS_FILE
from tuner.sweep.asked import Asked
from tuner.sweep.begin import new_sweep
from tuner.sweep.ending import Ending
from tuner.sweep.resume import find_begun, resume_sweep

SPACE = """
question: Does a sweep that is killed find what it would have found?
steps: 40
trials: 4
workload:
  data: {image_size: 32, identities: 16, images_per_identity: 6}
  model: {embedding_size: 32}
  optimizer: {batch_size: 16}
  evaluation: {pairs: 120, times: 2}
schedulers:
  - name: fastface
    parameters:
      # So that most trials decay, and depart from each other, at some step of 40.
      ema_window_fraction: {low: 0.05, high: 0.2, log: true}
      threshold_fraction: {low: 1, high: 20, log: true}
      patience_fraction: {low: 0.05, high: 0.6}
"""


def sweep(*, share: bool) -> None:
    """Do what `sweep space.yaml --seed 3 --name first --resume` does."""
    with Path("out.txt").open("a") as out, Ending() as ending:
        console = Console(file=out, markup=False)
        asked = Asked(space="space.yaml", seed=3, share=share, name="first")
        begun = find_begun(asked)
        if begun is not None:
            resume_sweep(begun, asked, console=console, ending=ending)
        else:
            new_sweep(asked, console=console, ending=ending)


def main() -> None:
    """Run one sweep after another."""
    stand_in(pytest.MonkeyPatch())
    tuner.sweep.lanes.num_cores = lambda: 1  # two threads would wait for each other on a busy machine
    moments = random.Random(int(sys.argv[1]))  # noqa: S311
    for each in sys.argv[2:]:
        folder, kills, number, *options = each.split(":")
        os.chdir(folder)
        os.environ[TRACKING_URI_VARIABLE] = f"sqlite:///{folder}/mlflow.db"
        Path("space.yaml").write_text(SPACE)
        print(run(int(kills), signal.Signals[number], moments, share="no-share" not in options), flush=True)  # noqa: T201


def run(kills: int, number: signal.Signals, moments: random.Random, *, share: bool) -> int:
    """Start, kill, start; after the last kill let it end."""
    hits = 0
    for _ in range(kills):
        steps, before = moments.randint(-5, 40), recorded()  # in steps, since machines differ; some hit the start-up
        child = start(share=share)
        time.sleep(moments.uniform(0, 0.3))
        while steps > 0 and not ended(child):
            time.sleep(0.005)
            now = recorded()
            steps, before = steps - max(0, now - before), now
        time.sleep(moments.uniform(0, 0.05))
        os.kill(child, number)
        hits += status_of(child) != 0
    if status_of(start(share=share)) != 0:
        sys.exit("the sweep did not end well")
    return hits


def start(*, share: bool) -> int:
    child = os.fork()
    if child:
        return child
    try:
        sweep(share=share)
    except SystemExit as ending:
        os._exit(ending.code)
    except BaseException as error:  # noqa: BLE001 - told by the status, the reason on stderr
        print(type(error).__name__, error, file=sys.stderr, flush=True)  # noqa: T201
        os._exit(1)
    os._exit(0)


def recorded() -> int:
    """Return how many steps all stage stores hold."""
    sizes = 0
    with suppress(FileNotFoundError):  # a trial's own store goes with it
        for pattern in ("stages", "sweeps/first/trials/*/stages"):
            sizes += sum(path.stat().st_size for path in Path().glob(f"{pattern}/*/stages/*/{STEPS_FILE}"))
    return sizes // ROW_BYTES


def ended(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def status_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    main()

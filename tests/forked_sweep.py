"""Run one sweep again and again until it ends, each time in a fork that is killed at a random moment.

All is imported once and Ray is left out, so that a start costs no seconds: the fork runs the trials' actor itself. Run
as a program, since the fork of a process that has used torch may hang:

    python forked_sweep.py FOLDER KILLS SIGNAL SEED [--no-share]
"""

import os
import random
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console

import tuner.sweep.executor
from tuner.stages.files import ROW_BYTES, STEPS_FILE
from tuner.sweep.ending import Ending
from tuner.sweep.jobs import STOP_FILE, STOPPED, TrialSource
from tuner.sweep.resume import Asked, find_begun, resume_sweep
from tuner.sweep.run import new_sweep
from tuner.sweep.trainable import TrialActor

SPACE = """
question: Does a sweep that is killed find what it would have found?
steps: 40
trials: 5
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


def execute(source: TrialSource, trainable: type[TrialActor], *, ending: Ending) -> None:
    """Run the source's trials in this process; stands in for `tuner.sweep.executor.execute`."""
    stop_file = Path("stop")
    stop_file.unlink(missing_ok=True)
    actor = trainable.__new__(trainable)
    with ending.gentle(stop_file.touch):
        while not ending.received and (job := source.next_trial()) is not None:
            config: dict[str, Any] = {**job.config, STOP_FILE: str(stop_file)}
            if actor._progress is None:
                actor.setup(config)
            else:
                actor.reset_config(config)
            while not (result := actor.step())["done"]:
                source.moved(job.number, result)
            if STOPPED not in result:
                source.ended(job.number, result)
    ending.check()


def sweep(*, share: bool) -> None:
    """Do what `sweep space.yaml --seed 3 --name first --resume` does."""
    console = Console(file=open("out.txt", "a"), markup=False)
    with Ending() as ending:
        begun = find_begun("first", None)
        if begun is not None:
            asked = Asked(space="space.yaml", steps=None, seed=3, data=None, share=share)
            resume_sweep(begun, trials=None, tracking_uri=None, asked=asked, console=console, ending=ending)
        else:
            new_sweep(
                "space.yaml",
                data=None,
                trials=None,
                steps=None,
                seed=3,
                name="first",
                out=None,
                tracking_uri=None,
                share=share,
                checkpoint_budget="1GiB",
                console=console,
                ending=ending,
            )


def main() -> None:
    """Start, kill, start; after the last kill let it end. Prints how many kills hit a sweep under way."""
    folder, kills, number, seed, *options = sys.argv[1:]
    os.chdir(folder)
    Path("space.yaml").write_text(SPACE)
    tuner.sweep.executor.execute = execute
    moments = random.Random(int(seed))
    hits = 0
    for _ in range(int(kills)):
        steps, before = moments.randint(-5, 40), recorded()  # in steps, since machines differ; some hit the start-up
        child = start(share="--no-share" not in options)
        time.sleep(moments.uniform(0, 0.3))
        while steps > 0 and not ended(child):
            time.sleep(0.005)
            now = recorded()
            steps, before = steps - max(0, now - before), now
        time.sleep(moments.uniform(0, 0.05))
        os.kill(child, getattr(signal, number))
        hits += status_of(child) != 0
    last = status_of(start(share="--no-share" not in options))
    print(hits)
    sys.exit(last)


def start(*, share: bool) -> int:
    child = os.fork()
    if child:
        return child
    try:
        sweep(share=share)
    except SystemExit as ending:
        os._exit(ending.code)
    except BaseException as error:  # noqa: BLE001 - told by the status, the reason on stderr
        print(type(error).__name__, error, file=sys.stderr, flush=True)
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

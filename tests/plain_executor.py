"""Run trials one after another in this process: stands in for `tuner.sweep.executor`, without Ray's start."""

from pathlib import Path
from typing import Any

import pytest

from tuner.sweep import executor
from tuner.sweep.ending import Ending
from tuner.sweep.jobs import FAILED, STOP_FILE, STOPPED, TrialSource
from tuner.sweep.lanes import ONE_LANE, Lanes
from tuner.sweep.ray_processes import RayProcesses


def stand_in(patch: pytest.MonkeyPatch) -> None:
    """Let sweeps run their trials here, and start no Ray."""
    patch.setattr(executor, "execute", execute)
    patch.setattr(RayProcesses, "begin", lambda _: None)


def execute(
    source: TrialSource, trainable: Any, *, ending: Ending, processes: RayProcesses, lanes: Lanes = ONE_LANE
) -> None:
    """Run the source's trials, each by an actor of its own; `trainable` need not be a Tune one."""
    stop_file = Path("stop")
    stop_file.unlink(missing_ok=True)
    with ending.gentle(stop_file.touch):
        while not ending.received and (job := source.next_trial()) is not None:
            actor = trainable.__new__(trainable)  # what Tune's own constructor makes is not needed
            actor.setup({**job.config, STOP_FILE: str(stop_file)})
            while not (result := actor.step())["done"] and FAILED not in result:
                source.moved(job.number, result)
            actor.cleanup()
            if STOPPED not in result:
                source.ended(job.number, result)
    ending.check()

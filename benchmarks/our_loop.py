"""The parts of this project's training, to be timed by `throughput.py`."""

from collections.abc import Callable

import torch

from tuner.config.run import RunConfig
from tuner.data.faces import FaceSet
from tuner.training.face import FaceWorkload
from tuner.training.loop import TrainingRun, train


def our_parts(
    config: RunConfig, faces: FaceSet, held_out: FaceSet, *, device: torch.device
) -> dict[str, Callable[[int], None]]:
    """Return what runs some steps of loader, loop (on one batch) and whole, as a trial of a sweep does.

    Each returns when the device has done its work.
    """
    workload = FaceWorkload(config.workload, seed=0, train=faces, verification=held_out, device=device)
    run = TrainingRun(
        workload=workload,
        schedule=config.schedule(),
        base_lr=config.workload.optimizer.base_lr,
        total_steps=config.total_steps,
        loss_delay=config.loss_delay,
    )
    batches = workload._batches

    def loader(steps: int) -> None:
        for step in range(run.step, run.step + steps):
            batches(step)
        settle(device)

    def loop(steps: int) -> None:
        same = batches(run.step)
        workload._batches = lambda _: same  # type: ignore[assignment]
        whole(steps)
        workload._batches = batches

    def whole(steps: int) -> None:
        for _ in train(run, stop=run.step + steps):
            pass
        settle(device)

    return {"loader": loader, "loop": loop, "whole": whole}


def settle(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

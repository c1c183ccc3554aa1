"""In which precision the backbone is trained: what torch needs to be told, and what a device cannot do."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

import torch

from tuner.errors import UserError

LOWER: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""The types behind the names of the precisions below float32."""


def check_precision(precision: str, device: torch.device) -> None:
    """UserError where a GPU has no bf16 of its own; torch would imitate it, far more slowly than float32."""
    if precision != "bf16" or device.type != "cuda":
        return
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name(device)
        raise UserError(f"the GPU must have bf16 for `precision: bf16`, but {name} has not; set `precision` to fp16")


def lower_precision(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which networks compute in `precision`, "float32", "bf16" or "fp16", as autocast has it."""
    if precision not in LOWER:
        return nullcontext()
    return torch.autocast(device.type, dtype=LOWER[precision])


def scaler_of(precision: str, optimizer: torch.optim.Optimizer, device: torch.device) -> torch.amp.GradScaler:
    """Return the scaler of the optimizer's gradients, which does nothing at all unless `precision` is "fp16".

    It leaves out a step whose gradients overflow without asking the device, by a flag that fused optimizers read. Were
    the first step left out, torch's fused SGD (2.15) would keep a momentum that nothing was ever written to; so the
    momentum of each weight is made here, at 0, which is the same to every other step.
    """
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    if scaler.is_enabled():
        for group in optimizer.param_groups:
            if group["momentum"] != 0:
                for weight in group["params"]:
                    optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    return scaler


@contextmanager
def convolutions(*, tf32: bool, device: torch.device) -> Iterator[None]:
    """Let float32 convolutions on a GPU use TF32, or not, until the end of the block."""
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before

"""What it takes for two runs on one device to be equal bit for bit."""

import os

import torch


def set_deterministic(device: torch.device, *, on: bool = True) -> None:
    """Choose kernels that give the same bits each time, for this whole process; call it before the first CUDA call.

    Not `on`, take the fastest. The CPU is deterministic as it is, at a fixed number of threads
    (`torch.set_num_threads`).
    """
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = not on
        torch.use_deterministic_algorithms(on)


def is_deterministic(device: torch.device) -> bool:
    """Return whether two runs on a device are equal bit for bit, as this process is set up."""
    return device.type == "cpu" or torch.are_deterministic_algorithms_enabled()

"""What a process does once before it trains, so that every run of this machine is computed alike."""

import torch

from tuner.training.determinism import set_deterministic
from tuner.training.host_memory import keep_freed_memory


def training_device(*, threads: int, deterministic: bool = True) -> torch.device:
    """Make this process ready to train on `threads` CPU threads; return the GPU where there is one, else the CPU.

    Equal runs give equal bits there, unless kernels need not be `deterministic`.
    """
    keep_freed_memory()
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    set_deterministic(device, on=deterministic)
    return device

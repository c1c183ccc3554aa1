"""The GPUs of this machine, as the driver's own tool names them: importing torch to ask would cost seconds."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
_DRIVER: Final = Path("/dev/nvidiactl")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU: `id` is its UUID (or what CUDA_VISIBLE_DEVICES calls it), `name` its model, empty where unknown."""

    id: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.id})" if self.name else self.id


def gpus() -> list[Gpu]:
    """Return all GPUs in the order of `nvidia-smi`; none where it is not installed or does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, "--query-gpu=uuid,name", "--format=csv,noheader"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return []
    if listed.returncode:
        return []
    rows = (line.partition(",") for line in listed.stdout.splitlines() if "," in line)
    return [Gpu(uuid.strip(), name.strip()) for uuid, _, name in rows]


def first_visible(environment: Mapping[str, str] = os.environ) -> Gpu | None:
    """Return the GPU that a sweep uses: the first that CUDA_VISIBLE_DEVICES allows; None for the CPU.

    A number there counts as in `nvidia-smi`, whatever order CUDA would take; a UUID may be shortened, or name a part of
    a GPU (MIG).
    """
    found, allowed = gpus(), environment.get(VISIBLE)
    first = None if allowed is None else allowed.split(",")[0].strip()
    if first in ("", "-1", "NoDevFiles"):
        return None
    if not found:  # the driver without its tool, as in some containers
        return Gpu(first or "0") if _DRIVER.exists() else None
    if first is None:
        return found[0]
    if first.isdecimal():
        return found[int(first)] if int(first) < len(found) else None
    return next((gpu for gpu in found if gpu.id.startswith(first)), Gpu(first))

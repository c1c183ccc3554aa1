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
    """Return the GPU that a sweep of one trial at a time uses, the first of `visible`; None for the CPU."""
    return next(iter(visible(environment)), None)


def visible(environment: Mapping[str, str] = os.environ) -> list[Gpu]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES allows, in its order; none for the CPU.

    A number there counts as in `nvidia-smi`, whatever order CUDA would take; a UUID may be shortened, or name a part of
    a GPU (MIG). As to CUDA, what follows a number that no GPU has does not count.
    """
    found, allowed = gpus(), environment.get(VISIBLE)
    if allowed is None:
        return found or ([Gpu("0")] if _DRIVER.exists() else [])  # the driver without its tool, as in some containers
    seen: list[Gpu] = []
    for name in (each.strip() for each in allowed.split(",")):
        if name in ("", "-1", "NoDevFiles"):
            break
        if not found:
            if not _DRIVER.exists():
                break
            gpu = Gpu(name)
        elif name.isdecimal():
            if int(name) >= len(found):
                break
            gpu = found[int(name)]
        else:
            gpu = next((each for each in found if each.id.startswith(name)), Gpu(name))
        if gpu not in seen:
            seen.append(gpu)
    return seen

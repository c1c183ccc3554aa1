"""What a sweep ran on: its data, and Python, packages and hardware for the run's `environment.json`."""

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from tuner.tracking.uri import redact

PACKAGES: Final = (
    "fastface-tuner", "torch", "torchvision", "numpy", "pillow", "ray", "optuna", "mlflow", "pydantic", "scipy",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class DataDescription:
    """The data of a run, for MLflow's dataset column: its digest tells whether two runs saw the same pictures.

    `source` is a folder or "synthetic"; `counts` says how much there is, e.g. {"identities": 40, "images": 400}.
    """

    name: str
    digest: str
    source: str
    counts: Mapping[str, int]


def describe_environment(accelerators: Sequence[str] = ()) -> dict[str, Any]:
    """Return versions, processor, memory in GiB and the command line, without the credentials in it.

    `accelerators` are the names of the devices that the trials train on, which the caller knows; empty on the CPU.
    """
    return {
        "command": [redact(argument) for argument in sys.argv],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: found for name in PACKAGES if (found := _version(name)) is not None},
        "processor": _processor(),
        "cores": num_cores(),
        "memory_gib": _memory_gib(),
        "accelerators": list(accelerators),
    }


def num_cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    if "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)

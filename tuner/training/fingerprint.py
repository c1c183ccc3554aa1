"""What decides the losses and metrics of a face run besides its LRs, known without building anything."""

import os
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from tuner.config.run import FaceConfig
from tuner.models.weights import weights_digest

CODE: Final = 2
"""Of the face workload; to be raised when a change of it changes losses or metrics for the same settings."""
_CHOOSE_KERNELS: Final = {
    "cpu": (
        "DNNL_DEFAULT_FPMATH_MODE",
        "DNNL_MAX_CPU_ISA",
        "MKL_CBWR",
        "ONEDNN_DEFAULT_FPMATH_MODE",
        "ONEDNN_MAX_CPU_ISA",
    ),
    "cuda": ("CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),
}
"""Variables of the environment with which people choose other kernels, by kind of device; most often none is set."""


def fingerprint(
    config: FaceConfig,
    *,
    seed: int,
    train: str,
    verification: str,
    sets: Mapping[str, str] | None = None,
    device: torch.device,
) -> dict[str, Any]:
    """Return, as JSON-like data, all that two runs must have in common for equal LRs to give equal losses and metrics.

    Faces and weights to start from count by content, not by where they came from; how often a run is evaluated does not
    count.

    Args:
        config: the workload's settings.
        seed: of the initial weights and the batches.
        train: digest of the faces to train on.
        verification: digest of the held-out faces to verify on.
        sets: digests of the verification sets by name.
        device: where the run trains.

    Raises:
        UserError: the weights to start from cannot be read.
    """
    # The digests stand for the settings of the data; where the images wait for their step, no loss can tell.
    of_content = {"cache", "source", "identities", "images_per_identity", "max_identities", "max_images", "held_out"}
    # Whether kernels are deterministic is said by the software of the device, where it makes a difference.
    of_kernels = {"deterministic"}
    left_out = {"data": of_content, "model": {"weights"}, "compute": of_kernels, "evaluation": {"times", "sets"}}
    return {
        "code": CODE,
        "config": config.model_dump(mode="json", exclude=left_out),
        "weights": None if config.model.weights is None else weights_digest(config.model.weights),
        "train": train,
        "verification": verification,
        "sets": dict(sets or {}),
        "seed": seed,
        **software(device),
    }


def software(device: torch.device) -> dict[str, Any]:
    """Return what decides the last bits of each result: versions, and what chooses the kernels of a device."""
    chosen = {name: os.environ[name] for name in _CHOOSE_KERNELS.get(device.type, ()) if name in os.environ}
    environment = {"environment": chosen} if chosen else {}
    return {"torch": torch.__version__, "numpy": np.__version__, **_kernels(device), **environment}


def _kernels(device: torch.device) -> dict[str, Any]:
    if device.type == "cuda":
        return {
            "device": torch.cuda.get_device_name(device),
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "precision": torch.get_float32_matmul_precision(),
            "tf32_convolutions": torch.backends.cudnn.allow_tf32,
        }
    return {
        "device": f"{device.type} {_processor()}",
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


@cache
def _processor() -> str:
    """Return the processor's model; kernels adapt to its caches too."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())

"""Full memory, of a GPU or the host, ends a trial with what was asked for and what would help; freed memory is kept."""

import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tuner.config.run import FaceConfig, RunConfig
from tuner.errors import NoMemoryError
from tuner.stages.trial import run_trial
from tuner.training.memory import memory_explained

GPU = (
    "CUDA out of memory. Tried to allocate 20.50 GiB. GPU 0 has a total capacity of 23.53 GiB of which 1.20 GiB is"
    " free. Of the allocated memory 21.00 GiB is allocated by PyTorch"
)


def told(error: Exception, **changes: Any) -> str:
    with pytest.raises(NoMemoryError) as caught, memory_explained(FaceConfig.model_validate(changes)):
        raise error
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError(GPU), ["the GPU's memory", "another 20.50 GiB", "a batch size of 32"]),
        (
            RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling"),
            ["the GPU's memory", "more than there is"],
        ),
        (MemoryError(), ["the host's memory", "more than there is", "a batch size of 32"]),
    ],
)
def test_what_was_asked_for_is_told(error: Exception, expected: list[str]) -> None:
    assert [part for part in expected if part not in told(error)] == []


@pytest.mark.parametrize("library", [torch, np])
def test_the_hosts_own_errors_are_known(library: Any) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        library.empty(2**50)
    assert "the host's memory" in told(caught.value)
    assert "asked for another" in told(caught.value)


def test_ways_out_are_those_that_are_left() -> None:
    first = told(MemoryError())
    assert "`compute.accumulate` to 2" in first
    assert "`compute.precision` to bf16" in first
    assert "`head.chunk`" in first
    compute = {"precision": "fp16", "accumulate": 3}
    last = told(MemoryError(), compute=compute, optimizer={"batch_size": 6}, head={"sample_rate": 0.1})
    assert "lower `optimizer.batch_size` from 6" in last
    assert not [word for word in ("accumulate", "precision", "head") if word in last]


def test_other_errors_are_left_alone() -> None:
    with pytest.raises(RuntimeError, match="size mismatch"), memory_explained(FaceConfig()):
        raise RuntimeError("size mismatch")


def test_a_trial_that_does_not_fit_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __init__(self, *_: object, **__: object) -> None:
            raise torch.OutOfMemoryError(GPU)

    monkeypatch.setattr("tuner.training.face.FaceWorkload", Full)
    data = {"image_size": 32, "identities": 8, "images_per_identity": 4}
    config = RunConfig.model_validate({"workload": {"data": data, "evaluation": {"pairs": 20}}})
    with pytest.raises(NoMemoryError, match=r"20\.50 GiB"):
        next(run_trial(config, tmp_path, device=torch.device("cpu"), store=None))


FREED = """
from resource import RUSAGE_SELF, getrusage
from tuner.training.host_memory import keep_freed_memory
keep_freed_memory()
for step in range(30):
    blocks = [bytearray(b"x") * 2**23 for _ in range(4)]
    if step == 9:
        before = getrusage(RUSAGE_SELF).ru_minflt
print(getrusage(RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators are left as they are")
def test_freed_memory_is_taken_again_without_the_system() -> None:
    faults = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True).stdout
    # Were it given back, each of the 20 steps would touch 8,192 pages of 4 KiB anew.
    assert int(faults) < 8192

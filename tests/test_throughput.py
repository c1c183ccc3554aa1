"""The pieces of `benchmarks/throughput.py`: what it counts, what it runs, and that one failure is one line."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_training_face import CONFIG, CPU, _one_thread  # noqa: F401
from torch import nn

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield
    torch.use_deterministic_algorithms(False)
    for name in ("our_loop", "plain_loop", "throughput", "throughput_gpu"):
        sys.modules.pop(name, None)


def bench(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    import throughput
    import throughput_gpu

    monkeypatch.setattr(throughput_gpu, "WARM_UP", 1)
    tiny = ["--gpu-size", "32", "--gpu-batch", "4", "--classes", "6", "--images", "12", "--rounds", "2", "--steps", "1"]
    return throughput_gpu.Bench(throughput.parsed([*tiny, *arguments]), device=CPU)


def test_operations_are_those_counted_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 512))
    monkeypatch.setattr("tuner.training.face.build_backbone", lambda *_, **__: network)
    # Two for a product and its sum. The images get no gradient, the embeddings and both weights do.
    assert bench(monkeypatch).operations_per_image("iresnet_small") == 2 * (2 * 3 * 32 * 32 * 512 + 3 * 512 * 6)


def test_a_gpu_line_has_all_parts_and_the_share_of_the_peak(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from throughput_gpu import BF16, Row, peak_of

    measuring = bench(monkeypatch, "--peak-tflops", "1e-6")
    row = Row(label="bf16", batch=4, compute=BF16, parts=("loader", "loop", "whole"))
    assert measuring.measured("iresnet_small", row, 1e6) > 0
    line = capsys.readouterr().out
    assert all(word in line for word in ("bf16", "%", "loader", "loop"))
    assert peak_of("NVIDIA H100 PCIe") == 756.0
    assert peak_of("NVIDIA H200") == 989.4
    assert peak_of("an unknown one") is None


def test_what_does_not_work_on_a_gpu_is_a_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import throughput_gpu

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20.00 GiB")

    monkeypatch.setattr(throughput_gpu, "our_parts", full)
    assert bench(monkeypatch).measured("iresnet_small", throughput_gpu.Row(label="a", batch=4, compute={}), 1.0) == 0
    assert "OutOfMemoryError: CUDA out of memory. Tried to allocate" in capsys.readouterr().out


def test_the_plain_loop_trains_from_a_folder(tmp_path: Path) -> None:
    from plain_loop import PlainLoop

    rng = np.random.default_rng(0)
    for index in range(6):
        folder = tmp_path / f"person {index % 2}"
        folder.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, size=(40, 36, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    plain = PlainLoop(CONFIG, tmp_path, workers=0)
    seen = [plain.batch() for _ in range(4)]  # more than an epoch
    assert {images.shape for images, _ in seen} == {(4, 3, 32, 32)}
    assert all(np.isfinite(plain.train(*batch)) for batch in seen)


def test_a_ratio_is_taken_within_a_round_to_the_fastest() -> None:
    from throughput import ratios, spread

    rates = {("ours", "whole"): [30.0, 20.0], ("a", "whole"): [10.0, 5.0], ("b", "whole"): [5.0, 10.0]}
    assert ratios(rates, "ours", ["a", "b"], "whole") == [3.0, 2.0]
    assert spread([3.0, 2.0, 4.0], 1) == "3.0 (2.0 to 4.0)"

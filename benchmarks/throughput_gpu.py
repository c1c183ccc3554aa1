"""Images a second and share of the peak on a GPU, for `throughput.py`; needs neither ray, optuna nor mlflow.

For each backbone: batch 128 in bf16 with the loss read late, as sweeps train, and one change at a time (fp16, float32
with TF32, torch.compile, the loss read at once, kernels that are free to differ from run to run), then larger batches
as long as they are faster by a fiftieth. Faces are noise in memory. The share is of the peak of dense bf16 products;
operations are counted by torch.utils.flop_counter over a training step, head included, two for a product and its sum.
Goal: half of the peak. Published: 798 images/s, r100, fp16, batch 128, one consumer GPU.
"""

import argparse
import gc
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from our_loop import our_parts
from torch.utils.flop_counter import FlopCounterMode

from tuner.config.run import FaceConfig, RunConfig
from tuner.data.faces import FaceSet
from tuner.training.determinism import set_deterministic
from tuner.training.face import FaceWorkload

PEAKS: Final = {
    # Dense bf16 TFLOP/s with float32 sums, by a part of the device's name, longer names first; makers' data sheets.
    "H100 PCIe": 756.0, "H100": 989.4, "H200": 989.4, "B200": 2250.0, "A100": 312.0, "A10G": 70.0, "A40": 149.7,
    "L40S": 362.0, "L4": 121.0, "A6000": 154.8, "RTX 3090": 71.2, "RTX 4090": 165.2, "RTX 5090": 209.5,
}  # fmt: skip
FASTER: Final = 1.02
LARGEST_BATCH: Final = 4096
WARM_UP: Final = 10
BF16: Final = {"precision": "bf16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One way to train, beside the defaults: bf16, the loss read late, the same bits each time."""

    label: str
    batch: int
    compute: dict[str, Any]
    delay: int = 1
    deterministic: bool = True
    parts: tuple[str, ...] = ("whole",)


class Bench:
    """Measures backbones on one device, and prints a line for each way to train them."""

    def __init__(self, options: argparse.Namespace, *, device: torch.device) -> None:
        self.options, self.device = options, device
        self.name = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"
        self.peak: float | None = options.peak_tflops or peak_of(self.name)
        self.faces = noise(options.images, size=options.gpu_size, identities=options.classes)
        self.held_out = noise(40, size=options.gpu_size, identities=8)

    def backbone(self, name: str) -> None:
        """Measure one backbone in all ways."""
        batch = self.options.gpu_batch
        operations = self.operations_per_image(name)
        print(f"\n{name}: {operations / 1e9:.1f} GFLOP for an image's training step")
        base = Row(label="bf16, loss read late", batch=batch, compute=BF16, parts=("loader", "loop", "whole"))
        best = self.measured(name, base, operations)
        self.measured(name, Row(label="fp16", batch=batch, compute={"precision": "fp16"}), operations)
        self.measured(name, Row(label="float32, TF32", batch=batch, compute={}), operations)
        self.measured(name, Row(label="compiled", batch=batch, compute={**BF16, "compile": True}), operations)
        self.measured(name, Row(label="loss read at once", batch=batch, compute=BF16, delay=0), operations)
        self.measured(name, Row(label="free kernels", batch=batch, compute=BF16, deterministic=False), operations)
        while best and 2 * batch <= LARGEST_BATCH:
            batch *= 2
            rate = self.measured(name, Row(label="larger batch", batch=batch, compute=BF16), operations)
            if rate < FASTER * best:
                break
            best = rate

    def measured(self, name: str, row: Row, operations: float) -> float:
        """Print the images a second of the row's parts; return the median of the whole, 0 where it failed."""
        start = f"  {row.label:<22}{row.batch:>6}"
        try:
            rates = self.rates(name, row)
        except Exception as error:  # noqa: BLE001 - one row's failure is one row's
            print(f"{start}  {type(error).__name__}: {' '.join(str(error).split())[:120]}", flush=True)
            return 0.0
        finally:
            gc.collect()
            torch.cuda.empty_cache()
        rate = statistics.median(rates["whole"])
        tflops = rate * operations / 1e12
        share = "" if self.peak is None or "precision" not in row.compute else f"{tflops / self.peak:.1%}"
        others = "".join(f", {part} {shown(rates[part])}" for part in row.parts if part != "whole")
        memory = torch.cuda.max_memory_allocated(self.device) / 1e9 if self.device.type == "cuda" else 0.0
        print(f"{start}  {shown(rates['whole']):>28}  {tflops:8.2f}  {share:>7}  {memory:6.1f}{others}", flush=True)
        return rate

    def rates(self, name: str, row: Row) -> dict[str, list[float]]:
        """Return the images a second of each part, a number for each round."""
        torch.use_deterministic_algorithms(row.deterministic)
        torch.backends.cudnn.benchmark = not row.deterministic
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        config = RunConfig(workload=self.config(name, row), total_steps=10**6, loss_delay=row.delay)
        parts = our_parts(config, self.faces, self.held_out, device=self.device)
        rates: dict[str, list[float]] = {part: [] for part in row.parts}
        steps = self.options.steps
        for part in row.parts:
            parts[part](WARM_UP)
            for _ in range(self.options.rounds):
                begin = time.perf_counter()
                parts[part](steps)
                rates[part].append(steps * row.batch / (time.perf_counter() - begin))
        return rates

    def operations_per_image(self, name: str) -> float:
        """Return the floating-point operations of a training step for each image."""
        few = self.config(name, Row(label="", batch=4, compute={}))
        workload = FaceWorkload(few, seed=0, train=self.faces, verification=self.held_out, device=self.device)
        with FlopCounterMode(display=False) as counter:
            workload.training_step(0, 0.0)
        return float(counter.get_total_flops()) / 4

    def config(self, name: str, row: Row) -> FaceConfig:
        """Return the published recipe, ArcFace on 512 numbers, at a small LR: noise teaches nothing."""
        return FaceConfig.model_validate(
            {
                "data": {"image_size": self.options.gpu_size},
                "model": {"backbone": name, "embedding_size": 512},
                "head": {"m2": 0.5, "scale": 64.0},
                "optimizer": {"batch_size": row.batch, "base_lr": 0.001, "weight_decay": 5e-4},
                "compute": row.compute,
                "evaluation": {"pairs": 20},
            }
        )


def print_rows(options: argparse.Namespace) -> None:
    """Measure and print each backbone, on the CPU where there is no GPU."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    set_deterministic(device)
    bench = Bench(options, device=device)
    peak = "unknown" if bench.peak is None else f"{bench.peak:g} TFLOP/s"
    print(f"{bench.name}, peak {peak}, {options.gpu_size} px, {options.classes} classes")
    print(f"{options.rounds} rounds of {options.steps} steps; images/s: median (range)")
    print(f"  {'':<22}{'batch':>6}  {'whole':>28}  {'TFLOP/s':>8}  {'of peak':>7}  {'GB':>6}")
    for name in options.backbones:
        bench.backbone(name)


def noise(num_images: int, *, size: int, identities: int) -> FaceSet:
    """Return images of noise, of each identity in turn."""
    images = np.random.default_rng(0).integers(0, 256, size=(num_images, size, size, 3), dtype=np.uint8)
    # Spread over all identities, however few the images are.
    labels = np.arange(num_images) * max(1, identities // num_images) % identities
    return FaceSet(images, labels, tuple(map(str, range(identities))), f"noise {num_images} {identities}", "noise")


def peak_of(name: str) -> float | None:
    """Return the peak of a device in TFLOP/s, None where its name is not in the table."""
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def shown(rates: Sequence[float]) -> str:
    """Return median and range."""
    return f"{statistics.median(rates):.0f} ({min(rates):.0f} to {max(rates):.0f})"

"""How many images a second go through loader, loop and whole: on the CPU beside a plain loop, on a GPU beside its peak.

    python benchmarks/throughput.py [--data FOLDER] [--threads 2] [--rounds 5] [--steps 60] [--compute bf16 compile]

CPU: this project's loop against `plain_loop.py` (ImageFolder, transforms, DataLoader, torch's SGD), with the same
backbone, head, batch and images. Each has a process of its own, in which the other one's settings do not show; they
take turns, round by round, and a ratio is taken within a round. The plain loop runs with each number of DataLoader
workers, and the fastest counts.
Rule: whole at least 1.5 times, loader from the decoded cache at least 5 times without workers.

    python benchmarks/throughput.py --gpu [--backbones iresnet50 iresnet100] [--peak-tflops 989]

GPU (where there is one, or asked for): see `throughput_gpu.py`.
"""

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from machine import banner
from our_loop import our_parts
from PIL import Image
from plain_loop import PlainLoop

from tuner.config.run import FaceConfig, RunConfig
from tuner.data.source import load_faces
from tuner.names import SYNTHETIC
from tuner.training.faces import prepare_faces
from tuner.training.host_memory import keep_freed_memory

ORL = Path(__file__).parents[1] / ".." / "shared" / "data" / "orl_faces"
WHOLE_GOAL, LOADER_GOAL = 1.5, 5.0
WARM_UP = 5
PARTS = ("loader", "loop", "whole")


def main() -> int:
    """Print the tables; return 1 where a rule does not hold."""
    options = parsed(sys.argv[1:])
    print(banner("torch", "torchvision", "fastface-tuner"))
    if torch.cuda.is_available() or options.gpu:
        from throughput_gpu import print_rows

        print_rows(options)
        if options.gpu:
            return 0
    with tempfile.TemporaryDirectory() as scratch:
        return on_cpu(options, Path(scratch))


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the command line's settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder root/identity/image.*; by default ORL, else rendered JPEGs")
    parser.add_argument("--backbone", default="iresnet_small")
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--compute", nargs="*", default=[], choices=["bf16", "fp16", "compile"], help="of ours alone")
    parser.add_argument("--gpu", action="store_true", help="only the GPU's part")
    parser.add_argument("--backbones", nargs="+", default=["iresnet50", "iresnet100"])
    parser.add_argument("--gpu-size", type=int, default=112)
    parser.add_argument("--gpu-batch", type=int, default=128)
    parser.add_argument("--classes", type=int, default=93_431, help="of the head, by default those of MS1MV3")
    parser.add_argument("--images", type=int, default=8192, help="in memory, of noise")
    parser.add_argument("--peak-tflops", type=float, help="of the GPU in bf16, where it is not in the table")
    return parser.parse_args(arguments)


def on_cpu(options: argparse.Namespace, scratch: Path) -> int:
    """Run the comparison and print it; return 1 where a rule does not hold."""
    folder = options.data or (ORL if ORL.is_dir() else rendered(scratch / "rendered"))
    config = config_of(options, folder)
    train_faces, _ = prepare_faces(config.data, cache=scratch / "cache")
    chosen = scratch / "training"
    chosen.mkdir()
    for name in train_faces.names:
        (chosen / name).symlink_to((folder / name).resolve())
    ours = "ours" if not options.compute else f"ours, {' '.join(options.compute)}"
    plain = [f"plain, {workers} workers" for workers in options.workers]
    arguments: dict[str, tuple[Any, ...]] = {ours: (config, scratch / "cache", options.threads)}
    for name, workers in zip(plain, options.workers, strict=True):
        arguments[name] = (config, chosen, options.threads, workers)
    rates = taking_turns(arguments, ours=ours, options=options)

    print(
        f"\n{folder.name}: {len(train_faces.labels)} images; {options.backbone}, {options.size} px, batch"
        f" {options.batch}, {options.threads} threads; {options.rounds} rounds of {options.steps} steps\n"
        f"images/s: median (range)\n{'':<28}" + "".join(f"{part:>24}" for part in PARTS)
    )
    for name in arguments:
        print(f"{name:<28}" + "".join(f"{spread(rates[name, part], 0):>24}" for part in PARTS))
    loader = ratios(rates, ours, [plain[options.workers.index(0)]] if 0 in options.workers else plain, "loader")
    loop, whole = ratios(rates, ours, plain, "loop"), ratios(rates, ours, plain, "whole")
    print(f"\nratio to the fastest plain loop: whole {spread(whole, 2)}, loop {spread(loop, 2)}")
    print(f"ratio of the loaders:            {spread(loader, 1)}")
    met = statistics.median(whole) >= WHOLE_GOAL and statistics.median(loader) >= LOADER_GOAL
    print(f"whole at least {WHOLE_GOAL}, loader at least {LOADER_GOAL}: {'met' if met else 'NOT met'}")
    return 0 if met else 1


def config_of(options: argparse.Namespace, folder: Path) -> FaceConfig:
    """Return the project's defaults with what the command line says."""
    precision = next((name for name in ("bf16", "fp16") if name in options.compute), "float32")
    return FaceConfig.model_validate(
        {
            "data": {"source": str(folder), "image_size": options.size},
            "model": {"backbone": options.backbone},
            "optimizer": {"batch_size": options.batch, "base_lr": 0.02},
            "compute": {"precision": precision, "compile": "compile" in options.compute},
            "evaluation": {"pairs": 20},
        }
    )


def rendered(folder: Path) -> Path:
    """Return `folder` with faces rendered at 112 px and written as JPEG, for want of photographs."""
    faces = load_faces(SYNTHETIC, image_size=112, identities=40, images_per_identity=10, cache=folder.parent / "cache")
    for index, (image, label) in enumerate(zip(faces.images, faces.labels.tolist(), strict=True)):
        identity = folder / faces.names[label]
        identity.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(identity / f"{index}.jpg", quality=92)
    return folder


def taking_turns(
    arguments: dict[str, tuple[Any, ...]], *, ours: str, options: argparse.Namespace
) -> dict[tuple[str, str], list[float]]:
    """Return the images a second of each process and part, a number for each round."""
    context = multiprocessing.get_context("spawn")
    rates: dict[tuple[str, str], list[float]] = {(name, part): [] for name in arguments for part in PARTS}
    processes, pipes = [], dict[str, Connection]()
    for name, each in arguments.items():
        pipes[name], theirs = context.Pipe()
        processes.append(context.Process(target=serve, args=(theirs, name == ours, each)))
        processes[-1].start()
        theirs.close()
    for number in range(1 + options.rounds):
        for part in PARTS:
            for name, pipe in pipes.items():
                pipe.send((part, options.steps if number else WARM_UP))
                seconds = pipe.recv()
                if number:
                    rates[name, part].append(options.steps * options.batch / seconds)
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.close()
        process.join()
    return rates


def serve(pipe: Connection, is_ours: bool, arguments: tuple[Any, ...]) -> None:
    """Answer what is asked for through the pipe with the seconds that it took, until the pipe closes."""
    parts = parts_of_ours(*arguments) if is_ours else parts_of_plain(*arguments)
    with closing(pipe):
        while True:
            try:
                part, steps = pipe.recv()
            except EOFError:
                return
            begin = time.perf_counter()
            parts[part](steps)
            pipe.send(time.perf_counter() - begin)


def parts_of_ours(config: FaceConfig, cache: Path, threads: int) -> dict[str, Callable[[int], None]]:
    """Return what runs some steps of each part of this project's training."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    faces, held_out = prepare_faces(config.data, cache=cache)
    return our_parts(RunConfig(workload=config, total_steps=10**6), faces, held_out, device=torch.device("cpu"))


def parts_of_plain(config: FaceConfig, folder: Path, threads: int, workers: int) -> dict[str, Callable[[int], None]]:
    """Return what runs some steps of each part of the plain loop."""
    torch.set_num_threads(threads)
    plain = PlainLoop(config, folder, workers=workers)

    def loader(steps: int) -> None:
        for _ in range(steps):
            plain.batch()

    def loop(steps: int) -> None:
        images, labels = plain.batch()
        for _ in range(steps):
            plain.train(images, labels)

    def whole(steps: int) -> None:
        for _ in range(steps):
            plain.train(*plain.batch())

    return {"loader": loader, "loop": loop, "whole": whole}


def ratios(rates: dict[tuple[str, str], list[float]], ours: str, others: Sequence[str], part: str) -> list[float]:
    """Return, for each round, our rate over that of the fastest of the others."""
    fastest = [max(rates[name, part][number] for name in others) for number in range(len(rates[ours, part]))]
    return [mine / theirs for mine, theirs in zip(rates[ours, part], fastest, strict=True)]


def spread(values: Sequence[float], digits: int) -> str:
    """Return median and range."""
    low, median, high = (f"{value:.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return f"{median} ({low} to {high})"


if __name__ == "__main__":
    sys.exit(main())

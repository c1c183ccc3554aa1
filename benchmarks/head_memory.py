"""What the head of many classes needs: memory and time of training steps, at once, in chunks, and by sample.

    python benchmarks/head_memory.py [--classes 617970] [--batch 32]

Each way runs in a process of its own: embeddings of 512 numbers, forward and backward pass and SGD with momentum. The
peak is that of resident memory, less what the process held before the head was made, beside what the docstring of
`CombinedMarginHead` states. Rule: chunks need at most 1.1 times the 3 C D numbers of centres, gradient and momentum.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from machine import banner
from torch.optim import SGD

from tuner.models.heads import AUTO_CHUNK, CombinedMarginHead
from tuner.models.partial_fc import PartialFC

SIZE = 512
GIGA = 1e9
WAYS = ("whole", "chunks", "partial 0.1")
STEPS = 3
"""The first one brings the momentum into being, later ones need the most at once."""


def main() -> int:
    """Print a row for each way; return 1 where the rule does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=617_970, help="C, by default those of WebFace12M")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way is not None:
        print(json.dumps(measure(options.way, classes=options.classes, batch=options.batch)))
        return 0
    print(banner("torch", "fastface-tuner"))
    fixed = 3 * 4 * options.classes * SIZE / GIGA
    print(f"{options.classes} classes, batch {options.batch}; centres, gradient and momentum: {fixed:.2f} GB\n")
    print(f"{'way':<12}  {'peak GB':>8}  {'stated GB':>9}  {'s/step':>7}  loss of each step")
    peaks = {}
    for way in WAYS:
        found = in_a_process(way, classes=options.classes, batch=options.batch)
        peaks[way] = found["peak"] / GIGA
        stated = stated_bytes(way, classes=options.classes, batch=options.batch) / GIGA
        losses = " ".join(f"{loss:.5f}" for loss in found["losses"])
        print(f"{way:<12}  {peaks[way]:8.2f}  {stated:9.2f}  {found['seconds']:7.2f}  {losses}")
    ratio = peaks["chunks"] / fixed
    print(f"\nchunks: {ratio:.3f} times centres, gradient and momentum; 1.1 is {'met' if ratio <= 1.1 else 'NOT met'}")
    return 0 if ratio <= 1.1 else 1


def stated_bytes(way: str, *, classes: int, batch: int) -> float:
    """Return what the docstrings state."""
    if way == "whole":
        return 4 * (3 * classes * SIZE + max(4 * classes * SIZE, classes * SIZE + 4 * batch * classes))
    if way == "chunks":
        return 4 * (3 * classes * SIZE + 3 * AUTO_CHUNK * SIZE + 4 * batch * AUTO_CHUNK)
    sampled = round(0.1 * classes)
    return 4 * (2 * classes * SIZE) + stated_bytes("whole", classes=sampled, batch=batch)


def in_a_process(way: str, *, classes: int, batch: int) -> dict[str, float | list[float]]:
    """Return `measure` of a fresh process."""
    arguments = ["--way", way, "--classes", str(classes), "--batch", str(batch)]
    command = [sys.executable, str(Path(__file__)), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def measure(way: str, *, classes: int, batch: int) -> dict[str, float | list[float]]:
    """Return peak bytes, seconds of the fastest step, and losses."""
    torch.manual_seed(0)
    embeddings, labels = torch.randn(batch, SIZE), torch.randint(classes, (batch,))
    before = resident()
    head = CombinedMarginHead(
        classes, embedding_size=SIZE, m2=0.5, scale=64.0, chunk=classes if way == "whole" else None
    )
    partial = PartialFC(head, rate=0.1, batch_size=batch, seed=0) if way.startswith("partial") else None
    optimizer = SGD(head.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=True)
    losses, seconds = [], []
    for index in range(STEPS):
        begin = time.perf_counter()
        if partial is None:
            losses.append(step(head, optimizer, embeddings, labels))
        else:
            with partial.sampled(labels, step=index, optimizer=optimizer) as places:
                losses.append(step(head, optimizer, embeddings, places))
        seconds.append(time.perf_counter() - begin)
    # Linux counts in KiB, macOS in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"peak": peak - before, "seconds": min(seconds), "losses": losses}


def step(head: CombinedMarginHead, optimizer: SGD, embeddings: torch.Tensor, labels: torch.Tensor) -> float:
    """Train on the batch; return the loss before the update."""
    loss = head(embeddings.clone().requires_grad_(), labels)
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()
    return float(loss.detach())


def resident() -> int:
    """Return the memory that the process holds now, in bytes; its peak until now where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    sys.exit(main())

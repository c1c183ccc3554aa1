"""A sweep killed at random moments, resumed each time until it ends, against the same sweep left alone.

Trains two sweeps of short trials, one of them beset `--times` times by a fault: `kill` and `term` send the sweep's
process a signal while it starts, at random steps of its trials, between them, and after the last; `disk` fills the disk
of its working folder, a small file system in memory, and makes room again; `server` kills its MLflow server and starts
it again. Then says what was lost, what was done twice, and whether table, curve files and MLflow's curves are those of
the other sweep.

    python benchmarks/crash.py --times 100
    python benchmarks/crash.py --fault term --times 20
    unshare -rm python benchmarks/crash.py --fault disk
    python benchmarks/crash.py --fault server

Exits with 1 where anything was lost, repeated, or is not equal.
"""

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from crash_faults import Faults, FullDisk, Killer, Server
from crash_place import DIES_WITHIN, Place
from machine import banner

DEFAULTS: Final = {"kill": (100, 40), "term": (100, 40), "disk": (10, 40), "server": (10, 400)}
"""Times, and steps of a trial: a server takes seconds to start, which the sweep must outlast."""
DISK_SIZE: Final = "256m"


def main() -> None:
    """Run both sweeps and print what differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fault", choices=[*DEFAULTS], default="kill")
    parser.add_argument("--times", type=int, help="how often the fault comes [default: 100 signals, 10 others]")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--steps", type=int, help="of a trial [default: 40; for the server 400]")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--keep", type=Path, help="work in this new folder, and leave it")
    options = parser.parse_args()
    options.times = options.times or DEFAULTS[options.fault][0]
    options.steps = options.steps or DEFAULTS[options.fault][1]
    print(banner("ray", "optuna", "mlflow", "torch"))
    root = options.keep or Path(tempfile.mkdtemp(prefix="fastface-tuner-crash-"))
    root.mkdir(exist_ok=True)
    try:
        sys.exit(0 if report(root.absolute(), options) else 1)
    finally:
        if options.keep is None:
            shutil.rmtree(root, ignore_errors=True)


def report(root: Path, options: argparse.Namespace) -> bool:
    """Run and print; return whether nothing was lost, repeated, or differs."""
    with beset(root / "broken", options) as (broken, fault):
        whole = Place(root / "whole", trials=options.trials, steps=options.steps)
        start_seconds = left_alone(whole)
        if fault is None:
            number = signal.SIGKILL if options.fault == "kill" else signal.SIGTERM
            faults: Killer | Faults = Killer(
                broken, times=options.times, number=number, seed=options.seed, start_seconds=start_seconds
            )
        else:
            faults = Faults(broken, fault, times=options.times, seed=options.seed)
        began = time.monotonic()
        faults.run(whole.steps())
        last = broken.start().wait()
        faults.account.look()
        print(f"\n{options.fault}, {options.times} times: {time.monotonic() - began:.0f} s")
        print(f"{faults}; the last start: {last}")
        left = Counter(run.info.status for run in broken.runs())
        found = {
            "finished trials lost or changed": len(faults.account.lost),
            "finished trials run again": len(faults.account.repeated),
            "trials beyond those asked for": len(broken.records()) - options.trials,
            "MLflow runs left RUNNING": left["RUNNING"],
            "rows of the table that differ": differing(whole.rows(), broken.rows()),
            "files of trials that differ": differing(whole.files(), broken.files()),
            "curves in MLflow that differ": differing(whole.curves(), broken.curves()),
            f"processes that outlived a kill by {DIES_WITHIN:.0f} s": faults.outlived,
        }
        for what, count in found.items():
            print(f"  {what}: {count}")
        again = sum(r.steps_repeated for r in broken.records()) - sum(r.steps_repeated for r in whole.records())
        print(f"  steps trained again after a fault: {again}; MLflow runs: {dict(left)}", flush=True)
    return last == 0 and not any(found.values())


def left_alone(place: Place) -> float:
    """Run a sweep to its end; return how long it took until its first step."""
    began = time.monotonic()
    process = place.start()
    while process.poll() is None and place.steps() == 0:
        time.sleep(0.02)
    start_seconds = time.monotonic() - began
    if process.wait() != 0:
        raise SystemExit(place.log.read_text())
    print(f"left alone: {place.trials} trials, {place.steps()} steps, {time.monotonic() - began:.0f} s", flush=True)
    return start_seconds


@contextmanager
def beset(path: Path, options: argparse.Namespace) -> Iterator[tuple[Place, FullDisk | Server | None]]:
    """Make a place, and what is to happen to it beside signals."""
    path.mkdir()
    if options.fault == "disk":
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_SIZE}", "tmpfs", str(path)])
        if mounted.returncode:
            raise SystemExit("a small disk must be mounted, which only root may; begin with: unshare -rm python ...")
        try:
            yield Place(path, trials=options.trials, steps=options.steps), FullDisk(path)
        finally:
            subprocess.run(["umount", "--lazy", str(path)])
    elif options.fault == "server":
        server = Server(path / "mlflow.db")
        place = Place(path, trials=options.trials, steps=options.steps, address=server.uri)
        server.start()
        try:
            yield place, server
        finally:
            server.kill()
    else:
        yield Place(path, trials=options.trials, steps=options.steps), None


def differing(one: Any, other: Any) -> int:
    """Return how many entries of two lists or dicts differ."""
    if isinstance(one, list):
        one, other = dict(enumerate(one)), dict(enumerate(other))
    return sum(one.get(key) != other.get(key) for key in {**one, **other})


if __name__ == "__main__":
    main()

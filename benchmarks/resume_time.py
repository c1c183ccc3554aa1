"""How long a resume of a sweep with many finished trials takes until the next one starts, and until it trains.

The sweep is made up: finished trials in the ledger, all of them known to MLflow. Its sampler is the default one, which
learns from all of them. Ray's own start, which is part of it, is measured beside it.

    python benchmarks/resume_time.py --finished 1000 --rounds 3
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Final

from crash_place import Place, outlived
from machine import banner

from tuner.config.space_file import load_space
from tuner.search.ledger import Ledger
from tuner.search.plan import make_plan
from tuner.sweep.folder import SweepDescription
from tuner.tracking.runs import start_sweep

RAY: Final = """
import time
began = time.monotonic()
import tuner.sweep, ray
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
print(time.monotonic() - began)
"""


def make(path: Path, *, finished: int) -> Place:
    """Make a sweep with so many finished trials, and one to go."""
    place = Place(path, trials=finished + 1)
    parent = start_sweep(place.tracker, name="first", params={})
    place.sweep.write(
        SweepDescription(
            name="first",
            trials=finished + 1,
            tracking_uri=place.uri,
            parent_run_id=parent,
            store=str(path / "stages"),
        )
    )
    ledger = Ledger.create(place.sweep.journal, plan=make_plan(load_space(path / "space.yaml"), sampler="random"))
    chance = random.Random(0)  # noqa: S311
    for number in range(finished):
        trial = ledger.ask()
        assert trial is not None  # noqa: S101 - the space is endless
        ledger.annotate(number, run_id=f"{number:032x}")
        folder = place.sweep.trial(number)
        folder.mkdir(parents=True)
        (folder / "curve.csv").write_text("step,loss,lr,detector_response\n")
        ledger.tell(number, value=chance.random(), metrics={"accuracy": 0.5}, steps_executed=40, seconds=3.0)
        ledger.mark_mirrored(number)
    # The sampler is the default one; drawing the trials with it would take minutes.
    lines = []
    for line in place.sweep.journal.read_text().splitlines():
        record = json.loads(line)
        if "plan" in record.get("user_attr", {}):
            record["user_attr"]["plan"]["sampler"] = "tpe"
            del record["crc32"]  # as in records of Optuna's own tools
        lines.append(json.dumps(record) + "\n")
    place.sweep.journal.write_text("".join(lines))
    return place


def resume_seconds(place: Place) -> tuple[float, float]:
    """Return how long a resume takes until it says that the next trial starts, and until that has recorded a step."""
    place.log.unlink(missing_ok=True)
    began, told = time.monotonic(), 0.0
    with place.log.open("wb") as log:
        process = place.tool("resume", "first", stdout=log, stderr=log)
    while process.poll() is None and place.steps() == 0:
        if not told and "\ntrial " in place.log.read_text():
            told = time.monotonic() - began
        time.sleep(0.02)
    seconds = time.monotonic() - began
    process.kill()
    process.wait()
    outlived(process.pid)
    return told, seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--finished", type=int, default=1000, help="finished trials")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(banner("ray", "optuna", "mlflow", "torch"))
    root = Path(tempfile.mkdtemp(prefix="fastface-tuner-resume-"))
    try:
        begun, trained, ray = [], [], []
        for number in range(options.rounds):
            place = make(root / str(number), finished=options.finished)
            told, seconds = resume_seconds(place)
            done = subprocess.run([sys.executable, "-c", RAY], capture_output=True, check=True)
            begun.append(told)
            trained.append(seconds)
            ray.append(float(done.stdout.split()[-1]))
            print(f"next trial after {told:.1f} s, its first step after {seconds:.1f} s; Ray alone {ray[-1]:.1f} s")
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print(f"medians: {median(begun):.1f} s, {median(trained):.1f} s; Ray alone {median(ray):.1f} s")


if __name__ == "__main__":
    main()

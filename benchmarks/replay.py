"""How long it takes to replay 1,000 configurations over the published log of 165,430 steps, and in how much memory.

    python benchmarks/replay.py [--log ../shared/data/loss_logs/webface4m_r100.csv] [--num 1000] [--repeats 5]

The configurations are drawn from the shipped spaces of both detectors, half from each. A fresh process with an empty
cache of compiled code counts everything: importing numba, compiling, replaying. It then repeats the replay alone, with
what it compiled. Without the log a made-up curve of the same length stands in for it. Rule: at most 5 s with everything
counted, at most 1 GiB of memory at the peak.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import banner

from tuner.analysis.loss_csv import read_loss_csv
from tuner.analysis.loss_log import LossLog, make_log
from tuner.analysis.replay_batch import replay_batch
from tuner.analysis.replay_samples import draw
from tuner.config.space_file import load_space
from tuner.schedulers.registry import Schedule, resolve

LOG = Path(__file__).parents[2] / "shared" / "data" / "loss_logs" / "webface4m_r100.csv"
LIMIT_SECONDS, LIMIT_MIB = 5.0, 1024.0


def load(path: Path) -> LossLog:
    """Return the log, or a curve of its length that falls in a similar way."""
    if path.exists():
        return read_loss_csv(path)
    steps = np.arange(20, 165_431, 10)
    losses = 3.4 + 39 * np.exp(-steps / 25_000) + np.random.default_rng(0).normal(0, 0.3, len(steps))
    return make_log("made-up curve", steps=steps.tolist(), losses=losses.tolist(), lr=None)


def schedules(log: LossLog, num: int) -> list[Schedule]:
    """Return `num` configurations of both detectors, resolved for the log."""
    drawn = [entry for name in ("haar", "fastface") for entry in draw(load_space(name), num=num // 2)]
    return [resolve(name, settings, total_steps=log.num_steps) for name, settings in drawn]


def measure(path: Path, num: int, repeats: int) -> None:
    """Print, as JSON, the times of each replay in this process, the first with compiling, and the memory's peak."""
    log = load(path)
    configurations = schedules(log, num)
    seconds, changes = [], 0
    for _ in range(1 + repeats):
        begin = time.perf_counter()
        changes = sum(len(found.places) for found in replay_batch(configurations, log, delay=1))
        seconds.append(time.perf_counter() - begin)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        json.dumps(
            {"source": log.source, "steps": log.num_steps, "seconds": seconds, "changes": changes, "mib": peak_mib}
        )
    )


def main() -> int:
    """Measure in a fresh process and judge by the rule."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, default=LOG)
    parser.add_argument("--num", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inner:
        measure(options.log, options.num, options.repeats)
        return 0
    print(banner("numba", "llvmlite", "numpy"))
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, __file__, "--inner", "--log", str(options.log)]
        command += ["--num", str(options.num), "--repeats", str(options.repeats)]
        environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
        result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    data = json.loads(result.stdout)
    first, *later = data["seconds"]
    print(f"{options.num} configurations over {data['steps']} steps of {data['source']}, {data['changes']} LR changes")
    print(f"first replay, with importing numba and compiling: {first:.2f} s")
    print(
        f"replay alone: median {statistics.median(later):.2f} s, {min(later):.2f} to {max(later):.2f} in {len(later)}"
    )
    print(f"so compiling took about {first - statistics.median(later):.2f} s; memory at the peak {data['mib']:.0f} MiB")
    held = first <= LIMIT_SECONDS and data["mib"] <= LIMIT_MIB
    print(f"{'holds' if held else 'DOES NOT HOLD'}: at most {LIMIT_SECONDS:.0f} s and {LIMIT_MIB:.0f} MiB")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())

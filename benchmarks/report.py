"""Time, memory and size of a report on many long trials, and how soon a browser shows it.

Makes a sweep of `--trials` made-up trials with curves of `--steps` steps (two gigabytes for the default, kept with
`--keep` and used again), writes its report in a process of its own, and opens it in Chromium where there is one.

    python benchmarks/report.py
    python benchmarks/report.py --trials 24 --steps 20000

Exits with 1 where the report takes 20 s, 1 GiB or 10 MB, or the browser needs 2 s to show the page with its curves.
"""

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import banner

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from browser import chromium, opened, running
from simulated_sweep import simulate_sweep

MOST_SECONDS, MOST_GIB, MOST_MB, MOST_OPENING = 20.0, 1.0, 10.0, 2.0


def main() -> None:
    """Make, report, open; print what each took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--keep", type=Path, help="make the sweep in this folder, and leave it for the next time")
    options = parser.parse_args()
    print(banner("plotly", "optuna", "pyarrow", "numpy"))
    root = options.keep or Path(tempfile.mkdtemp(prefix="fastface-tuner-report-"))
    try:
        sys.exit(0 if measure(root, options) else 1)
    finally:
        if options.keep is None:
            shutil.rmtree(root, ignore_errors=True)


def measure(root: Path, options: argparse.Namespace) -> bool:
    """Return whether all is within its limits."""
    sweep, page = root / f"made-{options.trials}-{options.steps}", root / "report.html"
    if not sweep.exists():
        began = time.monotonic()
        simulate_sweep(
            sweep, trials=options.trials, steps=options.steps, resolution=min(options.steps, 2000), failing=[7]
        )
        print(f"made the sweep in {time.monotonic() - began:.0f} s", flush=True)
    size = sum(path.stat().st_size for path in sweep.rglob("curve.csv"))
    began = time.monotonic()
    words = [sys.executable, "-m", "tuner.cli.main", "report", str(sweep), "-o", str(page)]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.monotonic() - began
    gib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    megabytes = page.stat().st_size / 1e6
    print(f"{options.trials} trials of {options.steps:,} steps, {size / 1e6:,.0f} MB of curves")
    print(f"report: {seconds:.1f} s, {gib:.2f} GiB at most, {megabytes:.2f} MB", flush=True)
    within = seconds < MOST_SECONDS and gib < MOST_GIB and megabytes < MOST_MB
    if chromium() is None:
        print("no Chromium here: not opened")
        return within
    first, whole = zip(*(opening_seconds(page) for _ in range(3)), strict=True)
    print(f"opened, the curves drawn: {', '.join(f'{each:.2f}' for each in first)} s")
    print(f"all figures drawn: {', '.join(f'{each:.2f}' for each in whole)} s")
    return within and min(first) < MOST_OPENING


def opening_seconds(page: Path) -> tuple[float, float]:
    """Return when the page shows its curves, and when all of its figures, in seconds after it was asked for."""
    with running() as browser, opened(browser, page, wait="first") as view:
        view.wait_for_selector("html[data-drawn=all]", state="attached", timeout=120_000)
        marks = view.evaluate("performance.getEntriesByType('mark').map((mark) => [mark.name, mark.startTime / 1000])")
        times = dict(marks)
        return times["first"], times["all"]


if __name__ == "__main__":
    main()

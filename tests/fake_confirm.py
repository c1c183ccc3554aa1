"""A sweep that was never trained, and confirmations of it that train nothing: values follow from setting and seed.

Run as a program it is such a confirmation in a process of its own: `python fake_confirm.py FOLDER SECONDS`, where each
run takes so many seconds; it prints a line when one begins.
"""

import io
import os
import signal
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plain_executor import stand_in
from rich.console import Console

from tuner.analysis.confirmed import Confirmation
from tuner.config.space_file import space_from_text
from tuner.curves import CurvePoint, CurveWriter
from tuner.search.ledger import Ledger
from tuner.search.plan import make_plan
from tuner.sweep.confirm import Wanted, confirm_sweep
from tuner.sweep.ending import Ending
from tuner.sweep.folder import SweepDescription, SweepFolder
from tuner.sweep.jobs import FAILED, STOP_FILE, STOPPED
from tuner.tracking.runs import start_sweep
from tuner.tracking.store import connect

STEPS = 20
SPACE = """
question: q
steps: 20
sampler: random
workload:
  data: {image_size: 32, identities: 16, images_per_identity: 6}
  model: {embedding_size: 32}
  optimizer: {batch_size: 16}
  evaluation: {pairs: 120, times: 1}
schedulers:
  - name: fastface
    parameters:
      patience_fraction: {low: 0.1, high: 0.9}
"""


class Actor:
    """Ends a run in two reports, its value rising with the patience.

    Runs whose number is among `fails` fail, and at the first report of run `terminates` this process gets SIGTERM.
    """

    seconds = 0.0
    fails: Collection[int] = ()
    terminates: int | None = None
    begun: list[str] = []  # noqa: RUF012

    def setup(self, config: dict[str, Any]) -> None:
        self.config, self.reports = config, 0
        self.folder = Path(config["folder"])
        self.begun.append(self.folder.name)

    def step(self) -> dict[str, Any]:
        self.reports += 1
        if self.reports == 1 and self.seconds:
            sys.stdout.write(f"{self.folder.name}\n")
            sys.stdout.flush()
        time.sleep(self.seconds / 2)
        if Path(self.config[STOP_FILE]).exists():
            return {STOPPED: True, "done": True}
        number = int(self.folder.name)
        if number == self.terminates and self.reports == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        if number in self.fails:
            return {FAILED: "the loss must stay finite", "traceback": "Traceback: ...", "done": True}
        steps = STEPS * self.reports // 2
        with CurveWriter(self.folder / "curve.csv") as curve:
            for step in range(steps):
                curve.write(CurvePoint(step, 2.0 - step / STEPS, 0.1))
        return {
            "steps": steps, "loss": 1.0, "lr": 0.1, "metrics": [("accuracy", value(self.config["run"]))],
            "steps_executed": steps // 2, "steps_repeated": 0, "steps_shared": steps - steps // 2, "shared_with": [],
            "shelf": None, "deterministic": True, "messages": [], "done": steps == STEPS,
        }  # fmt: skip

    def cleanup(self) -> None: ...


def value(run: dict[str, Any]) -> float:
    """Return the accuracy of a run: a share of its patience, a part of its seed, and some noise."""
    patience = float(run["scheduler"]["settings"].get("patience_fraction", 0.0))
    noise = np.random.default_rng([run["seed"], round(patience * 1e6)]).normal()
    return 0.7 + 0.1 * patience + 0.02 * np.sin(run["seed"]) + 0.002 * noise


def made(path: Path, uri: str, *, values: Sequence[float | None], alike: Sequence[Sequence[int]] = ()) -> SweepFolder:
    """Make a sweep with a finished trial for each value, a failed one for each None; `alike` had the same LRs."""
    folder = SweepFolder(path)
    parent = start_sweep(connect(uri), name="fake", params={})
    folder.write(SweepDescription(name="fake", trials=len(values), tracking_uri=uri, parent_run_id=parent))
    ledger = Ledger.create(folder.journal, plan=make_plan(space_from_text(SPACE, file="x.yaml"), seed=3))
    for number, each in enumerate(values):
        trial = ledger.ask()
        assert trial is not None
        same = next((group[0] for group in alike if number in group), number)
        with CurveWriter(folder.trial(number) / "curve.csv") as curve:
            for step in range(STEPS):
                curve.write(CurvePoint(step, 1.0, 0.1 if step < 10 else 0.1 / (2 + same)))
        if each is None:
            ledger.tell(number, reason="the loss must stay finite")
        else:
            ledger.tell(number, value=each, metrics={"accuracy": each}, steps_executed=STEPS)
    return folder


def confirmed(folder: SweepFolder, *, uri: str | None = None, **wanted: Any) -> tuple[Confirmation, str]:
    """Confirm it in this process, and return the result and what was said."""
    said = io.StringIO()
    console = Console(file=said, markup=False, width=200)
    with Ending() as ending, pytest.MonkeyPatch.context() as patch:
        stand_in(patch)
        found = confirm_sweep(folder, Wanted(**wanted), console=console, ending=ending, tracking_uri=uri, actor=Actor)
    return found, said.getvalue()


if __name__ == "__main__":
    Actor.seconds = float(sys.argv[2])
    confirmed(SweepFolder(Path(sys.argv[1])), top=2, seeds=2)

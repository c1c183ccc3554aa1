"""Sweeps whose values and losses a test names, made in milliseconds: for what is said of them, to the digit.

Where a test needs the curves and shared steps that a search would have left, see `simulated_sweep`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tuner.config.space_file import space_from_text
from tuner.evaluations import EvaluationWriter
from tuner.search.ledger import Ledger
from tuner.search.plan import make_plan
from tuner.sweep.folder import SweepDescription, SweepFolder

SPACE = """
question: What serves here?
steps: 100
sampler: random
schedulers:
  - name: fastface
    parameters:
      patience_fraction: {low: 0.02, high: 0.2}
      decay_factor: {choices: [2, 4, 10]}
"""
SECONDS = 10.0
Losses = Callable[[int, int], Sequence[float]]


def falling(number: int, steps: int) -> list[float]:
    """Return a loss that falls evenly from 1 to 0, the quicker the later the trial."""
    return np.clip(1 - np.arange(1, steps + 1) * (1 + number / 10) / steps, 0, None).tolist()


def make_sweep(
    folder: Path,
    values: Sequence[float | str | None],
    *,
    space: str = SPACE,
    losses: Losses | None = None,
    evaluations: Mapping[int, Mapping[int, float]] | None = None,
    uri: str = "sqlite:///mlflow.db",
    parent: str = "0" * 32,
    **description: Any,
) -> SweepFolder:
    """Make a sweep whose trials ended with these values.

    A text is the reason of a failure, None a trial under way. `losses` (number, steps) make curves; `evaluations` are
    accuracies by steps, by trial.
    """
    made = SweepFolder(folder)
    made.write(
        SweepDescription(
            name=folder.name, trials=max(1, len(values)), tracking_uri=uri, parent_run_id=parent, **description
        )
    )
    ledger = Ledger.create(made.journal, plan=make_plan(space_from_text(space, file="x.yaml")))
    steps = ledger.plan.steps
    for value in values:
        trial = ledger.ask()
        assert trial is not None
        place = made.trial(trial.number)
        place.mkdir(parents=True)
        if losses is not None:
            rows = [f"{step},{loss!r},0.1,\n" for step, loss in enumerate(losses(trial.number, steps))]
            (place / "curve.csv").write_text("step,loss,lr,detector_response\n" + "".join(rows))
        with EvaluationWriter(place / "evaluations.jsonl") as writer:
            for after, accuracy in (evaluations or {}).get(trial.number, {}).items():
                writer.write(after, {"accuracy": accuracy})
        if value is None:
            break
        costs = {"steps_executed": steps, "seconds": SECONDS}
        if isinstance(value, str):
            ledger.tell(trial.number, reason=value, **costs)
        else:
            metrics = {"accuracy": value, "final_loss": 1 - value}
            ledger.tell(trial.number, value=value, metrics=metrics, **costs)
    return made

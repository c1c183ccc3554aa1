"""The runs of a claim benchmark in an MLflow store of its own, `mlflow.db` in its folder, and read from there."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from claims import Done

from tuner.analysis.collected import CollectedSweep
from tuner.analysis.recorded_runs import read_sweep
from tuner.names import TAG_DESCRIPTION
from tuner.tracking.environment import describe_environment
from tuner.tracking.mirror import CurveMirror
from tuner.tracking.outbox import Ending
from tuner.tracking.runs import TrialRun, finish, start_sweep
from tuner.tracking.store import connect


class View:
    """One MLflow run for a benchmark, and one below it for each run that a unit asked for.

    Used as a context, whose end waits until all is sent and notes it in `mlflow.json`; a benchmark that was broken off
    or killed sends the rest when it goes on.

    Args:
        out: the benchmark's folder.
        name: of the benchmark's run.
        question: that it answers.
        params: of the benchmark.
    """

    def __init__(self, out: Path, *, name: str, question: str, params: Mapping[str, Any]) -> None:
        self._out = out
        self._note = out / "mlflow.json"
        self._tracker = connect(f"sqlite:///{(out / 'mlflow.db').absolute()}")
        if self._note.exists():
            self._known = json.loads(self._note.read_text())
        else:
            environment = json.dumps(describe_environment(), indent=2)
            texts = {"environment.json": environment}
            parent = start_sweep(self._tracker, name=name, params=params, tags={TAG_DESCRIPTION: question}, texts=texts)
            self._known = {"parent": parent, "numbers": {}, "sent": []}
            self._write()
        self._mirror = CurveMirror(self._tracker, parent=self._known["parent"], title=name)
        self._sending: list[str] = []

    def add(self, done: Done) -> None:
        """Send the runs of a unit, from a thread of its own."""
        numbers = self._known["numbers"]
        for run in done.runs:
            numbers.setdefault(_name(run), len(numbers))
        self._write()  # before anything is sent: what goes by a number must keep it
        sent = {*self._known["sent"], *self._sending}
        for run in done.runs:
            name = _name(run)
            if name in sent:
                continue
            self._sending.append(name)
            folder = self._out / "runs" / run["folder"]
            costs = json.loads((folder / "costs.json").read_text())
            metrics = json.loads((folder / "metrics.json").read_text())
            ended = (folder / "metrics.json").stat().st_mtime
            self._mirror.follow(
                name,
                trial=TrialRun(
                    parent=self._known["parent"],
                    number=numbers[name],
                    name=name,
                    params={**run["params"], "unit": run["unit"]},
                    start_ms=int((ended - costs["seconds"]) * 1000),
                ),
                folder=folder,
                ending=Ending(
                    status="FINISHED" if metrics else "FAILED",
                    time_ms=int(ended * 1000),
                    metrics={**metrics, **costs},
                    step=run["params"]["total_steps"] - 1 if metrics else None,
                ),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Send what is left; RuntimeError where it cannot be, which after another error is left to the next time.

        The thread has ended then: beside the next view's, each would make runs that the other deletes as doubles.
        """
        unsent = self._mirror.close(stall=60.0, meanwhile=self._mirror.news)
        if kind is not None:
            return
        if unsent:
            raise RuntimeError(f"MLflow lacks {unsent.runs} runs ({unsent.problem}); run the benchmark again")
        self._known["sent"] += self._sending
        self._write()

    def collect(self, metric: str) -> CollectedSweep:
        """Return all runs as the store has them."""
        found = read_sweep(self._tracker.client, self._known["parent"], metric=metric)
        if found is None:
            raise RuntimeError("the MLflow store does not know the benchmark; remove mlflow.json, and run it again")
        return found

    def publish(self, *files: Path) -> None:
        """Add results to the benchmark's run, and end it."""
        for file in files:
            self._tracker.client.log_artifact(self._known["parent"], str(file))
        finish(self._tracker, self._known["parent"], "FINISHED", tags={"ended": time.strftime("%Y-%m-%d")})

    def _write(self) -> None:
        draft = self._note.with_suffix(".new")
        draft.write_text(json.dumps(self._known))
        draft.replace(self._note)


def _name(run: Mapping[str, Any]) -> str:
    return f"{run['unit']} {run['label']}"

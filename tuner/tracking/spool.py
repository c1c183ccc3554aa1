"""The batch of metrics that is under way to the store, on disk: what a later process has to send word for word.

A process can die when a batch is on its way, and a server that hangs can still take it much later. The steps would then
be sent again with other times, and stand there twice. So a batch is written down before it goes out.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from mlflow.entities import Metric

SPOOL_FILE: Final = "sending.json"
_FORMAT: Final = 1


class Spool:
    """One batch of one run in one file; the next one replaces it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / SPOOL_FILE

    def write(self, run_id: str, metrics: Sequence[Metric]) -> None:
        """Keep the batch; a disk that is full costs this safeguard, not the sending."""
        rows = [(metric.key, metric.step, metric.timestamp, metric.value) for metric in metrics]
        fresh = self._path.with_suffix(".tmp")
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_text(json.dumps({"format": _FORMAT, "run_id": run_id, "metrics": rows}), "ascii")
            fresh.replace(self._path)

    def read(self, run_id: str) -> list[Metric]:
        """Return the batch that was under way for this run; empty where there is none.

        A file that a power failure left damaged counts as none: the store is asked for what it holds in any case.
        """
        try:
            found = json.loads(self._path.read_text("ascii"))
            if (found["format"], found["run_id"]) != (_FORMAT, run_id):
                return []
            return [
                Metric(key, float(value), int(time_ms), int(step)) for key, step, time_ms, value in found["metrics"]
            ]
        except (OSError, ValueError, TypeError, KeyError):
            return []

    def remove(self) -> None:
        """Forget the batch: all of the run has been sent."""
        with suppress(OSError):
            self._path.unlink()

"""Mirror the curves of a sweep into the tracking store from one background thread, so that training never waits for it.

A batch that the store does not take is tried again, the same batch, until it does or the mirror is closed; meanwhile
new points wait in their curve files. What can never be taken (a run that was deleted meanwhile) is given up and named.
"""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlflow.exceptions import MlflowException

from tuner.tracking.outbox import Batch, DamagedCurveError, Ending, Outbox
from tuner.tracking.runs import Status, clipped_tags
from tuner.tracking.store import Tracker, reason

POLL_SECONDS: Final = 1.0
FIRST_RETRY_SECONDS: Final = 0.5
LAST_RETRY_SECONDS: Final = 30.0
_FINAL_CODES: Final = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_STATE", "INVALID_PARAMETER_VALUE"})


@dataclass(frozen=True, slots=True)
class Unsent:
    """What a closed mirror could not send: the runs it concerns, and how many training steps of their curves."""

    run_ids: tuple[str, ...]
    points: int
    problem: str | None

    def __bool__(self) -> bool:
        return bool(self.run_ids)


class CurveMirror:
    """Send curves, metrics and endings of runs to the store, in order for each run, from a thread of its own.

    Every method but `close` returns at once. Example:

        mirror = CurveMirror(tracker)
        mirror.follow(run_id, folder / "curve.csv")
        mirror.log_metrics(run_id, step=600, metrics={"accuracy": 0.91})
        mirror.finish(run_id, "FINISHED", metrics={"final_loss": 4.2})   # when the curve file is complete
        if unsent := mirror.close(timeout=10):
            print(f"{unsent.points} steps of {len(unsent.run_ids)} runs were not sent: {unsent.problem}")

    Args:
        poll_seconds: how often the curve files are looked at.
        first_retry_seconds: wait after the first failure; it doubles with each further one, up to half a minute.
    """

    def __init__(
        self,
        tracker: Tracker,
        *,
        poll_seconds: float = POLL_SECONDS,
        first_retry_seconds: float = FIRST_RETRY_SECONDS,
    ) -> None:
        self._client = tracker.client
        self._shown = tracker.shown
        self._poll_seconds = poll_seconds
        self._first_retry_seconds = first_retry_seconds
        self._boxes: dict[str, Outbox] = {}
        self._resumed: set[str] = set()
        self._lost: dict[str, str] = {}
        self._failures = 0
        self._failure: str | None = None
        self._deadline: float | None = None
        self._condition = threading.Condition()
        self._awake = False
        self._thread = threading.Thread(target=self._work, name="curve-mirror", daemon=True)
        self._thread.start()

    @property
    def problem(self) -> str | None:
        """The newest problem with the store in one line, None while all is well; for the progress display."""
        return self._failure or next(reversed(self._lost.values()), None)

    def follow(
        self, run_id: str, curve: Path, *, resumed: bool = False, texts: Mapping[str, str] | None = None
    ) -> None:
        """Mirror the curve file, from now until `finish`, and add the texts (file name: content) as artifacts.

        `resumed`: the run exists from before; ask the store what it holds, and send only what comes after.
        """
        with self._condition:
            if run_id in self._boxes:
                raise ValueError(f"a run is followed once, but run {run_id} is already")
            box = Outbox(curve, start_ms=_now_ms())
            box.texts.update(texts or {})
            self._boxes[run_id] = box
            if resumed:
                self._resumed.add(run_id)

    def log_metrics(self, run_id: str, *, step: int, metrics: Mapping[str, float]) -> None:
        """Queue metrics of one step, such as an evaluation; they go out with the curve's next points."""
        with self._condition:
            self._box(run_id).put(step, metrics, time_ms=_now_ms())

    def finish(
        self,
        run_id: str,
        status: Status,
        *,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        texts: Mapping[str, str] | None = None,
    ) -> None:
        """End the run as `status` once all of its curve has been sent; call it when the curve file is complete.

        The metrics are logged at the curve's last step; texts become artifacts.
        """
        with self._condition:
            box = self._box(run_id)
            box.texts.update(texts or {})
            box.ending = Ending(status, dict(metrics or {}), clipped_tags(tags or {}), _now_ms())
            self._wake()

    def close(self, *, timeout: float) -> Unsent:
        """Send what is left for at most `timeout` seconds, stop the thread, and return what could not be sent."""
        with self._condition:
            self._deadline = time.monotonic() + timeout
            self._wake()
        self._thread.join(timeout + 0.1)
        with self._condition:
            boxes = dict(self._boxes)
        points = {run_id: box.unsent_points() for run_id, box in boxes.items()}
        late = [run_id for run_id, box in boxes.items() if points[run_id] or box.pending]
        return Unsent(tuple(dict.fromkeys([*self._lost, *late])), sum(points.values()), self.problem)

    def _box(self, run_id: str) -> Outbox:
        return self._boxes.setdefault(run_id, Outbox(start_ms=_now_ms()))

    def _wake(self) -> None:
        self._awake = True
        self._condition.notify()

    def _work(self) -> None:
        while True:
            closing = self._deadline is not None
            self._round()
            with self._condition:
                if (closing and not self._failures) or self._time_is_up():
                    return
                self._condition.wait_for(lambda: self._awake, self._pause())
                self._awake = False

    def _time_is_up(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _pause(self) -> float:
        if not self._failures:
            return self._poll_seconds
        pause = min(LAST_RETRY_SECONDS, self._first_retry_seconds * 2.0 ** min(self._failures - 1, 20))
        return pause if self._deadline is None else max(0.0, min(pause, self._deadline - time.monotonic()))

    def _round(self) -> None:
        """Send what every run has, oldest first; at a failure stop, and begin with the next run the next time."""
        with self._condition:
            boxes = list(self._boxes.items())
        for run_id, box in boxes:
            try:
                self._deliver(run_id, box)
            except Exception as error:  # noqa: BLE001  whatever it was, it is shown, and the thread lives on
                if isinstance(error, MlflowException) and error.error_code in _FINAL_CODES:
                    self._lost[run_id] = f"the tracking store refuses run {run_id}: {reason(error)}"
                    self._forget(run_id)
                    continue
                self._failures += 1
                self._failure = f"the tracking store {self._shown} fails, trying again: {reason(error)}"
                with self._condition:
                    self._boxes[run_id] = self._boxes.pop(run_id)
                return
        self._failures, self._failure = 0, None

    def _deliver(self, run_id: str, box: Outbox) -> None:
        if run_id in self._resumed:
            run = self._client.get_run(run_id)
            box.skip({metric.key: (metric.step, metric.timestamp) for metric in run.data.to_proto().metrics})
            if run.info.status != "RUNNING":
                self._client.update_run(run_id, "RUNNING")
            self._resumed.discard(run_id)
        while (batch := self._next_batch(run_id, box)) is not None:
            self._client.log_batch(run_id, metrics=batch.metrics, tags=batch.tags, synchronous=True)
            box.acknowledge()
            if self._time_is_up():
                return
        for file_name in list(box.texts):
            self._client.log_text(run_id, box.texts[file_name], file_name)
            del box.texts[file_name]
        if box.complete and box.ending is not None:
            self._client.set_terminated(run_id, box.ending.status, box.ending.time_ms)
            self._forget(run_id)

    def _next_batch(self, run_id: str, box: Outbox) -> Batch | None:
        try:
            return box.next_batch()
        except DamagedCurveError as error:
            self._lost[run_id] = str(error)
            return box.next_batch()  # what is left besides the curve

    def _forget(self, run_id: str) -> None:
        with self._condition:
            self._boxes.pop(run_id, None)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000

"""What one run has yet to send: its curve file from some step on, single metrics, and how it ended.

The curve file is the record and the spool: points are read from it only when those read before have been taken by the
store, so a store that is away for hours costs no memory. A batch is kept, object for object, until the store has taken
it. Stores reject nothing and repeat nothing when they get it twice: they keep one row for each (run, key, step, time,
value), so sending again after a failure, even one that came after the rows were written, leaves no gap and no repeat.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlflow.entities import Metric, RunTag

from tuner.curves import CurvePoint, CurveReader, read_curve
from tuner.names import METRIC_LOSS, METRIC_LR, METRIC_RESPONSE
from tuner.tracking.runs import Status, clean_key

BATCH_METRICS: Final = 900
"""Metrics a call, three to a training step: the API takes 1000 things in one transaction, tags included."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended: its status, its last metrics and tags, and when, in milliseconds since 1970."""

    status: Status
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    time_ms: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What one call carries."""

    metrics: list[Metric]
    tags: list[RunTag]
    last_step: int | None  # of the curve


class DamagedCurveError(Exception):
    """A curve file holds something other than a curve."""


class Outbox:
    """The unsent part of one run.

    1. The steps of a metric rise: one that is not above those queued before, or held by the store (`skip`), is known
       already and left out.
    2. The curve file need not exist yet, may end in half a line, and may be started again from its first step.
    3. The time of a point, which the file does not hold, is spread evenly between the points known before and the
       file's last change.

    One thread reads batches; `put` and the attributes `texts` and `ending` may be used from another.

    Args:
        curve: the file that `CurveWriter` writes; None for a run without a curve.
        start_ms: time before the curve's first point, in milliseconds since 1970.
    """

    def __init__(self, curve: Path | None = None, *, start_ms: int) -> None:
        self.texts: dict[str, str] = {}
        self.ending: Ending | None = None
        self.complete = False
        self._curve = curve
        self._reader = None if curve is None else CurveReader(curve)
        self._size = 0
        self._time_ms = start_ms
        self._points: deque[tuple[CurvePoint, int]] = deque()
        self._singles: deque[Metric] = deque()
        self._queued: dict[str, int] = {}
        self._batch: Batch | None = None
        self._sent_step = -1
        self._ending_queued = False

    def skip(self, latest: Mapping[str, tuple[int, int]]) -> None:
        """Leave out what the store holds: for each metric key its last step, and the time of that."""
        for key, (step, time_ms) in latest.items():
            self._queued[key] = max(step, self._queued.get(key, -1))
            self._time_ms = max(self._time_ms, time_ms)
        self._sent_step = self._queued.get(METRIC_LOSS, -1)

    def put(self, step: int, metrics: Mapping[str, float], *, time_ms: int) -> None:
        """Queue metrics of a step besides the curve's."""
        self._singles.extend(Metric(clean_key(key), float(value), time_ms, step) for key, value in metrics.items())

    def next_batch(self) -> Batch | None:
        """Return what to send next, the same batch until `acknowledge`; None if there is nothing (more) now.

        With an `ending` in place its metrics and tags travel in the last batch; after that `complete` is true.
        Raises DamagedCurveError, once, if that is what the curve file is; the rest of it is then left out.
        """
        if self._batch is None:
            self._batch = self._make_batch()
        return self._batch

    def acknowledge(self) -> None:
        """Forget the batch: the store has taken it."""
        if self._batch is not None and self._batch.last_step is not None:
            self._sent_step = self._batch.last_step
        self._batch = None

    @property
    def pending(self) -> bool:
        """Whether there is something to send besides what the curve file holds."""
        return bool(self._batch or self._singles or self.texts or self.ending)

    def unsent_points(self) -> int:
        """Return how many steps of the curve file the store has not taken, 0 if it is damaged; reads the file."""
        if self._curve is None or not self._curve.exists():
            return 0
        try:
            return sum(point.step > self._sent_step for point in read_curve(self._curve))
        except ValueError:
            return 0  # that it is damaged is told elsewhere

    def _make_batch(self) -> Batch | None:
        ending = self.ending  # looked at before the file: whoever ends a run has written its curve
        if not self._points:
            self._read()
        metrics: list[Metric] = []
        last_step = None
        while self._points and len(metrics) <= BATCH_METRICS - 3:
            point, time_ms = self._points.popleft()
            metrics += _metrics(point, time_ms)
            last_step = point.step
        if last_step is not None:
            self._queued |= {metric.key: metric.step for metric in metrics}
        at_end = ending is not None and not self._points
        if ending is not None and at_end and not self._ending_queued:
            self.put(max(self._queued.values(), default=0), ending.metrics, time_ms=ending.time_ms)
        while self._singles and len(metrics) < BATCH_METRICS:
            metric = self._singles.popleft()
            if metric.step > self._queued.get(metric.key, -1):
                self._queued[metric.key] = metric.step
                metrics.append(metric)
        tags = []
        if ending is not None and at_end and not self._ending_queued:
            tags = [RunTag(key, value) for key, value in ending.tags.items()]
            self._ending_queued = True
        if metrics or tags:
            return Batch(metrics, tags, last_step)
        self.complete = at_end
        return None

    def _read(self) -> None:
        if self._curve is None or self._reader is None or not self._curve.exists():
            return
        status = self._curve.stat()
        if status.st_size < self._size:  # started again
            self._reader = CurveReader(self._curve)
        self._size = status.st_size
        try:
            points = [point for point in self._reader.read_new() if point.step > self._queued.get(METRIC_LOSS, -1)]
        except ValueError as error:
            self._reader = None
            raise DamagedCurveError(f"the curve file {self._curve} is damaged: {error}") from error
        since, span = self._time_ms, max(0, status.st_mtime_ns // 1_000_000 - self._time_ms)
        self._time_ms += span
        self._points.extend((point, since + span * (i + 1) // len(points)) for i, point in enumerate(points))


def _metrics(point: CurvePoint, time_ms: int) -> list[Metric]:
    metrics = [Metric(METRIC_LOSS, point.loss, time_ms, point.step), Metric(METRIC_LR, point.lr, time_ms, point.step)]
    if point.response is not None:
        metrics.append(Metric(METRIC_RESPONSE, point.response, time_ms, point.step))
    return metrics

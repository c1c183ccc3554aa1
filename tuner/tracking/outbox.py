"""What one run has yet to send: its curve and evaluations from some step on, single metrics, and how it ended.

The files of a trial are the record and the spool: they are read on only when what was read before has been taken by the
store, so a store that is away for hours costs no memory, and a process that dies loses nothing.

A batch is kept, object for object, until the store has taken it, and lies in a file meanwhile. Stores keep one row for
each (run, key, step, time, value), so sending a batch again, by this process or a later one, after a failure that came
when the rows were written already, leaves no gap and no repeat.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mlflow.entities import Metric

from tuner.curves import CurvePoint, CurveReader, read_curve
from tuner.evaluations import EvaluationReader
from tuner.names import CURVE_FILE, EVALUATIONS_FILE, METRIC_LOSS, METRIC_LR, METRIC_RESPONSE
from tuner.tracking.runs import Status, clean_key
from tuner.tracking.spool import Spool

Texts = Mapping[str, str | Callable[[], str]]
"""What becomes the files among a run's artifacts: name and content, or what makes the content when it is sent."""

BATCH_METRICS: Final = 900
"""Metrics a call, three to a training step: the API takes 1000 things in one transaction, tags included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a run ended, and when, in milliseconds since 1970.

    `metrics` are logged at `step`, None for the last one that is known, `texts` become artifacts,
    and `shared_with` a tag that says how many steps were taken over from whom. `mild`: a run that has ended already
    keeps its status.
    """

    status: Status
    time_ms: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    step: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    texts: Texts = field(default_factory=dict)
    shared_with: Mapping[str, int] = field(default_factory=dict)
    mild: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """Metrics of one step besides those in the files, and their time in milliseconds since 1970."""

    step: int
    metrics: Mapping[str, float]
    time_ms: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What one call carries."""

    metrics: list[Metric]
    last_step: int | None  # of the curve


class DamagedFileError(Exception):
    """A file of a trial holds something other than it should."""


class Outbox:
    """The unsent metrics of one run.

    1. The steps of a metric rise: one that is not above those queued before, or held by the store (`skip`), is known
       already and left out.
    2. The files need not exist yet, may end in half a line, and may be started again from their first step.
    3. The time of a point, which the file does not hold, is spread evenly between the points known before and the
       file's last change.

    One thread reads batches; `put` and the attribute `ending` may be used from another.

    Args:
        folder: holds the curve and the evaluations of a trial; None for a run without.
        spool: where the batch lies while it is under way.
        start_ms: time before the curve's first point, in milliseconds since 1970.
    """

    def __init__(self, folder: Path | None = None, *, spool: Spool | None = None, start_ms: int) -> None:
        self.ending: Ending | None = None
        self.complete = False
        self.sent_steps = 0
        self._curve = None if folder is None else folder / CURVE_FILE
        self._evaluations = None if folder is None else folder / EVALUATIONS_FILE
        self._points_reader = None if self._curve is None else CurveReader(self._curve)
        self._evaluations_reader = None if self._evaluations is None else EvaluationReader(self._evaluations)
        self._spool = spool
        self._time_ms = start_ms
        self._points: deque[tuple[CurvePoint, int]] = deque()
        self._singles: deque[Metric] = deque()
        self._queued: dict[str, int] = {}
        self._batch: Batch | None = None
        self._sent_step = -1
        self._ending_queued = False

    def skip(self, run_id: str, latest: Mapping[str, tuple[int, int]]) -> None:
        """Leave out what the store holds: for each metric key its last step, and the time of that.

        A batch that an earlier process had under way, and that the store does not hold (yet), is sent once more.
        """
        for key, (step, time_ms) in latest.items():
            self._queued[key] = max(step, self._queued.get(key, -1))
            self._time_ms = max(self._time_ms, time_ms)
        self._sent_step = self._queued.get(METRIC_LOSS, -1)
        spooled = [] if self._spool is None else self._spool.read(run_id)
        if any(metric.step > latest.get(metric.key, (-1, 0))[0] for metric in spooled):
            self._note(spooled)
            self._batch = _batch(spooled)
            self._time_ms = max(self._time_ms, *(metric.timestamp for metric in spooled))

    def put(self, row: Row) -> None:
        """Queue metrics of a step besides the files'."""
        self._singles.extend(
            Metric(clean_key(key), float(value), row.time_ms, row.step) for key, value in row.metrics.items()
        )

    def next_batch(self, run_id: str) -> Batch | None:
        """Return what to send next, the same batch until `acknowledge`; None if there is nothing (more) now.

        With an `ending` in place its metrics travel in the last batch; after that `complete` is true. Raises
        DamagedFileError, once for each such file; the rest of it is then left out.
        """
        if self._batch is None:
            self._batch = self._make_batch()
            if self._batch is not None and self._spool is not None:
                self._spool.write(run_id, self._batch.metrics)
        return self._batch

    def acknowledge(self) -> None:
        """Forget the batch: the store has taken it."""
        if self._batch is not None and self._batch.last_step is not None:
            self.sent_steps += self._batch.last_step - self._sent_step
            self._sent_step = self._batch.last_step
        self._batch = None

    def unsent_steps(self) -> int:
        """Return how many steps of the curve file the store has not taken, 0 if it is damaged; reads the file."""
        if self._curve is None or not self._curve.exists():
            return 0
        try:
            return sum(point.step > self._sent_step for point in read_curve(self._curve))
        except ValueError:
            return 0  # that it is damaged is told elsewhere

    def clear(self) -> None:
        """Remove the spooled batch: all has been sent."""
        if self._spool is not None:
            self._spool.remove()

    def _make_batch(self) -> Batch | None:
        ending = self.ending  # looked at before the files: whoever ends a run has written them
        if not self._points:
            self._read_evaluations(self._read_points(ending))
        metrics: list[Metric] = []
        while self._points and len(metrics) <= BATCH_METRICS - 3:
            metrics += _metrics(*self._points.popleft())
        self._note(metrics)
        at_end = ending is not None and not self._points
        if ending is not None and at_end and not self._ending_queued:
            step = max(self._queued.values(), default=0) if ending.step is None else ending.step
            self.put(Row(step, ending.metrics, ending.time_ms))
            self._ending_queued = True
        while self._singles and not self._points and len(metrics) < BATCH_METRICS:
            metric = self._singles.popleft()
            if metric.step > self._queued.get(metric.key, -1):
                self._note([metric])
                metrics.append(metric)
        if metrics:
            return _batch(metrics)
        self.complete = at_end
        return None

    def _note(self, metrics: list[Metric]) -> None:
        for metric in metrics:
            self._queued[metric.key] = max(metric.step, self._queued.get(metric.key, -1))

    def _read_points(self, ending: Ending | None) -> Mapping[int, int]:
        """Queue the curve's new points; return the time of each, by step."""
        if self._curve is None or self._points_reader is None or not self._curve.exists():
            return {}
        changed_ms = self._curve.stat().st_mtime_ns // 1_000_000
        if ending is not None:
            changed_ms = min(changed_ms, ending.time_ms)  # of a file that was copied since
        try:
            points = [p for p in self._points_reader.read_new() if p.step > self._queued.get(METRIC_LOSS, -1)]
        except ValueError as error:
            self._points_reader = None
            raise DamagedFileError(f"the curve file {self._curve} is damaged: {error}") from error
        since, span = self._time_ms, max(0, changed_ms - self._time_ms)
        self._time_ms += span
        timed = [(point, since + span * (i + 1) // len(points)) for i, point in enumerate(points)]
        self._points.extend(timed)
        return {point.step: time_ms for point, time_ms in timed}

    def _read_evaluations(self, times_ms: Mapping[int, int]) -> None:
        if self._evaluations is None or self._evaluations_reader is None or not self._evaluations.exists():
            return
        try:
            evaluations = self._evaluations_reader.read_new()
        except ValueError as error:
            self._evaluations_reader = None
            raise DamagedFileError(f"the file {self._evaluations} is damaged: {error}") from error
        for steps, metrics in evaluations:
            self.put(Row(steps - 1, metrics, times_ms.get(steps - 1, self._time_ms)))


def _batch(metrics: list[Metric]) -> Batch:
    return Batch(metrics, max((metric.step for metric in metrics if metric.key == METRIC_LOSS), default=None))


def _metrics(point: CurvePoint, time_ms: int) -> list[Metric]:
    metrics = [Metric(METRIC_LOSS, point.loss, time_ms, point.step), Metric(METRIC_LR, point.lr, time_ms, point.step)]
    if point.response is not None:
        metrics.append(Metric(METRIC_RESPONSE, point.response, time_ms, point.step))
    return metrics

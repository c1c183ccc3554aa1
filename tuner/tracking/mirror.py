"""Keep the runs of a sweep, or a single one, in the tracking store, from one thread; training never waits for it.

A batch that the store does not take is tried again, the same batch, until it does or the mirror is closed; meanwhile
new points wait in their files. Runs are made and filled in the order in which they were begun.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlflow.exceptions import MlflowException

from tuner.tracking.courier import Courier, ForeignStoreError, GoneError, Parcel, Receipt
from tuner.tracking.outbox import Ending, Outbox, Row, Texts
from tuner.tracking.runs import TrialRun
from tuner.tracking.spool import Spool
from tuner.tracking.store import Tracker, reason

POLL_SECONDS: Final = 1.0
FIRST_RETRY_SECONDS: Final = 0.5
LAST_RETRY_SECONDS: Final = 30.0
_DETOUR_AFTER: Final = 4
"""Failures in a row after which another run is tried first: it may be this one only that the store cannot take."""
_MEANWHILE_SECONDS: Final = 0.1
_FINAL_CODES: Final = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_STATE", "INVALID_PARAMETER_VALUE"})


@dataclass(frozen=True, slots=True)
class News:
    """What the mirror found out: about one run (`key`), or about the store.

    `run_id`: the store's id of the run. `done`: all of a run that has ended was sent. `gone`: it was deleted there and
    gets nothing more. `text` is for people.
    """

    key: str | None = None
    run_id: str | None = None
    done: Receipt | None = None
    gone: bool = False
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Unsent:
    """What a closed mirror could not send: how many runs it concerns, how many steps of their curves, and why."""

    runs: int
    steps: int
    problem: str | None

    def __bool__(self) -> bool:
        return self.runs > 0


class CurveMirror:
    """Make the runs of one sweep and send their curves, metrics and endings, in order, from a thread of its own.

    Every method but `close` returns at once. A run goes by a `key` of the caller's choice, since the store's id of it
    is not known before the store has answered. Example:

        mirror = CurveMirror(tracker, parent=parent_run_id)
        mirror.follow("trial 0", trial=TrialRun(...), folder=folder)
        mirror.finish("trial 0", Ending(status="FINISHED", ...))   # when the files in the folder are complete
        mirror.news()                                               # now and then
        if unsent := mirror.close(timeout=10):
            print(f"{unsent.steps} steps of {unsent.runs} runs were not sent: {unsent.problem}")

    Args:
        tracker: the store, which need not have been reached yet.
        parent: id of the sweep's run, or of the single one.
        run_ids: the trials' runs that are known from before, by key.
        title: what people call the run `parent`.
        poll_seconds: how often the files are looked at.
        first_retry_seconds: wait after the first failure; it doubles with each further one, up to half a minute.
    """

    def __init__(
        self,
        tracker: Tracker,
        *,
        parent: str,
        run_ids: Mapping[str, str] | None = None,
        title: str = "the sweep",
        poll_seconds: float = POLL_SECONDS,
        first_retry_seconds: float = FIRST_RETRY_SECONDS,
    ) -> None:
        self._courier = Courier(tracker, parent=parent, run_ids=run_ids or {}, title=title)
        self._title = title
        self._shown = tracker.shown
        self._poll_seconds = poll_seconds
        self._first_retry_seconds = first_retry_seconds
        self._parcels: dict[str, Parcel] = {}
        self._ill: dict[str, tuple[float, str]] = {}  # runs that fail where others do not: when to try again, and why
        self._stuck = ""
        self._news: deque[News] = deque()
        self._lost: list[str] = []
        self._failures = 0
        self._failure: str | None = None
        self._deadline = self._stall = math.inf
        self._closing = False
        self._last_success = time.monotonic()
        self._condition = threading.Condition()
        self._awake = False
        self._thread = threading.Thread(target=self._work, name="curve-mirror", daemon=True)
        self._thread.start()

    @property
    def problem(self) -> str | None:
        """The newest problem with the store in one line, None while all is well."""
        return self._failure or next((text for _, text in self._ill.values()), self._lost[-1] if self._lost else None)

    def news(self) -> list[News]:
        """Return what was found out since the last call, oldest first."""
        return [self._news.popleft() for _ in range(len(self._news))]

    def follow(
        self,
        key: str,
        *,
        trial: TrialRun | None = None,
        run_id: str | None = None,
        folder: Path | None = None,
        spool: Path | None = None,
        texts: Texts | None = None,
        rows: Iterable[Row] = (),
        ending: Ending | None = None,
    ) -> None:
        """Make or find the run, and mirror the curve and the evaluations in `folder`, until the run is finished.

        Args:
            key: the caller's name for the run.
            trial: what the run is, if it is a trial's.
            run_id: the run's id, if it is known; a trial's run is looked for otherwise, and made if it is not there.
            folder: holds the trial's files, now or later.
            spool: folder for the batch that is under way, so that a later process can repeat it; None for no such.
            texts: artifacts of the run.
            rows: metrics besides those in the files.
            ending: how the run ended, if that is known; otherwise it is RUNNING from now on.
        """
        start_ms = _now_ms() if trial is None else trial.start_ms
        box = Outbox(folder, spool=None if spool is None else Spool(spool), start_ms=start_ms)
        for row in rows:
            box.put(row)
        with self._condition:
            if key in self._parcels:
                raise ValueError(f"a run is followed once, but {key} is already")
            self._parcels[key] = Parcel(
                key, box, title=self._title, trial=trial, run_id=run_id, texts=dict(texts or {})
            )
            if ending is not None:
                self._end(key, ending)
            self._wake()

    def log_metrics(self, key: str, row: Row) -> None:
        """Queue metrics of one step besides those in the files."""
        with self._condition:
            if key in self._parcels:  # it may be lost
                self._parcels[key].box.put(row)

    def finish(self, key: str, ending: Ending) -> None:
        """End the run once all of it has been sent; call it when its files are complete."""
        with self._condition:
            self._end(key, ending)
            self._wake()

    def close(
        self, *, timeout: float = math.inf, stall: float = math.inf, meanwhile: Callable[[], object] | None = None
    ) -> Unsent:
        """Send what is left, stop the thread, and return what could not be sent.

        It gives up after `timeout` seconds, and when the store has taken nothing for `stall` seconds. `meanwhile` is
        called some times a second.
        """
        with self._condition:
            self._last_success = time.monotonic()
            self._deadline, self._stall = self._last_success + timeout, stall
            self._failures = min(self._failures, 1)  # back to short waits
            self._closing = True
            self._wake()
        answers = self._courier.answers
        while self._thread.is_alive() and not self._time_is_up():
            self._thread.join(_MEANWHILE_SECONDS)
            if self._courier.answers > answers:
                answers, self._last_success = self._courier.answers, time.monotonic()
            if meanwhile is not None:
                meanwhile()
        with self._condition:
            steps = {key: parcel.box.unsent_steps() for key, parcel in self._parcels.items()}
            left = [key for key, parcel in self._parcels.items() if steps[key] or parcel.box.ending is not None]
        return Unsent(len(left) + len(self._lost), sum(steps.values()), self.problem)

    def _end(self, key: str, ending: Ending) -> None:
        parcel = self._parcels.get(key)
        if parcel is not None:  # it may be lost
            parcel.texts.update(ending.texts)
            parcel.box.ending = ending

    def _wake(self) -> None:
        self._awake = True
        self._condition.notify()

    def _work(self) -> None:
        while not self._time_is_up():
            closing = self._closing
            self._round()
            with self._condition:
                held = any(parcel.held for parcel in self._parcels.values())
                if closing and not self._failures and not self._ill and not held:
                    return
                self._condition.wait_for(lambda: self._awake, self._pause())
                self._awake = False

    def _time_is_up(self) -> bool:
        return self._closing and time.monotonic() >= min(self._deadline, self._last_success + self._stall)

    def _pause(self) -> float:
        if not self._failures:
            return self._poll_seconds if not self._closing else min(self._poll_seconds, self._first_retry_seconds)
        pause = min(LAST_RETRY_SECONDS, self._first_retry_seconds * 2.0 ** min(self._failures - 1, 20))
        return min(pause, max(0.0, self._deadline - time.monotonic()))

    def _round(self) -> None:
        """Send what every run has, oldest first, to the first failure."""
        with self._condition:
            parcels = list(self._parcels.values())
        answers = self._courier.answers
        detour = self._failures > 0 and self._failures % _DETOUR_AFTER == 0
        for parcel in self._order(parcels, detour=detour):
            failure = self._attempt(parcel)
            if failure is not None:
                self._failures += 1
                self._stuck = self._stuck if detour else parcel.key
                if self._failure is None:
                    self._news.append(News(text=failure))
                self._failure = failure
                return
            if self._failure is not None and self._courier.answers > answers:
                self._news.append(News(text=f"the tracking store {self._shown} answers again"))
                if detour and parcel.key != self._stuck:
                    self._ill[self._stuck] = (0.0, self._failure)
                self._failures, self._failure = 0, None
        self._failures = 0
        for parcel in parcels:
            due, _ = self._ill.get(parcel.key, (math.inf, ""))
            if due <= time.monotonic() or (parcel.key in self._ill and self._closing):
                failure = self._attempt(parcel)
                if failure is None:
                    del self._ill[parcel.key]
                    continue
                if due == 0:
                    self._news.append(News(text=f"{parcel.name} waits: {failure}"))
                self._ill[parcel.key] = (time.monotonic() + LAST_RETRY_SECONDS, failure)

    def _order(self, parcels: list[Parcel], *, detour: bool) -> Iterator[Parcel]:
        """Yield the runs that may well be taken, in order; on a detour the one that failed comes last."""
        well = [parcel for parcel in parcels if parcel.key not in self._ill]
        if detour:
            others = [parcel for parcel in well if parcel.key != self._stuck]
            turn = self._failures // _DETOUR_AFTER % max(1, len(others))
            well = [*others[turn:], *others[:turn], *(parcel for parcel in well if parcel.key == self._stuck)]
        for parcel in well:
            if parcel.key not in self._ill:
                yield parcel

    def _attempt(self, parcel: Parcel) -> str | None:
        """Deliver one parcel; return the failure in one line if it can be tried again."""
        known = parcel.found is not None
        try:
            complete = self._courier.deliver(parcel, hurry=self._time_is_up, awaited=self._is_awaited)
        except Exception as error:  # noqa: BLE001  whatever it was, it is shown, and the thread lives on
            if isinstance(error, GoneError):
                self._drop(parcel, News(parcel.key, parcel.run_id, gone=True, text=str(error)))
                return None
            if isinstance(error, ForeignStoreError):
                self._lose(parcel, str(error))
                return None
            if isinstance(error, MlflowException) and error.error_code in _FINAL_CODES:
                self._lose(parcel, f"the tracking store {self._shown} refuses {parcel.name}: {reason(error)}")
                return None
            return f"the tracking store {self._shown} fails, trying again: {reason(error)}"
        finally:
            if not known and parcel.run_id is not None and parcel.trial is not None:
                self._news.append(News(parcel.key, parcel.run_id))
        if complete:
            self._drop(parcel, News(parcel.key, parcel.run_id, parcel.receipt))
        return None

    def _is_awaited(self, key: str) -> bool:
        """Return whether a run will be made soon, as far as it is known."""
        return key in self._parcels and self._ill.get(key, (0.0, ""))[0] == 0.0

    def _lose(self, parcel: Parcel, text: str) -> None:
        told = text in self._lost
        self._lost.append(text)
        self._drop(parcel, News(parcel.key, parcel.run_id, text=None if told else text))

    def _drop(self, parcel: Parcel, news: News) -> None:
        with self._condition:
            self._parcels.pop(parcel.key, None)
        self._news.append(news)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000

"""The sweep's runs in MLflow: what people see of it, made from the ledger and the trials' files, now or later.

Nothing here waits for the tracking server; a thread of its own brings the runs there. What it could not bring is left
to `bring_in_line`, which makes the same runs from the same records.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from tuner.analysis.verdict import judge
from tuner.config.run_file import run_text
from tuner.names import COMMON_RANDOM_NUMBERS, CONFIG_FILE, CURVE_FILE, TAG_DESCRIPTION, TAG_SHARING, TRACEBACK_FILE
from tuner.search.ledger import Ledger
from tuner.search.plan import Assignment, Plan, run_config
from tuner.sweep.folder import SweepFolder
from tuner.tracking.courier import Receipt
from tuner.tracking.mirror import CurveMirror, News
from tuner.tracking.outbox import Ending, Row
from tuner.tracking.runs import Status, TrialRun, trial_name
from tuner.tracking.store import Tracker
from tuner.trials import TrialRecord


class RunView:
    """Keeps the runs of a sweep in line with what the ledger and the trials' files say; call it from one thread.

    Two processes at it would make runs twice, so the caller holds the sweep's lock.

    Args:
        ledger: the sweep's record, open for writing: it notes which run belongs to which trial, and which trials have
            been sent completely.
        folder: the sweep's files.
        tracker: the store; it need not be there.
    """

    def __init__(self, ledger: Ledger, *, folder: SweepFolder, tracker: Tracker) -> None:
        self._ledger = ledger
        self._folder = folder
        self._parent = folder.read().parent_run_id
        self._numbers: dict[str, int] = {}
        self._mending: set[str] = set()
        self._totals: dict[str, float] = {"steps_executed": 0, "steps_shared": 0}
        self._run_ids = {record.number: record.run_id for record in ledger.trials() if record.run_id is not None}
        known = {self.label(number): run_id for number, run_id in self._run_ids.items()}
        self._mirror = CurveMirror(tracker, parent=self._parent, run_ids=known)

    def label(self, number: int) -> str:
        """Return what a trial is called in the stage store: unlike any other, and known without the server."""
        return f"{self._parent}/{number}"

    def sweep_runs(self) -> None:
        """Show the sweep as running, and send what earlier processes left."""
        self._follow_sweep()
        self.catch_up()

    def sweep_is_over(self, status: Status, *, mild: bool) -> None:
        """Show a sweep that no process runs as ended; with `mild` only if it looks like running."""
        ended = max((record.ended for record in self._ledger.trials() if record.ended is not None), default=time.time())
        self._mending.add(self._parent)
        self._follow_sweep(Ending(status=status, time_ms=_ms(ended), tags=self._description(), mild=mild))

    def catch_up(self) -> None:
        """Send the finished trials that the ledger does not mark as sent; asks nothing about the others."""
        for record in self._ledger.trials():
            if record.ended is not None and not record.mirrored:
                self._mend(record, self._ending(record, self._traceback(record)))

    def trial_is_over(self, record: TrialRecord) -> None:
        """Show a trial that is not finished, and that no process runs, as KILLED."""
        self._mend(record, Ending(status="KILLED", time_ms=_ms(time.time()), mild=True))

    def begun(self, number: int, *, twin: int | None) -> None:
        """Hear that a trial begins, or goes on; where it repeats `twin`, it shows that one's curve."""
        self._follow(self._ledger.trial(number), twin=twin)

    def filed(self, record: TrialRecord, *, texts: Mapping[str, str] | None = None) -> None:
        """Hear a trial's outcome, when its files are complete; the texts (file name: content) go with it."""
        folder = self._folder.trial(record.number)
        with suppress(OSError):  # a full disk: they are sent from memory then, unless the process dies before
            for name, text in (texts or {}).items():
                folder.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(text, "utf-8")
        self._mirror.finish(self.label(record.number), self._ending(record, texts or {}))
        self._mirror.log_metrics(self._parent, self._total(record))

    def abandoned(self, number: int) -> None:
        """Hear that a trial under way stops here; the ledger keeps it as running, and it may be begun again."""
        self._mirror.finish(self.label(number), Ending(status="KILLED", time_ms=_ms(time.time())))

    def news(self) -> list[str]:
        """Note in the ledger what was sent; return what people should know, a line each."""
        return [line for news in self._mirror.news() for line in self._heard(news)]

    def close(self, status: Status | None = None, *, timeout: float) -> list[str]:
        """End the sweep's run, if a status is given, send what is left, and return what people should know."""
        if status is not None:
            ending = Ending(status=status, time_ms=_ms(time.time()), tags=self._description())
            self._mirror.finish(self._parent, ending)
        lines: list[str] = []
        left = self.drain(timeout=timeout, hear=lines.append)
        return lines if left is None else [*lines, left]

    def drain(
        self, *, hear: Callable[[str], None], timeout: float = float("inf"), stall: float = float("inf")
    ) -> str | None:
        """Send what is left until nothing is, or time is up, or the store has taken nothing for `stall` seconds.

        `hear` gets the news; what was not sent is returned in one line, None where all was.
        """

        def take_news() -> None:
            for line in self.news():
                hear(line)

        unsent = self._mirror.close(timeout=timeout, stall=stall, meanwhile=take_news)
        take_news()
        if not unsent:
            return None
        runs = f"{unsent.runs} run{'' if unsent.runs == 1 else 's'}"
        what = f"{unsent.steps} steps of {runs}" if unsent.steps else f"the end of {runs}"
        cause = f" ({unsent.problem})" if unsent.problem else ""
        return f"MLflow lacks {what}{cause}; send it with: fastface-tuner sync {self._folder.argument}"

    def _heard(self, news: News) -> list[str]:
        number = None if news.key is None else self._numbers.get(news.key)
        if number is not None:
            with suppress(OSError):  # a full disk: the run is found again by its tags
                self._note(number, news)
        lines = [] if news.text is None else [f"MLflow: {news.text}"]
        if news.done is not None and news.done.damage is not None:
            lines.append(f"MLflow: {news.done.damage}")
        if news.key in self._mending and news.done is not None:
            whose = "the sweep" if number is None else f"trial {number}"
            if news.done:
                lines.append(f"MLflow: {whose}: {_mended(news.done)}")
            if number is not None and (lost := self._missing_curve(number)) is not None:
                lines.append(f"MLflow: {whose}: {lost} is missing; what had been sent of it before is kept")
        return lines

    def _note(self, number: int, news: News) -> None:
        """Write into the ledger what it does not know yet."""
        if news.run_id is not None and self._run_ids.get(number) != news.run_id:
            self._ledger.annotate(number, run_id=news.run_id)
            self._run_ids[number] = news.run_id
        if news.gone or (news.done is not None and news.done.damage is None):
            record = self._ledger.trial(number)
            if record.ended is not None and not record.mirrored:
                self._ledger.mark_mirrored(number)

    def _missing_curve(self, number: int) -> Path | None:
        record = self._ledger.trial(number)
        twin = record.number if record.duplicate_of is None else record.duplicate_of
        curve = self._folder.trial(twin) / CURVE_FILE
        return curve if record.steps_executed + record.steps_shared > 0 and not curve.exists() else None

    def _follow_sweep(self, ending: Ending | None = None) -> None:
        rows = [self._total(record) for record in self._ledger.trials() if record.ended is not None]
        self._mirror.follow(self._parent, run_id=self._parent, rows=rows, ending=ending)

    def _mend(self, record: TrialRecord, ending: Ending) -> None:
        self._mending.add(self.label(record.number))
        self._follow(record, twin=record.duplicate_of, ending=ending)

    def _follow(self, record: TrialRecord, *, twin: int | None, ending: Ending | None = None) -> None:
        label = self.label(record.number)
        self._numbers[label] = record.number
        plan = self._ledger.plan
        self._mirror.follow(
            label,
            trial=TrialRun(
                parent=self._parent,
                number=record.number,
                name=trial_name(record.number, record.scheduler, record.params),
                params={
                    "scheduler": record.scheduler,
                    **record.settings,
                    "base_lr": record.base_lr,
                    "total_steps": plan.steps,
                    "seed": plan.seed,
                },
                start_ms=_ms(record.begun),
            ),
            folder=self._folder.trial(record.number if twin is None else twin),
            spool=self._folder.trial(record.number),
            texts={CONFIG_FILE: partial(_config_text, plan, record)},
            ending=ending,
        )

    def _ending(self, record: TrialRecord, texts: Mapping[str, str]) -> Ending:
        tags = {**({"reason": record.reason} if record.reason else {}), **_sharing([record])}
        if record.duplicate_of is not None:
            tags["duplicate_of"] = str(record.duplicate_of)
        costs = {
            "steps_executed": record.steps_executed,
            "steps_repeated": record.steps_repeated,
            "steps_shared": record.steps_shared,
        }
        return Ending(
            status="FINISHED" if record.state == "COMPLETE" else "FAILED",
            time_ms=_ms(record.ended or 0.0),
            metrics={**record.metrics, **costs, "seconds": record.seconds},
            step=self._ledger.plan.steps - 1 if record.state == "COMPLETE" else None,
            tags=tags,
            texts=texts,
            shared_with=record.shared_with,
        )

    def _description(self) -> dict[str, str]:
        """Return the text that MLflow shows with the sweep's run: what was asked, and what was found."""
        space, records = self._ledger.plan.space, self._ledger.trials()
        objective = space.objective
        found = judge(records, metric=objective.metric, maximize=objective.maximize)
        return {TAG_DESCRIPTION: f"{space.question}\n\n{found.headline}", **_sharing(records)}

    def _traceback(self, record: TrialRecord) -> dict[str, str]:
        path = self._folder.trial(record.number) / TRACEBACK_FILE
        if record.state == "FAIL" and path.exists():
            return {TRACEBACK_FILE: path.read_text("utf-8", "replace")}
        return {}

    def _total(self, record: TrialRecord) -> Row:
        """Add a trial to the sweep's own metrics: what all until then cost and were spared, and the best of them."""
        self._totals["steps_executed"] += record.steps_executed
        self._totals["steps_shared"] += record.steps_shared
        objective = self._ledger.plan.space.objective
        if record.value is not None:
            name = f"best_{objective.metric}"
            better = max if objective.maximize else min
            self._totals[name] = better(record.value, self._totals.get(name, record.value))
        return Row(record.number, dict(self._totals), _ms(record.ended or 0.0))


def _config_text(plan: Plan, record: TrialRecord) -> str:
    return run_text(run_config(plan, Assignment(record.scheduler, record.settings, record.base_lr)))


def _sharing(records: Sequence[TrialRecord]) -> dict[str, str]:
    """Return the tag that says what trials share where equal runs do not give equal bits."""
    exact = all(record.deterministic or not record.steps_shared for record in records)
    return {} if exact else {TAG_SHARING: COMMON_RANDOM_NUMBERS}


def _mended(receipt: Receipt) -> str:
    parts = [
        *(["made its run"] if receipt.created else []),
        *([f"sent {receipt.steps} steps"] if receipt.steps else ["sent what was missing"] if receipt.others else []),
        *([f"ended its run as {receipt.status}"] if receipt.status else []),
    ]
    return ", ".join(parts)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)

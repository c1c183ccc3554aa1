"""A confirmation's runs in MLflow: a group beside the sweep's run, and in it a run for each setting and seed.

They are made from the records and curves in the sweep's folder, by a thread of its own, as a sweep's are. What the
store did not take is sent when the same confirmation is asked for again.
"""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final

from tuner.analysis.confirmed import Confirmation
from tuner.analysis.confirmed_plot import drawn
from tuner.analysis.confirmed_record import confirmation_json
from tuner.analysis.confirmed_text import markdown, verdict
from tuner.config.run import RunConfig
from tuner.config.run_file import run_text
from tuner.files import read_record, write_record
from tuner.names import (
    CONFIG_FILE,
    CONFIRM_DIR,
    CONFIRM_FILE,
    TAG_CONFIRMS,
    TAG_DESCRIPTION,
    TAG_FOLDER,
    TAG_KIND,
    TRACEBACK_FILE,
)
from tuner.room import patiently
from tuner.sweep.confirm_runs import ConfirmRun, ConfirmRuns
from tuner.sweep.folder import SweepFolder
from tuner.tracking.environment import DataDescription
from tuner.tracking.mirror import CurveMirror, News
from tuner.tracking.outbox import Ending
from tuner.tracking.runs import Status, TrialRun, end_abandoned, finish, start_sweep
from tuner.tracking.store import Tracker, reconnect

GROUP_FILE: Final = "group.json"
_KIND: Final = "confirmation group"


def open_group(
    folder: SweepFolder, *, uri: str, params: Mapping[str, Any], data: DataDescription | None
) -> tuple[Tracker, str]:
    """Return the store of the sweep's runs and the id of the group in it, made if it is not there, RUNNING from now on.

    Raises:
        UserError: the store does not answer, or does not have the sweep.
    """
    description, path = folder.read(), folder.path / CONFIRM_DIR
    tracker = reconnect(uri, run_id=description.parent_run_id)
    with suppress(FileNotFoundError):
        group = str(read_record(path / GROUP_FILE, kind=_KIND)["run_id"])
        with tracker.asked_to("look for the confirmation's run"):
            quoted = f"attributes.run_id = '{group}'"
            if tracker.client.search_runs([tracker.experiment_id], quoted):  # neither deleted nor of another store
                tracker.client.update_run(group, "RUNNING")
                return tracker, group
    end_abandoned(tracker, folder=str(path))
    group = start_sweep(
        tracker,
        name=f"{description.name} · confirmation",
        params=params,
        tags={TAG_KIND: "confirmation", TAG_CONFIRMS: description.parent_run_id, TAG_FOLDER: str(path)},
        data=data,
    )
    patiently(lambda: write_record(path / GROUP_FILE, {"run_id": group}, kind=_KIND), path)
    return tracker, group


class ConfirmView:
    """Keeps the runs of a confirmation in MLflow in line with its records; call it from one thread.

    `complete` says, once it is closed, whether all was sent.

    Args:
        runs: the records, in which it notes what was sent.
        tracker: the store; it need not be there (any more).
        group: id of the group's run.
        steps: of each run.
    """

    def __init__(self, runs: ConfirmRuns, *, tracker: Tracker, group: str, steps: int) -> None:
        self._runs, self._tracker, self._group, self._steps = runs, tracker, group, steps
        self._mirror = CurveMirror(tracker, parent=group)
        self._numbers: dict[str, int] = {}
        self.complete = False

    def begun(self, run: ConfirmRun, config: RunConfig, *, label: str, ending: Ending | None = None) -> None:
        """Hear that a run begins or goes on; with its ending, one that has ended before."""
        self._numbers[label] = run.number
        folder = self._runs.folder(run.number)
        known = run.run_id if run.group == self._group else None
        self._mirror.follow(
            label,
            trial=TrialRun(
                parent=self._group,
                number=run.number,
                name=f"{run.name} · seed {run.seed}",
                params={
                    "seed": run.seed,
                    "scheduler": run.scheduler,
                    **run.settings,
                    "base_lr": run.base_lr,
                    "total_steps": self._steps,
                },
                start_ms=_ms(run.begun),
            ),
            run_id=known,
            folder=folder,
            spool=folder,
            texts={CONFIG_FILE: partial(run_text, config)},
            ending=ending,
        )

    def send(self, run: ConfirmRun, config: RunConfig, *, label: str) -> None:
        """Send a finished run that the store does not have completely."""
        if not run.sent or run.group != self._group:
            self.begun(run, config, label=label, ending=self._ending(run))

    def filed(self, run: ConfirmRun, *, label: str) -> None:
        """Hear a run's outcome, when its files are complete."""
        self._mirror.finish(label, self._ending(run))

    def broken_off(self, label: str) -> None:
        """Hear that a run stops here, to be gone on with later."""
        self._mirror.finish(label, Ending(status="KILLED", time_ms=_ms(time.time())))

    def news(self) -> list[str]:
        """Note in the records what was sent; return what people should know, a line each."""
        return [line for news in self._mirror.news() for line in self._heard(news)]

    def close(self, status: Status, *, timeout: float) -> list[str]:
        """End the group's run, send what is left, and return what people should know, at last what was not sent."""
        self._mirror.follow(self._group, run_id=self._group, ending=Ending(status=status, time_ms=_ms(time.time())))
        said: list[str] = []
        unsent = self._mirror.close(timeout=timeout, meanwhile=lambda: said.extend(self.news()))
        said += self.news()
        self.complete = not unsent
        if unsent:
            cause = f" ({unsent.problem})" if unsent.problem else ""
            said.append(f"MLflow lacks {unsent.steps} steps of {unsent.runs} runs{cause}; confirm again to send them")
        return said

    def publish(self, confirmation: Confirmation) -> None:
        """Add the result to the group: the verdict as its description, the numbers as metrics, table and figure.

        Raises:
            UserError: the store does not take it.
        """
        found, tracker, group = confirmation.findings, self._tracker, self._group
        metrics = {
            "steps_executed": confirmation.cost.executed,
            "steps_shared": confirmation.cost.shared,
            "luck_share": found.luck.share,
            **(
                {}
                if found.winner is None
                else {"gain": found.winner.gain, "gain_corrected": found.winner.corrected_gain}
            ),
        }
        for row, each in enumerate(confirmation.contenders):
            mean, gain = found.means[row], found.gains[row]
            metrics[f"{confirmation.metric} of {each.name}"] = None if mean is None else mean.mean
            metrics[f"gain of {each.name}"] = None if gain is None else gain.mean
        with tracker.asked_to("take the confirmation"):
            for name, text in (
                ("confirm.md", markdown(confirmation)),
                ("confirm.svg", drawn(confirmation)),
                (CONFIRM_FILE, json.dumps(confirmation_json(confirmation), indent=1)),
            ):
                tracker.client.log_text(group, text, name)
        best = None if confirmation.best is None else confirmation.contenders[confirmation.best].name
        finish(
            tracker,
            group,
            "FAILED" if best is None else "FINISHED",
            metrics={name: value for name, value in metrics.items() if value is not None},
            tags={
                TAG_DESCRIPTION: verdict(confirmation),
                "best": best or "none",
                "shown_to_be_better": str(confirmation.shown).lower(),
                "seeds": ", ".join(map(str, confirmation.seeds)),
                "settings": ", ".join(each.name for each in confirmation.contenders),
            },
        )

    def _heard(self, news: News) -> list[str]:
        number = None if news.key is None else self._numbers.get(news.key)
        if number is not None:
            if news.run_id is not None:
                self._runs.note(number, run_id=news.run_id, group=self._group, sent=False)
            ended = self._runs.of_number(number).ended is not None
            if ended and (news.gone or (news.done is not None and news.done.damage is None)):
                self._runs.note(number, group=self._group, sent=True)
        lines = [] if news.text is None else [f"MLflow: {news.text}"]
        return lines if news.done is None or news.done.damage is None else [*lines, f"MLflow: {news.done.damage}"]

    def _ending(self, run: ConfirmRun) -> Ending:
        costs = {
            "steps_executed": run.steps_executed,
            "steps_repeated": run.steps_repeated,
            "steps_shared": run.steps_shared,
        }
        traceback = self._runs.folder(run.number) / TRACEBACK_FILE
        texts = {}
        if run.state == "FAIL" and traceback.exists():
            texts = {TRACEBACK_FILE: traceback.read_text("utf-8", "replace")}
        return Ending(
            status="FINISHED" if run.state == "COMPLETE" else "FAILED",
            time_ms=_ms(run.ended or run.begun),
            metrics={**run.metrics, **costs, "seconds": run.seconds},
            step=self._steps - 1 if run.state == "COMPLETE" else None,
            tags={"reason": run.reason} if run.reason else {},
            texts=texts,
            shared_with=run.shared_with,
        )


def _ms(seconds: float) -> int:
    return int(seconds * 1000)

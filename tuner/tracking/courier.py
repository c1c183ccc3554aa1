"""Brings what a run has yet to send into the store. Errors of the store come out; after one, deliver again.

Whatever is asked of the store can be asked again: a run is looked for before it is made, and what an earlier process
had sent is left out. So it does not matter where the one before was cut off.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mlflow.entities import DatasetInput, Run, RunTag
from mlflow.exceptions import MlflowException

from tuner.names import TAG_SHARED_WITH
from tuner.tracking.outbox import Batch, DamagedFileError, Ending, Outbox
from tuner.tracking.runs import TrialRun, clipped_tags, create_trial, delete_doubles, describe_trial, find_trial
from tuner.tracking.store import Tracker

_ABSENT = "RESOURCE_DOES_NOT_EXIST"


class GoneError(Exception):
    """The run was deleted in the store: nothing more can be sent, now or later."""


class ForeignStoreError(Exception):
    """The store does not know the sweep."""


@dataclass(slots=True)
class Receipt:
    """What a run was sent: whether it had to be made, how many steps of its curve, what else, and its new status."""

    created: bool = False
    steps: int = 0
    others: bool = False
    status: str | None = None
    damage: str | None = None

    def __bool__(self) -> bool:
        return self.created or bool(self.steps) or self.others or self.status is not None


@dataclass(slots=True)
class Parcel:
    """One run and what it has yet to send; `trial` is None for a run that has an id from the start.

    Such a run, a sweep's own or a single one, is called by its `title`. `found` is the run as it was when this process
    first met it. `texts` are the artifacts yet to be sent. It is `held` while all but its end is sent, which names runs
    that are yet to be made.
    """

    key: str
    box: Outbox
    title: str = "the sweep"
    trial: TrialRun | None = None
    run_id: str | None = None
    texts: dict[str, str | Callable[[], str]] = field(default_factory=dict)
    found: Run | None = None
    held: bool = False
    receipt: Receipt = field(default_factory=Receipt)

    @property
    def name(self) -> str:
        """What people call the run."""
        return self.title if self.trial is None else f"trial {self.trial.number}"


class Courier:
    """Delivers parcels of one sweep, or of a single run.

    `answers` counts how often the store did what it was asked.

    Args:
        tracker: the store.
        parent: id of the sweep's run, or of the single one; trials get its experiment and its data.
        run_ids: the runs that are known, by the key of their parcels; new ones are added.
        title: what people call the run `parent`.
    """

    def __init__(self, tracker: Tracker, *, parent: str, run_ids: Mapping[str, str], title: str = "the sweep") -> None:
        self.answers = 0
        self.run_ids = dict(run_ids)
        self._tracker = tracker
        self._parent = parent
        self._title = title
        self._experiment_id = ""
        self._data: Sequence[DatasetInput] = ()

    def deliver(self, parcel: Parcel, *, hurry: Callable[[], bool], awaited: Callable[[str], bool]) -> bool:
        """Send what there is, until `hurry()`; return whether the run has ended and all of it has been sent.

        A run does not end before those `awaited` that it shares steps with are made: it names them by their ids.
        """
        ending = parcel.box.ending
        if parcel.found is None:
            self._attach(parcel, over=ending is not None)
            self.answers += 1
        assert parcel.run_id is not None  # noqa: S101 - it was found or made
        client, run_id = self._tracker.client, parcel.run_id
        if hurry():
            return False
        while (batch := _next_batch(parcel, run_id)) is not None:
            client.log_batch(run_id, metrics=batch.metrics, synchronous=True)
            parcel.box.acknowledge()
            self.answers += 1
            parcel.receipt.others = True
            if hurry():
                return False
        parcel.receipt.steps = parcel.box.sent_steps
        for file_name, text in list(parcel.texts.items()):
            client.log_text(run_id, _read(text), file_name)
            self.answers += 1
            parcel.receipt.others = True
            del parcel.texts[file_name]
        if ending is None or not parcel.box.complete or hurry():
            return False
        parcel.held = any(label not in self.run_ids and awaited(label) for label in ending.shared_with)
        if parcel.held:
            return False
        self._end(parcel, run_id, ending)
        self.answers += 1
        return True

    def _attach(self, parcel: Parcel, *, over: bool) -> None:
        """Find the run or make it, and find out what it lacks."""
        client = self._tracker.client
        run = self._find(parcel)
        if run is None and parcel.trial is not None:
            run = create_trial(client, parcel.trial, experiment_id=self._experiment_id)
            parcel.receipt.created = True
        if run is None:
            self._meet_parent()
        if run is None or run.info.lifecycle_stage != "active":
            raise GoneError(f"the run of {parcel.name} was deleted in {self._tracker.shown}; it gets nothing more")
        parcel.run_id = self.run_ids[parcel.key] = str(run.info.run_id)
        if parcel.trial is not None:
            describe_trial(client, parcel.trial, run, data=self._data)
        if not over and run.info.status != "RUNNING":
            client.update_run(parcel.run_id, "RUNNING")
            run = client.get_run(parcel.run_id)
        parcel.box.skip(
            parcel.run_id, {metric.key: (metric.step, metric.timestamp) for metric in run.data.to_proto().metrics}
        )
        if not parcel.receipt.created and parcel.texts:
            for held in client.list_artifacts(parcel.run_id):
                text = parcel.texts.get(held.path)
                # A server that dies while it writes a file leaves a part of it, under its name.
                if text is not None and held.file_size in (None, len(_read(text).encode())):
                    del parcel.texts[held.path]
        parcel.found = run

    def _find(self, parcel: Parcel) -> Run | None:
        if parcel.trial is not None and not self._experiment_id:
            self._meet_parent()
        run_id = parcel.run_id or self.run_ids.get(parcel.key)
        run = None if run_id is None else self._get(run_id)
        if run is None and parcel.trial is not None:
            run = find_trial(self._tracker.client, parcel.trial, experiment_id=self._experiment_id)
        return run

    def _meet_parent(self) -> None:
        parent = self._get(self._parent)
        if parent is None:
            raise ForeignStoreError(
                f"the tracking store {self._tracker.shown} has no run {self._parent}, {self._title}'s"
            )
        self._data = parent.inputs.dataset_inputs if parent.inputs else ()
        self._experiment_id = str(parent.info.experiment_id)

    def _get(self, run_id: str) -> Run | None:
        try:
            return self._tracker.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == _ABSENT:
                return None
            raise

    def _end(self, parcel: Parcel, run_id: str, ending: Ending) -> None:
        """Send tags and status; both are the same where they are sent again."""
        client, run = self._tracker.client, parcel.found
        assert run is not None  # noqa: S101 - it is attached
        tags = dict(ending.tags)
        if ending.shared_with:
            names = {label: self.run_ids.get(label, label) for label in ending.shared_with}
            tags[TAG_SHARED_WITH] = ", ".join(f"{names[k]} ({steps} steps)" for k, steps in ending.shared_with.items())
        lacking = [RunTag(k, value) for k, value in clipped_tags(tags).items() if run.data.tags.get(k) != value]
        if lacking:
            client.log_batch(run_id, tags=lacking, synchronous=True)
            parcel.receipt.others = True
        if run.info.status == "RUNNING" or (run.info.status != ending.status and not ending.mild):
            client.set_terminated(run_id, ending.status, ending.time_ms)
            parcel.receipt.status = ending.status
        if parcel.trial is not None:
            delete_doubles(client, parcel.trial, run_id, experiment_id=self._experiment_id)
        parcel.box.clear()


def _next_batch(parcel: Parcel, run_id: str) -> Batch | None:
    try:
        return parcel.box.next_batch(run_id)
    except DamagedFileError as error:
        parcel.receipt.damage = str(error)
        return _next_batch(parcel, run_id)  # what is left besides that file


def _read(text: str | Callable[[], str]) -> str:
    return text if isinstance(text, str) else text()

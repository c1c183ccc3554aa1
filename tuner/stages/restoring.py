"""Brings a workload to the state before a known step: by a checkpoint, and by training the rest of the way again."""

from collections import deque
from collections.abc import Callable, Generator, Iterator

from tuner.errors import UserError
from tuner.stages import checkpoint
from tuner.stages.events import Repetition
from tuner.stages.recording import Recording
from tuner.stages.shelf import Shelf, StepCounts
from tuner.stages.tree import Stage, TreePath
from tuner.training.loop import PendingLoss
from tuner.workload import Workload


class Restorer:
    """One trial's workload, as long as it follows what is known.

    Args:
        build: makes the workload as it is before step 0, the same each time.
        shelf: where the checkpoints are; None has none.
        recording: is told what turns out wrong.
        counts: get the steps that are repeated.
        deterministic: whether a step trained again gives the same bits; if not, they are not compared.
    """

    def __init__(
        self,
        *,
        build: Callable[[], Workload],
        shelf: Shelf | None,
        recording: Recording,
        counts: StepCounts,
        deterministic: bool,
    ) -> None:
        self._build = build
        self._shelf = shelf
        self._recording = recording
        self._counts = counts
        self._deterministic = deterministic
        self._workload: Workload | None = None
        self._steps_seen = 0

    def restore(self, path: TreePath, step: int) -> Generator[Repetition, None, Workload]:
        """Return the workload in the state before `step` of known ground.

        Raises:
            UserError: a repeated step did not give its recorded loss; that record is not used again.
        """
        self._recording.settle()
        source = None
        if self._shelf is not None:
            for stage, at in path.checkpoints(until=step):
                if self._workload is not None and self._steps_seen >= at:
                    break
                state = checkpoint.load(self._shelf, stage, at)
                if state is not None:
                    self._workload = self._workload or self._build()
                    self._workload.load_state_dict(state)
                    self._steps_seen, source = at, (stage, at)
                    break
        self._workload = self._workload or self._build()
        yield from self._repeat(self._workload, path, stop=step, source=source)
        return self._workload

    def _repeat(
        self, workload: Workload, path: TreePath, *, stop: int, source: tuple[Stage, int] | None
    ) -> Iterator[Repetition]:
        """Train known steps again, up to `stop`; each loss is read while the next step runs, and checked."""
        unread: deque[tuple[Stage, int, PendingLoss]] = deque()
        for step in range(self._steps_seen, stop):
            stage = path.stage_before(step + 1)
            assert stage is not None  # noqa: S101 - the step is known
            loss = workload.training_step(step, stage.lrs[step - stage.first])
            self._steps_seen = step + 1
            self._counts.executed += 1
            self._counts.repeated += 1
            unread.append((stage, step, PendingLoss(loss)))
            if len(unread) > 1:
                self._check(*unread.popleft(), source=source)
            yield Repetition(step)
        for each in unread:
            self._check(*each, source=source)

    def _check(self, stage: Stage, step: int, late: PendingLoss, *, source: tuple[Stage, int] | None) -> None:
        """Raise UserError, and take the stage and the checkpoint out of use, unless a loss is the recorded one."""
        if not self._deterministic:
            return
        loss, recorded = late.read(), stage.losses[step - stage.first]
        if loss == recorded or self._shelf is None:
            return
        reason = f"step {step} was recorded with loss {recorded!r}, but gave {loss!r} when it was trained again"
        self._recording.distrust(stage, source, reason)
        raise UserError(
            f"a step trained again must give its recorded loss, but {reason}; something that changes numbers is not in "
            f"the fingerprint: remove the shelf {self._shelf.key}, or train without sharing"
        )

"""What a sweep trains, as its author writes it; `docs/your_own_training.md` leads from a plain loop to a sweep.

A workload is a class, named `package.module:Class` on the command line or in a space. It says what it reports and at
which LR it is usually trained, and its objects learn from a loss, one step at a time:

    class Digits:
        metrics = {"accuracy": "maximize"}   # the first one judges trials where the space names none
        base_lr = 0.1

        @dataclass(frozen=True)
        class Settings:                      # a dataclass or pydantic model; may be left out
            hidden: int = 64

        def __init__(self, settings: Settings, *, seed: int, device: torch.device) -> None: ...
        def training_step(self, step: int, lr: float) -> torch.Tensor: ...
        def evaluate(self) -> dict[str, float]: ...
        def state_dict(self) -> dict[str, Any]: ...
        def load_state_dict(self, state: dict[str, Any]) -> None: ...

A class method `data(settings) -> Data` says what it reads, so that nobody shares steps across changed data. A static
method `weights(state)` returns the network's state dict out of a `state_dict()`, for `best --register`.
`tuner.testing.check_workload` tells whether a workload is fit for sharing.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from tuner.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Direction = Literal["maximize", "minimize"]


class Workload(Protocol):
    """Something with weights that learns from a loss, one step at a time.

    What sharing and resuming rest on: the same construction arguments and the same LRs give the same losses; the batch
    of a step depends on (seed, step) only; `evaluate` leaves the state alone; `load_state_dict(state_dict())` into a
    freshly built workload continues bit for bit.
    """

    def training_step(self, step: int, lr: float) -> "Tensor":
        """Train on the batch of `step` (from 0) at learning rate `lr`; return the detached loss, shape ()."""
        ...

    def evaluate(self) -> Mapping[str, float]:
        """Return the metrics of the current weights by name, e.g. {"accuracy": 0.93}."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next step depends on: weights, momentum, grad scaler, RNG where used.

        Dicts, lists, tensors and scalars only.
        """
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned; lists stand where tuples were, and tensors are in host memory."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """What a workload reads. Two runs share steps only where the `digest` of their data is the same.

    `source` is where it is, such as a folder; `counts` say how much there is. With the count `training_images` and a
    setting `batch_size` the length of a run can be given in epochs.
    """

    name: str
    digest: str
    source: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)


class WorkloadClass(Protocol):
    """What `package.module:Class` names. `Settings`, `data`, `weights` may be left out; see the module."""

    metrics: Mapping[str, Direction]
    base_lr: float

    def __call__(self, settings: Any, *, seed: int, device: "torch.device") -> Workload:
        """Build the workload as it is before step 0, the same each time."""
        ...


def files_digest(path: str | Path) -> str:
    """Return the digest of a file, or of all files below a folder and their names.

    Raises:
        UserError: it cannot be read.
    """
    root = Path(path)
    found = hashlib.sha256()
    try:
        files = [root] if root.is_file() else sorted(file for file in root.rglob("*") if file.is_file())
        if not files:
            raise UserError(f"data must be a file or a folder with files, but {root} is not; name another place")
        for file in files:
            with file.open("rb") as opened:
                content = hashlib.file_digest(opened, "sha256").digest()
            found.update(file.relative_to(root).as_posix().encode() + b"\0" + content)
    except OSError as error:
        raise UserError(f"data: {root} cannot be read ({error.strerror}); check its name and rights") from None
    return found.hexdigest()

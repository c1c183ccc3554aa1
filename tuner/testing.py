"""Is a workload fit for sharing? Its author asks in a test, and a sweep asks before its first trial.

from tuner.testing import check_workload
from my_training import Digits

def test_fit_for_sharing() -> None:
assert not check_workload(Digits)
"""

import io
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor

from tuner.config.own import OwnConfig
from tuner.config.own_code import looked_up, where_from
from tuner.errors import UserError
from tuner.stages.checkpoint import snapshot
from tuner.training.determinism import set_deterministic
from tuner.training.opened import open_workload
from tuner.workload import Workload

Check = Literal["seed", "state", "batch", "evaluation", "loss", "metrics"]

CHECKS: Final[Mapping[Check, str]] = {
    "seed": "the same seed gives the same losses",
    "state": "`load_state_dict(state_dict())` into a freshly built workload continues bit for bit",
    "batch": "the batch of a step, and random numbers such as dropout's, depend on (seed, step) or the state only",
    "evaluation": "`evaluate` leaves the state alone, and gives the same metrics again",
    "loss": "`training_step` returns one number, detached",
    "metrics": "`evaluate` returns what the class declares",
}
"""What holds of a workload that is fit for sharing."""

_BEFORE: Final = 2
"""Steps before the state is saved; as many and one more follow, for momentum shows only in the second."""
_STEPS: Final = 2 * _BEFORE + 1
_METHODS: Final = ("training_step", "evaluate", "state_dict", "load_state_dict")


@dataclass(frozen=True, slots=True)
class Failed:
    """A check that a workload failed, and how to mend it."""

    check: Check
    mend: str

    def __str__(self) -> str:
        return f"{self.check}: {self.mend}"


def check_workload(
    workload: str | type,
    settings: Any = None,
    *,
    seed: int = 0,
    lr: float | None = None,
    device: torch.device | str | None = None,
) -> list[Failed]:
    """Return which checks a workload failed, none where it is fit for sharing; it takes about twenty training steps.

    What is checked, `CHECKS` says. Where `seed` fails, of the others only `loss` is looked at, and where `batch` does,
    `state` cannot be.

    Args:
        workload: its name, "package.module:Class", or the class, which must stand at the top of its module.
        settings: as a mapping or an object of its `Settings`; None takes the defaults.
        seed: of the checked runs.
        lr: the LR to train at; None takes the class's.
        device: where to train; None takes the GPU where there is one. Kernels are made deterministic there.

    Raises:
        UserError: there is no such class, or a setting is wrong. What the workload itself raises comes out too.
    """
    if not isinstance(workload, str | type):
        raise UserError(
            f"a workload must be given by its name `package.module:Class` or as a class, but got a "
            f"{type(workload).__name__}; give its name"
        )
    name = workload if isinstance(workload, str) else f"{workload.__module__}:{workload.__qualname__}"
    config = looked_up(OwnConfig(name=name, settings=_plain(settings)))
    return check_config(config, seed=seed, lr=lr, device=device)


def check_config(
    config: OwnConfig, *, seed: int, lr: float | None = None, device: torch.device | str | None = None
) -> list[Failed]:
    """Return which checks a workload failed, as `check_workload` does."""
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    set_deterministic(where, on=config.deterministic)
    opened, lr = open_workload(config), config.reference_lr if lr is None else lr
    declared = [] if config.declared is None else [*config.declared.metrics]
    with torch.random.fork_rng():
        return _Checks(lambda: opened.build(seed=seed, device=where), lr=lr, metrics=declared).failed()


class _Checks:
    """Trains some fresh copies of a workload for a few steps, each differently, and compares them."""

    def __init__(self, build: Callable[[], Workload], *, lr: float, metrics: list[str]) -> None:
        self._make, self._lr, self._metrics = build, lr, metrics
        self._built = 0

    def failed(self) -> list[Failed]:
        found: list[Failed] = []
        one = self._build()
        losses = [self._step(one, step) for step in range(_BEFORE)]
        saved = _saved(one)
        losses += [self._step(one, step) for step in range(_BEFORE, _STEPS)]
        other = self._build()
        raw = other.training_step(0, self._lr)
        if isinstance(raw, Tensor) and raw.requires_grad:
            found.append(Failed("loss", "`training_step` must return the loss detached; return loss.detach()"))
        again = [_number(raw), *(self._step(other, step) for step in range(1, _STEPS))]
        step = _parting(again, losses)
        if step is not None:
            found.append(
                Failed(
                    "seed",
                    f"two runs with the same seed must have the same losses, but differ at step {step}:"
                    f" {losses[step]!r} and {again[step]!r}; draw initial weights, batches and dropout from `seed` and"
                    " `step` alone",
                )
            )
            return found  # nothing else can be told apart from this
        if isinstance(saved, Failed):
            return [*found, saved, *self._evaluated(losses, with_state=False)]
        return [*found, *self._continued(saved, losses), *self._evaluated(losses)]

    def _continued(self, saved: dict[str, Any], losses: list[float]) -> list[Failed]:
        fresh = self._build()
        try:
            fresh.load_state_dict(saved)
        except Exception as error:  # noqa: BLE001 - foreign code
            rule = "`load_state_dict` must take what `state_dict` returned, as a file brings it back"
            mend = "lists stand where tuples were, and tensors are in host memory"
            return [Failed("state", f"{rule}, but raised {where_from(error)}; {mend}")]
        rest = [self._step(fresh, step) for step in range(_BEFORE, _STEPS)]
        index = _parting(rest, losses[_BEFORE:])
        if index is None:
            return []
        step = _BEFORE + index
        difference = f"step {step} after a restored state had the loss {rest[index]!r}, and {losses[step]!r} without"
        if not self._same_batch():
            return [
                Failed(
                    "batch",
                    f"the batch of a step, and its random numbers, must depend on (seed, step) only, but {difference}; "
                    "draw both from a generator seeded with (seed, step), not from an iterator or a running generator",
                )
            ]
        what = (
            "weights" if index == 0 else "momentum and the like (the optimizer's state_dict), random states, counters"
        )
        return [
            Failed(
                "state",
                f"a restored state must go on bit for bit, but {difference}; `state_dict` and `load_state_dict` must "
                f"hold all that the next step depends on: {what}",
            )
        ]

    def _same_batch(self) -> bool:
        """Return whether a step has the same loss whatever steps came before it: at LR 0 the weights stay."""
        first, second = self._build(), self._build()
        for step in range(_BEFORE):
            first.training_step(step, 0.0)
        one, other = (_number(each.training_step(_BEFORE, 0.0)) for each in (first, second))
        return _parting([one], [other]) is None

    def _evaluated(self, losses: list[float], *, with_state: bool = True) -> list[Failed]:
        workload = self._build()
        for step in range(_BEFORE):
            self._step(workload, step)
        before = snapshot(workload.state_dict()) if with_state else None
        metrics, repeated = _metrics(workload.evaluate()), _metrics(workload.evaluate())
        changed = with_state and not _equal(before, snapshot(workload.state_dict()))
        found = []
        if missing := [name for name in self._metrics if name not in metrics]:
            rule = f"`evaluate` must return all declared metrics, but lacks {', '.join(missing)}"
            found.append(Failed("metrics", f"{rule}; return them, or declare what it returns"))
        rest = [self._step(workload, step) for step in range(_BEFORE, _STEPS)]
        why = "state_dict() is another after it" if changed else ""
        why = why or ("training goes on differently after it" if _parting(rest, losses[_BEFORE:]) is not None else "")
        why = why or ("its metrics differ the second time" if repr(metrics) != repr(repeated) else "")
        if why:
            rule = "`evaluate` must leave the state alone"
            mend = "use model.eval(), torch.no_grad() and a generator of its own, and go back to model.train()"
            found.append(Failed("evaluation", f"{rule}, but {why}; {mend}"))
        return found

    def _build(self) -> Workload:
        """Return a fresh workload, each time with the process's own generators in another state."""
        self._built += 1
        torch.manual_seed(self._built)
        random.seed(self._built)
        np.random.seed(self._built)  # noqa: NPY002 - the one that foreign code may use
        workload = self._make()
        if missing := [name for name in _METHODS if not callable(getattr(workload, name, None))]:
            raise UserError(
                f"a workload must have the methods {', '.join(_METHODS)}, but {type(workload).__name__} lacks "
                f"{', '.join(missing)}; write it, see tuner.workload"
            )
        return workload

    def _step(self, workload: Workload, step: int) -> float:
        return _number(workload.training_step(step, self._lr))


def _number(loss: Tensor | float) -> float:
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return float(loss.detach())
    if isinstance(loss, int | float):
        return float(loss)
    found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
    raise UserError(f"`training_step` must return the loss, one number, but returned {found}; return loss.detach()")


def _parting(one: list[float], other: list[float]) -> int | None:
    """Return where two rows of losses differ first, None where they do not; NaN is the same as NaN."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=True)) if repr(a) != repr(b)), None)


def _metrics(found: Mapping[str, float]) -> dict[str, float]:
    if not isinstance(found, Mapping):
        raise UserError(
            f"`evaluate` must return metrics by name, but returned {found!r}; return a dict such as "
            "{'accuracy': 0.93}"
        )
    metrics = {}
    for name, value in found.items():
        try:
            metrics[name] = float(value)
        except (TypeError, ValueError, RuntimeError):
            raise UserError(
                f"`evaluate` must return one number for each metric, but `{name}` is {value!r}; return a float"
            ) from None
    return metrics


def _plain(settings: Any) -> dict[str, Any]:
    if settings is None or isinstance(settings, Mapping):
        return dict(settings or {})
    return asdict(settings) if is_dataclass(settings) and not isinstance(settings, type) else settings.model_dump()


def _saved(workload: Workload) -> dict[str, Any] | Failed:
    """Return the state of a workload as a checkpoint would bring it back."""
    state = workload.state_dict()
    try:
        copied = snapshot(state)
    except TypeError as error:
        return Failed("state", f"{error}; keep an array as a tensor, and of an object what it needs to go on")
    file = io.BytesIO()
    torch.save(copied, file)
    file.seek(0)
    read: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return read


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one.nan_to_num(), other.nan_to_num())
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return type(one) is type(other) and one == other

"""The detectors as drop-in schedulers for any PyTorch loop: `FastFaceLR` and `HaarLR`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from tuner.errors import DivergedError, UserError
from tuner.schedulers.late_loss import LateLoss
from tuner.schedulers.registry import Setting, resolve


# LRScheduler is inherited from for its type alone: Lightning, Accelerate and others accept a scheduler by isinstance.
# Nothing of it runs. Its constructor would step once without a loss and wrap optimizer.step; ReduceLROnPlateau, the
# torch scheduler that reads a metric, leaves it out for the same reason.
class LossDrivenLR(LRScheduler):
    """What `FastFaceLR` and `HaarLR` have in common: everything but the detector.

    The LR of each param group is its LR at construction (`initial_lr` where the group has one already) times one factor
    that the losses decide, so groups keep their ratios. A group added later keeps its ratio to the factor of that time.
    """

    scheduler: ClassVar[str]
    _step_count = 0  # Accelerate counts on it where it skips a step.

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        total_steps: int,
        loss_delay: Literal[0, 1] = 1,
        on_nonfinite: Literal["raise", "skip"] = "raise",
        **settings: Setting,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"`optimizer` must be a torch.optim.Optimizer, but got {type(optimizer).__name__}")
        if loss_delay not in {0, 1}:
            raise UserError(f"`loss_delay in {{0, 1}}` must hold, but got {loss_delay!r}; 1 is the published timing")
        if on_nonfinite not in {"raise", "skip"}:
            raise UserError(f"`on_nonfinite in {{raise, skip}}` must hold, but got {on_nonfinite!r}; raise is safe")
        self.optimizer = optimizer
        self._schedule = resolve(self.scheduler, settings, total_steps=total_steps)
        self._advance = self._schedule.family.advance
        self._params = self._schedule.params
        self._late = loss_delay == 1
        self._skips_nonfinite = on_nonfinite == "skip"
        self._pending: float | LateLoss | None = None
        self._added: float | Tensor = 0.0
        self._num_added = 0
        self._buffers: list[LateLoss] = []
        self._state, self._factor = self._schedule.start()
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", float(group["lr"]))
        self._set_factor(self._factor)

    def add_loss(self, loss: float | Tensor) -> None:
        """Note the loss of the step under way, or of a part of it; the next `step()` takes the mean of what was noted.

        It is for loops that call `step()` themselves and without a loss, such as those of Lightning and of the Trainer
        of transformers, and for gradient accumulation. `loss` is what `step` takes. Nothing waits for a CUDA device.
        """
        if not isinstance(loss, Tensor):
            part: float | Tensor = float(loss)
        elif loss.is_cuda:
            part = loss.detach().reshape(()).to(torch.float64, copy=True)  # it may be overwritten before the step ends
        else:
            part = float(loss.item())
        self._added = self._added + part
        self._num_added += 1

    def step(self, loss: float | Tensor | None = None) -> None:
        """Take the loss of the training step that has just run, and set the LR of the next one.

        `loss` is a number or a tensor of one element, of any floating type, with or without a graph; without it, the
        mean of those given to `add_loss` since the last call counts. Call it once per optimizer step, after it, and
        also where a grad scaler skipped that step. Raises `DivergedError` for a NaN or infinite loss unless
        `on_nonfinite="skip"`; with a delay of one step, at the call after it. `UserError` where there is no loss, or
        one beside added ones.
        """
        if loss is None or self._num_added:
            loss = self._mean_of_added(loss)
        due: float | LateLoss | None = loss if type(loss) is float else self._fetch(loss)
        if self._late:
            due, self._pending = self._pending, due
        if type(due) is float:
            value = due
        elif isinstance(due, LateLoss):
            value = due.read()
        else:
            return
        try:
            self._state, factor = self._advance(self._params, self._state, value)
        except DivergedError:
            if self._skips_nonfinite:
                return
            raise
        if factor != self._factor:
            self._set_factor(factor)

    @property
    def last_epoch(self) -> int:  # type: ignore[override]
        """Number of losses taken, the pending one included and skipped ones not: torch's name for the step."""
        steps: int = self._state[0]
        return steps + (self._pending is not None)

    @property
    def base_lrs(self) -> list[float]:  # type: ignore[override]
        """LR of each param group at factor 1."""
        return [self._base_lr(group) for group in self.optimizer.param_groups]

    @property
    def response(self) -> float | None:
        """The detector's response to the newest loss it has read; None before the first decision."""
        return self._schedule.response(self._state)

    @property
    def threshold(self) -> float | None:
        """What the response is compared with; None before the first loss."""
        return self._schedule.threshold(self._state)

    def get_last_lr(self) -> list[float]:  # type: ignore[override]
        """Return the LR of each param group as this scheduler last set it."""
        return [base * self._factor for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next steps depend on, as JSON-like data; reads a loss that is still on the device."""
        if isinstance(self._pending, LateLoss):
            self._pending = self._pending.read()
        return {
            "config": self._config(),
            "state": self._schedule.dump(self._state),
            "factor": self._factor,
            "pending_loss": self._pending,
            "added_losses": [float(self._added), self._num_added],
            "base_lrs": self.base_lrs,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on as the scheduler that `state_dict` came from, and set the optimizer's LRs.

        Raises `UserError` where the state is damaged, or of a scheduler with other settings or another number of param
        groups: going on from it would be another run.
        """
        missing = {"config", "state", "factor", "pending_loss", "added_losses", "base_lrs"} - set(state_dict)
        if missing:
            raise UserError(f"a state of {type(self).__name__} is needed, but {', '.join(sorted(missing))} is missing")
        config, theirs = self._config(), state_dict["config"]
        differing = sorted(key for key in {*config, *theirs} if config.get(key) != theirs.get(key))
        if differing:
            found = ", ".join(f"{key} = {theirs.get(key)} instead of {config.get(key)}" for key in differing)
            raise UserError(f"the settings must be those of the state, but it has {found}; give the same ones")
        groups = self.optimizer.param_groups
        base_lrs = state_dict["base_lrs"]
        if len(base_lrs) != len(groups):
            raise UserError(f"the state has {len(base_lrs)} param groups, the optimizer {len(groups)}; make them equal")
        self._state = self._schedule.load(state_dict["state"])
        self._pending = state_dict["pending_loss"]
        self._added, self._num_added = state_dict["added_losses"]
        for group, base_lr in zip(groups, base_lrs, strict=True):
            group["initial_lr"] = base_lr
        self._set_factor(state_dict["factor"])

    def _config(self) -> dict[str, Any]:
        params = asdict(self._params)
        rule = params.pop("rule")
        return {"scheduler": self.scheduler, "loss_delay": int(self._late), **params, **rule}

    def _mean_of_added(self, loss: float | Tensor | None) -> float | Tensor:
        name = type(self).__name__
        if loss is not None:
            raise UserError(f"the loss of a step is either added or given, but {name} got both; leave `add_loss` out")
        if not self._num_added:
            raise UserError(f"{name} needs the loss of each step, but got none; use `add_loss(loss)` or `step(loss)`")
        mean = self._added / self._num_added
        self._added, self._num_added = 0.0, 0
        return mean

    def _fetch(self, loss: float | Tensor) -> float | LateLoss:
        if not isinstance(loss, Tensor):
            return float(loss)
        if not loss.is_cuda or not self._late:
            return float(loss.item())
        # Two buffers take turns: one is read while the other is on its way.
        if not self._buffers or not self._buffers[0].fits(loss):
            self._buffers = [LateLoss(loss), LateLoss(loss)]
        self._buffers.reverse()
        self._buffers[0].send(loss)
        return self._buffers[0]

    def _set_factor(self, factor: float) -> None:
        for group in self.optimizer.param_groups:
            base_lr = group["initial_lr"] = self._base_lr(group)
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(base_lr * factor)
            else:
                group["lr"] = base_lr * factor
        self._factor = factor

    def _base_lr(self, group: dict[str, Any]) -> float:
        base_lr = group.get("initial_lr")
        return float(group["lr"]) / self._factor if base_lr is None else float(base_lr)


class FastFaceLR(LossDrivenLR):
    """Lower the LR when the loss stops falling, in O(1) time and memory a step.

    With the loss L_t, a = 1 / EMA window, b = 2 / Haar window:

        E_t = (2-a-b) E_{t-1} - (1-a)(1-b) E_{t-2} + a b (L_{t-1} - L_t)

    E_t is a smoothed fall of the loss per step; after `patience` + 1 steps in a row below `threshold` the LR is divided
    by `decay_factor`. The state is nine numbers; `tuner.schedulers.fastface` and `.rule` have every detail.

    1. The GPU never waits: with `loss_delay=1` (the default, and the published timing) a loss is read one call after
       it was given, when its step is long done. The loss of step t so decides the LR of step t + 2. With `loss_delay=0`
       it decides the LR of step t + 1, and `step` waits for the loss. Numbers and CPU tensors follow the same timing.
    2. NaN or infinite loss: `DivergedError`, or with `on_nonfinite="skip"` the step does not count at all.
    3. Grad scaler: call `step` each iteration, skipped or not. A scaler skips for infinite *gradients*, the loss is
       mostly finite and counts; where it is not, `on_nonfinite="skip"` is for such loops.
    4. Several processes must all pass the same loss (the reduced one), or their LRs part.
    5. Gradient accumulation: `add_loss(loss)` for each part, and `step()` once per optimizer step: it takes their mean.
       The same for a framework that calls `step()` itself, without a loss (`docs/other_loops.md`).
    6. `state_dict` restores into a fresh optimizer and goes on bit for bit; it also sets the optimizer's LRs.

    Reference: arXiv 2404.11118.

    Args:
        optimizer: any torch optimizer; the LR of each of its param groups is the LR at factor 1.
        total_steps: T, optimizer steps of the whole run, at least 1; scale-free settings are fractions of it.
        loss_delay: 0 or 1 steps, see 1.
        on_nonfinite: "raise" or "skip", see 2.
        settings: by name, as `tuner.schedulers.registry.setting_names("fastface")` describes them, such as `patience`
            or `patience_fraction`, `decay_factor`, `threshold`; the defaults are the published ones. `UserError`
            where a name is unknown or a value out of range.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = torch.optim.SGD([weight], lr=0.5)
        >>> scheduler = FastFaceLR(optimizer, total_steps=100, patience=9, loss_delay=0)
        >>> for _ in range(100):
        ...     loss = (weight**2).sum()
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        ...     scheduler.step(loss)
        >>> scheduler.get_last_lr()[0] < 0.5
        True
    """

    scheduler: ClassVar[str] = "fastface"


class HaarLR(LossDrivenLR):
    """Lower the LR when the windowed Haar response of the loss falls below a threshold; the published runs used this.

    H_t = 1/2 (mean of the older half - mean of the newer half) of the last `haar_window` moving averages of the loss.
    O(1) time and O(haar_window) memory a step. Timing, NaN, grad scaler, processes and state are those of `FastFaceLR`;
    `tuner.schedulers.haar` has every detail, `tuner.schedulers.registry.setting_names("haar")` the settings.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.5)
        >>> scheduler = HaarLR(optimizer, total_steps=1000, haar_window=20, patience=40, loss_delay=0)
        >>> for _ in range(100):
        ...     scheduler.step(3.0)
        >>> scheduler.get_last_lr()
        [0.25]
    """

    scheduler: ClassVar[str] = "haar"

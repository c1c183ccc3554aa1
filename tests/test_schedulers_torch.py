"""`FastFaceLR` and `HaarLR` in a PyTorch loop: timing, param groups, resume, odd losses."""

import doctest
import io
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import LRScheduler

from tuner import FastFaceLR, HaarLR
from tuner.errors import DivergedError, UserError
from tuner.schedulers import torch_adapter
from tuner.schedulers.registry import resolve

TOTAL_STEPS = 300
SETTINGS: dict[type, dict[str, Any]] = {
    FastFaceLR: {"patience": 4, "threshold": 0.01, "warmup": 3, "rebound": 3.0},
    HaarLR: {"haar_window": 6, "patience": 4, "threshold": 0.05},
}
both = pytest.mark.parametrize("kind", [FastFaceLR, HaarLR])


def losses(count: int = TOTAL_STEPS) -> list[float]:
    noise = np.random.default_rng(0).normal(0, 0.05, count)
    return list((3 + 5 * np.exp(-np.arange(count) / 30) + noise).tolist())


def optimizer(*lrs: float) -> SGD:
    return SGD([{"params": [torch.nn.Parameter(torch.zeros(2))], "lr": lr} for lr in lrs or (0.5,)])


def make(kind: type, optimizer: torch.optim.Optimizer, **extra: Any) -> Any:
    return kind(optimizer, total_steps=TOTAL_STEPS, **SETTINGS[kind], **extra)


def pure_factors(kind: Any) -> list[float]:
    schedule = resolve(kind.scheduler, SETTINGS[kind], total_steps=TOTAL_STEPS)
    state, factor = schedule.start()
    found = [factor]
    for loss in losses():
        state, factor = schedule.advance(state, loss)
        found.append(factor)
    return found


@both
@pytest.mark.parametrize("delay", [0, 1])
def test_the_loss_of_step_t_decides_the_lr_of_step_t_plus_one_plus_the_delay(kind, delay):
    target = optimizer(0.5)
    scheduler = make(kind, target, loss_delay=delay)
    used = []
    for loss in losses():
        used.append(target.param_groups[0]["lr"])
        scheduler.step(loss)
        assert scheduler.get_last_lr() == [target.param_groups[0]["lr"]]
    factors = pure_factors(kind)
    expected = [0.5 * factor for factor in (factors[:1] * delay + factors)[:TOTAL_STEPS]]
    assert used == expected
    assert used[-1] < 0.5
    assert scheduler.last_epoch == TOTAL_STEPS
    assert scheduler.response is not None
    assert scheduler.threshold == SETTINGS[kind]["threshold"]


@both
def test_a_loss_may_be_any_number_or_tensor_of_one_element(kind):
    forms = [
        float,
        np.float64,
        lambda loss: torch.tensor(loss, dtype=torch.float64),
        lambda loss: torch.tensor([loss], dtype=torch.float64),
        lambda loss: torch.tensor(loss, dtype=torch.float64, requires_grad=True) * 1.0,
    ]
    schedulers = [make(kind, optimizer()) for _ in forms]
    for loss in losses(100):
        for scheduler, form in zip(schedulers, forms, strict=True):
            scheduler.step(form(loss))
        assert len({scheduler.get_last_lr()[0] for scheduler in schedulers}) == 1
    half = make(kind, optimizer())
    half.step(torch.tensor(3.0, dtype=torch.bfloat16))
    half.step(3)
    with pytest.raises((ValueError, RuntimeError)):
        half.step(torch.zeros(2))


@both
def test_param_groups_keep_their_ratios_also_one_that_joins_later(kind):
    target = optimizer(0.5, 0.05, 2.0)
    scheduler = make(kind, target)
    for step, loss in enumerate(losses()):
        scheduler.step(loss)
        if step == 150:
            half_way = scheduler.get_last_lr()[0]
            target.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": half_way / 4})
    lrs = [group["lr"] for group in target.param_groups]
    assert lrs[0] < half_way < 0.5
    assert [lr / lrs[0] for lr in lrs] == pytest.approx([1, 0.1, 4, 0.25])
    assert scheduler.get_last_lr() == lrs
    assert scheduler.base_lrs == pytest.approx([0.5, 0.05, 2.0, 0.125])


def test_an_lr_kept_in_a_tensor_is_changed_in_place():
    lr = torch.tensor(0.5)
    target = Adam([torch.nn.Parameter(torch.zeros(2))], lr=lr)
    scheduler = make(FastFaceLR, target)
    for loss in losses():
        scheduler.step(loss)
    assert target.param_groups[0]["lr"] is lr
    assert float(lr) == pytest.approx(scheduler.get_last_lr()[0])
    assert scheduler.get_last_lr()[0] < 0.5


@settings(deadline=None, max_examples=30)
@given(st.sampled_from([FastFaceLR, HaarLR]), st.integers(0, TOTAL_STEPS), st.sampled_from([0, 1]))
def test_a_state_restores_into_a_fresh_optimizer_bit_for_bit(kind, cut, delay):
    curve = losses()
    whole = make(kind, optimizer(0.5, 0.1), loss_delay=delay)
    for loss in curve[:cut]:
        whole.step(torch.tensor(loss, dtype=torch.float64))
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    file.seek(0)
    target = optimizer(9.0, 9.0)  # its LRs come from the state
    resumed = make(kind, target, loss_delay=delay)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert [group["lr"] for group in target.param_groups] == whole.get_last_lr()
    for loss in curve[cut:]:
        whole.step(loss)
        resumed.step(loss)
        assert resumed.get_last_lr() == whole.get_last_lr()
        assert [group["lr"] for group in target.param_groups] == whole.get_last_lr()
    assert resumed.state_dict() == whole.state_dict()


@both
def test_a_state_that_would_be_another_run_is_an_error(kind):
    scheduler = make(kind, optimizer())
    state = scheduler.state_dict()
    other = kind(optimizer(), total_steps=TOTAL_STEPS, patience=9)
    for damaged, message in (
        (other.state_dict(), "the settings must be those of the state, but it has .*patience = 9 instead of 4"),
        (make(kind, optimizer(), loss_delay=0).state_dict(), "but it has loss_delay = 0 instead of 1; give"),
        (make(kind, optimizer(0.1, 0.2)).state_dict(), "the state has 2 param groups, the optimizer 1"),
        ({}, "added_losses, base_lrs, config, factor, pending_loss, state is missing"),
        ({**state, "state": {}}, "a whole state of the scheduler"),
    ):
        with pytest.raises(UserError, match=message):
            scheduler.load_state_dict(damaged)
    foreign = make(HaarLR if kind is FastFaceLR else FastFaceLR, optimizer())
    with pytest.raises(UserError, match=r"but it has .*scheduler = \w+ instead of \w+"):
        scheduler.load_state_dict(foreign.state_dict())


@both
@pytest.mark.parametrize("bad", [math.nan, math.inf, torch.tensor(math.nan)])
def test_a_nonfinite_loss_raises_or_does_not_count(kind, bad):
    scheduler = make(kind, optimizer(), loss_delay=0)
    with pytest.raises(DivergedError, match="the loss must be finite"):
        scheduler.step(bad)
    late = make(kind, optimizer())
    late.step(bad)
    with pytest.raises(DivergedError):
        late.step(3.0)
    plain, skipping = make(kind, optimizer()), make(kind, optimizer(), on_nonfinite="skip")
    for step, loss in enumerate(losses()):
        plain.step(loss)
        skipping.step(loss)
        if step % 7 == 3:
            skipping.step(bad)
            skipping.step(bad)
    plain.step(1.0)
    skipping.step(1.0)
    assert skipping.state_dict() == plain.state_dict()


@both
@pytest.mark.parametrize("delay", [0, 1])
def test_a_step_without_a_loss_takes_the_mean_of_the_added_ones(kind, delay):
    whole, parts = make(kind, optimizer(), loss_delay=delay), make(kind, optimizer(), loss_delay=delay)
    for step, loss in enumerate(losses()):
        whole.step(loss)
        parts.add_loss(torch.tensor(loss - 0.25, dtype=torch.float64, requires_grad=True))
        if step % 2:  # in the middle of a step
            state = parts.state_dict()
            parts = make(kind, optimizer(), loss_delay=delay)
            parts.load_state_dict(state)
        parts.add_loss(np.float64(loss + 0.25))
        parts.step()
        assert parts.get_last_lr() == whole.get_last_lr()
    assert whole.get_last_lr()[0] < 0.5
    assert parts.last_epoch == TOTAL_STEPS


@both
def test_a_step_has_one_source_of_its_loss(kind):
    scheduler = make(kind, optimizer())
    with pytest.raises(UserError, match=rf"{kind.__name__} needs the loss of each step, but got none; use `add_loss"):
        scheduler.step()
    scheduler.add_loss(3.0)
    with pytest.raises(UserError, match=r"either added or given, but .* got both"):
        scheduler.step(3.0)
    scheduler.step()
    scheduler.step(3.0)
    assert scheduler.last_epoch == 2


def test_it_works_beside_a_grad_scaler_that_skips_steps():
    weight = torch.nn.Parameter(torch.ones(4))
    target = SGD([weight], lr=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    scheduler = FastFaceLR(target, total_steps=60, patience=5)
    skipped = 0
    for step in range(60):
        target.zero_grad()
        loss = (weight**2).sum()
        scaler.scale(loss).backward()
        if step % 10 == 4:
            assert weight.grad is not None
            weight.grad.fill_(math.inf)
        before, scale = weight.detach().clone(), scaler.get_scale()
        scaler.step(target)
        scaler.update()
        skipped += bool((weight == before).all()) and scaler.get_scale() < scale
        scheduler.step(loss)
    assert skipped == 6
    assert scheduler.last_epoch == 60
    assert scheduler.get_last_lr()[0] < 0.5


@both
def test_frameworks_recognise_it_by_type(kind):
    assert isinstance(make(kind, optimizer()), LRScheduler)
    with pytest.raises(TypeError, match=r"must be a torch\.optim\.Optimizer, but got list"):
        make(kind, [0.5])


@pytest.mark.parametrize("extra", [{"loss_delay": 2}, {"on_nonfinite": "ignore"}, {"patiance": 3}])
def test_a_wrong_argument_is_an_error(extra):
    with pytest.raises(UserError):
        FastFaceLR(optimizer(), total_steps=TOTAL_STEPS, **extra)


class OnDevice(torch.Tensor):
    """A tensor that says it lies on a CUDA device."""

    is_cuda = True  # type: ignore[assignment]


class FakeLate:
    """Stands in for `LateLoss` without a device, and notes what was sent and read."""

    log: list[tuple[str, float]]

    def __init__(self, loss: torch.Tensor) -> None:
        self.dtype = loss.dtype

    def fits(self, loss: torch.Tensor) -> bool:
        return self.dtype == loss.dtype

    def send(self, loss: torch.Tensor) -> None:
        self.value = float(loss.as_subclass(torch.Tensor))
        self.log.append(("send", self.value))

    def read(self) -> float:
        self.log.append(("read", self.value))
        return self.value


def test_a_loss_on_the_device_is_read_after_the_next_one_was_sent(monkeypatch):
    monkeypatch.setattr(torch_adapter, "LateLoss", FakeLate)
    FakeLate.log = []
    scheduler = make(FastFaceLR, optimizer())
    for value in (5.0, 4.0, 3.0):
        scheduler.step(torch.tensor(value).as_subclass(OnDevice))
    assert FakeLate.log == [("send", 5), ("send", 4), ("read", 5), ("send", 3), ("read", 4)]
    assert scheduler.state_dict()["pending_loss"] == 3.0


def test_losses_added_on_the_device_are_read_after_the_next_step_was_sent(monkeypatch):
    monkeypatch.setattr(torch_adapter, "LateLoss", FakeLate)
    FakeLate.log = []
    scheduler = make(FastFaceLR, optimizer())
    static = torch.zeros(1).as_subclass(OnDevice)  # overwritten each time, like the output of a CUDA graph
    for values in ((5.0, 6.0), (4.0, 3.0)):
        for value in values:
            static.fill_(value)
            scheduler.add_loss(static)
        scheduler.step()
    assert FakeLate.log == [("send", 5.5), ("send", 3.5), ("read", 5.5)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="reads a loss back from a CUDA device")
def test_a_cuda_loss_is_the_one_at_the_time_of_the_call():
    host, device = make(FastFaceLR, optimizer()), make(FastFaceLR, optimizer())
    static = torch.zeros((), device="cuda")  # overwritten each step, like the output of a CUDA graph
    for loss in losses():
        static.fill_(loss)
        device.step(static)
        host.step(float(np.float32(loss)))
    assert device.state_dict() == host.state_dict()


def test_import_tuner_leaves_torch_alone():
    code = "import sys, tuner; assert 'torch' not in sys.modules; assert tuner.FastFaceLR.__name__ == 'FastFaceLR'"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(ImportError):
        from tuner import NothingLR  # noqa: F401


def test_the_examples_in_the_docstrings_run():
    results = doctest.testmod(torch_adapter)
    assert results.attempted > 0
    assert results.failed == 0

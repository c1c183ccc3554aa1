"""The baselines are torch's schedulers, as pure functions of the step or of the losses."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LRScheduler,
    MultiStepLR,
    PolynomialLR,
    ReduceLROnPlateau,
)

from tuner.schedulers.registry import Setting, names, resolve

TOTAL_STEPS = 240


def optimizer(lr: float = 1.0) -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def factors(name: str, setting: dict[str, Setting]) -> list[float]:
    schedule = resolve(name, setting, total_steps=TOTAL_STEPS)
    state, factor = schedule.start()
    found = [factor]
    for _ in range(TOTAL_STEPS):
        state, factor = schedule.advance(state, math.nan)  # it must not matter
        found.append(factor)
    return found


def torch_factors(scheduler: LRScheduler) -> list[float]:
    found = [float(scheduler.get_last_lr()[0])]
    for _ in range(TOTAL_STEPS):
        scheduler.optimizer.step()
        scheduler.step()
        found.append(float(scheduler.get_last_lr()[0]))
    return found


def test_constant_is_constant():
    assert factors("constant", {}) == [1.0] * (TOTAL_STEPS + 1)


@pytest.mark.parametrize("gamma", [0.1, 0.5])
def test_multi_step_is_torchs(gamma):
    reference = torch_factors(MultiStepLR(optimizer(), milestones=[60, 120, 120, 180], gamma=gamma))
    assert factors("multi_step", {"milestones": "60,120,180,120", "gamma": gamma}) == pytest.approx(
        reference, rel=1e-12
    )


@pytest.mark.parametrize("final_factor", [0.0, 0.25])
def test_cosine_is_torchs(final_factor):
    reference = torch_factors(CosineAnnealingLR(optimizer(), T_max=TOTAL_STEPS, eta_min=final_factor))
    assert factors("cosine", {"final_factor": final_factor}) == pytest.approx(reference, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("power", [1.0, 2.0, 0.7])
def test_polynomial_is_torchs(power):
    reference = torch_factors(PolynomialLR(optimizer(), total_iters=TOTAL_STEPS, power=power))
    assert factors("polynomial", {"power": power}) == pytest.approx(reference, rel=1e-9, abs=1e-12)


def test_polynomial_ends_at_its_final_factor():
    found = factors("polynomial", {"final_factor": 0.1, "warmup_fraction": 0.1})
    assert found[-1] == pytest.approx(0.1)
    assert max(found) == 1


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(0, 10), max_size=TOTAL_STEPS),
    st.fixed_dictionaries(
        {
            "interval": st.integers(1, 6),
            "patience": st.integers(0, 4),
            "cooldown": st.integers(0, 4),
            "factor": st.sampled_from([0.1, 0.5, 0.9]),
            "threshold": st.sampled_from([0, 1e-4, 0.1]),
            "floor": st.sampled_from([0, 0.01, 0.3]),
        }
    ),
)
def test_plateau_is_torchs_bit_for_bit(losses, setting):
    schedule = resolve("plateau", setting, total_steps=TOTAL_STEPS)
    reference = ReduceLROnPlateau(
        optimizer(),
        factor=setting["factor"],
        patience=setting["patience"],
        threshold=setting["threshold"],
        cooldown=setting["cooldown"],
        min_lr=setting["floor"],
        eps=0,
    )
    state, _ = schedule.start()
    interval = setting["interval"]
    for step, loss in enumerate(losses):
        if (step + 1) % interval == 0:
            reference.step(sum(losses[step + 1 - interval : step + 1]) / interval)
        state, factor = schedule.advance(state, loss)
        assert factor == reference.get_last_lr()[0]


@pytest.mark.parametrize("name", names())
def test_every_scheduler_warms_up_linearly(name):
    schedule = resolve(name, {"warmup": 10}, total_steps=TOTAL_STEPS)
    plain = resolve(name, {}, total_steps=TOTAL_STEPS)
    state, factor = schedule.start()
    found = [factor]
    for step in range(12):
        state, factor = schedule.advance(state, 5.0 - step)
        found.append(factor)
    assert found[:10] == [pytest.approx((step + 1) / 10) for step in range(10)]
    assert found[10] == plain.start()[1] == 1


def test_the_learning_rate_of_a_schedule_that_ignores_the_loss_needs_none():
    assert {name for name in names() if not resolve(name, {}, total_steps=9).reads_loss} == {
        "constant",
        "multi_step",
        "cosine",
        "polynomial",
    }

"""Partial FC: the whole head at rate 1, samples by (seed, step), and classes left alone while they are not sampled."""

import copy

import pytest
import torch
from torch import Tensor
from torch.optim import SGD

from tuner.models.heads import CombinedMarginHead
from tuner.models.partial_fc import PartialFC

CLASSES, SIZE = 50, 6


def head() -> CombinedMarginHead:
    torch.manual_seed(0)
    return CombinedMarginHead(CLASSES, embedding_size=SIZE, m2=0.3)


def partial(*, rate: float = 0.3, batch_size: int = 8, seed: int = 0) -> PartialFC:
    return PartialFC(head(), rate=rate, batch_size=batch_size, seed=seed)


def sgd(module: torch.nn.Module) -> SGD:
    return SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, fused=True)


def batch(step: int, *, size: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    labels = torch.randint(CLASSES, (size,), generator=generator)
    return torch.randn(size, SIZE, generator=generator), labels


def train(module: PartialFC, optimizer: SGD, steps: range) -> list[float]:
    losses = []
    for step in steps:
        x, labels = batch(step)
        with module.sampled(labels, step=step, optimizer=optimizer) as places:
            loss = module(x, places)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_at_rate_1_it_is_the_whole_head_bit_for_bit() -> None:
    module, whole = partial(rate=1.0), head()
    optimizer, other = sgd(module), sgd(whole)
    losses = train(module, optimizer, range(5))
    for step in range(5):
        x, labels = batch(step)
        loss = whole(x, labels)
        other.zero_grad()
        torch.autograd.backward(loss)
        other.step()
        assert losses[step] == float(loss.detach())
    assert torch.equal(module.weight, whole.weight)
    assert torch.equal(module.momentum, other.state[whole.weight]["momentum_buffer"])


@pytest.mark.parametrize(("rate", "size", "expected"), [(0.3, 8, 15), (0.01, 8, 8), (1.0, 8, 50), (0.1, 200, 50)])
def test_sample_holds_every_true_class_once_and_is_of_fixed_size(rate: float, size: int, expected: int) -> None:
    module = partial(rate=rate, batch_size=size)
    for step in range(20):
        _, labels = batch(step, size=size)
        classes = module.sample(labels, step=step)
        assert len(classes) == len(classes.unique()) == expected
        assert torch.equal(classes, classes.sort().values)
        assert set(labels.tolist()) <= set(classes.tolist())


def test_sample_is_a_function_of_seed_and_step_and_draws_nothing_from_the_process() -> None:
    _, labels = batch(0)
    module = partial()
    torch.manual_seed(77)
    before = torch.get_rng_state()
    one, again = module.sample(labels, step=3), partial().sample(labels, step=3)
    torch.manual_seed(77)
    module.sample(labels, step=9)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, again)
    assert torch.equal(one, module.sample(labels, step=3))
    assert not torch.equal(one, module.sample(labels, step=4))
    assert not torch.equal(one, partial(seed=1).sample(labels, step=3))


def test_wrong_classes_are_drawn_evenly() -> None:
    module, labels = partial(rate=0.5), torch.zeros(8, dtype=torch.int64)
    counts = sum(torch.bincount(module.sample(labels, step=step), minlength=CLASSES) for step in range(2000))
    assert isinstance(counts, Tensor)
    assert counts[0] == 2000
    # 24 of 49 others: 979.6 times each, standard deviation 22.3
    assert (counts[1:] - 979.6).abs().max() < 5 * 22.3


def test_classes_that_are_not_sampled_stay_as_they_are() -> None:
    module = partial()
    optimizer = sgd(module)
    train(module, optimizer, range(3))
    weight, momentum = module.weight.clone(), module.momentum.clone()
    sampled = module.sample(batch(3)[1], step=3)
    train(module, optimizer, range(3, 4))
    others = torch.ones(CLASSES, dtype=torch.bool)
    others[sampled] = False
    assert torch.equal(module.weight[others], weight[others])
    assert torch.equal(module.momentum[others], momentum[others])
    assert not torch.isclose(module.weight[sampled], weight[sampled]).all(dim=1).any()
    assert not torch.isclose(module.momentum[sampled], momentum[sampled]).all(dim=1).any()


def test_each_class_has_the_momentum_of_the_steps_that_sampled_it() -> None:
    """Against an optimizer for each class that only takes the steps in which the class is sampled."""
    module = partial()
    optimizer = sgd(module)
    rows = [torch.nn.Parameter(row.clone()) for row in head().weight.detach()]
    each = [SGD([row], lr=0.1, momentum=0.9, weight_decay=0.01) for row in rows]
    reference = head()
    for step in range(6):
        x, labels = batch(step)
        classes = module.sample(labels, step=step)
        centres = torch.stack([rows[c] for c in classes.tolist()])
        places = torch.searchsorted(classes, labels)
        loss = torch.func.functional_call(reference, {"weight": centres}, (x, places))
        torch.autograd.backward(loss)
        for c in classes.tolist():
            each[c].step()
            each[c].zero_grad()
        train(module, optimizer, range(step, step + 1))
    torch.testing.assert_close(module.weight, torch.stack(rows).detach())


def test_saved_and_loaded_it_goes_on_bit_for_bit() -> None:
    module = partial()
    optimizer = sgd(module)
    train(module, optimizer, range(3))
    saved = copy.deepcopy((module.state_dict(), optimizer.state_dict()))
    expected = train(module, optimizer, range(3, 8))
    other = partial()
    other_optimizer = sgd(other)
    other.load_state_dict(saved[0])
    other_optimizer.load_state_dict(saved[1])
    assert train(other, other_optimizer, range(3, 8)) == expected
    assert torch.equal(other.weight, module.weight)

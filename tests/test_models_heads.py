"""The margin head: its formula, exact gradients at every angle, and the behaviour beyond pi."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from tuner.models.heads import CombinedMarginHead, adaptive_scale, monotone_cos

MARGINS = [(1.0, 0.0, 0.0), (1.0, 0.5, 0.0), (1.0, 0.0, 0.35), (1.35, 0.2, 0.1), (4.0, 1.5, 0.0)]


def head_of(margins: tuple[float, float, float], *, num_classes: int = 5, size: int = 3) -> CombinedMarginHead:
    torch.manual_seed(1)
    m1, m2, m3 = margins
    return CombinedMarginHead(num_classes, embedding_size=size, m1=m1, m2=m2, m3=m3, scale=8.0).double()


@pytest.mark.parametrize("margins", MARGINS)
def test_gradients_are_exact(margins: tuple[float, float, float]) -> None:
    head = head_of(margins)
    torch.manual_seed(2)
    embeddings = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    weight = head.weight.detach().clone().requires_grad_()
    labels = torch.tensor([0, 4, 2, 2])

    def loss(x: Tensor, w: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(head, {"weight": w}, (x, labels))
        return result

    assert gradcheck(loss, (embeddings, weight))


@pytest.mark.parametrize("margins", MARGINS)
def test_logits_equal_the_formula(margins: tuple[float, float, float]) -> None:
    head, (m1, m2, m3) = head_of(margins), margins
    torch.manual_seed(3)
    embeddings, labels = torch.randn(6, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 4, 0])
    logits = head.logits(embeddings, labels)
    for i, x in enumerate(embeddings):
        for j, w in enumerate(head.weight.detach()):
            cosine = float(x @ w / (x.norm() * w.norm()))
            if j == labels[i]:
                phi = m1 * math.acos(cosine) + m2
                k = math.floor(phi / math.pi)
                cosine = (-1) ** k * math.cos(phi) - 2 * k - m3
            assert float(logits[i, j].detach()) == pytest.approx(8.0 * cosine, abs=1e-9)


@given(angle=st.floats(1e-5, math.pi - 1e-5), m2=st.floats(0, 1.5))
@settings(max_examples=60, deadline=None)
def test_gradient_keeps_its_size_at_every_angle(angle: float, m2: float) -> None:
    """In float32 d logit / d theta = -s |sin(theta + m2)|, also where acos of the cosine is steep beyond digits."""
    head = CombinedMarginHead(2, embedding_size=2, m2=m2, scale=1.0)
    with torch.no_grad():
        head.weight.copy_(torch.eye(2))
    embedding = torch.tensor([[math.cos(angle), math.sin(angle)]], requires_grad=True)
    torch.autograd.backward(head.logits(embedding, torch.tensor([0]))[0, 0])
    assert embedding.grad is not None
    along_the_circle = torch.tensor([-math.sin(angle), math.cos(angle)])
    expected = -abs(math.sin(angle + m2))
    assert float(embedding.grad[0] @ along_the_circle) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("angle", [0.0, math.pi])
def test_gradient_is_finite_where_embedding_and_centre_are_parallel(angle: float) -> None:
    head = CombinedMarginHead(2, embedding_size=2, m1=1.2, m2=0.5, scale=16.0)
    with torch.no_grad():
        head.weight.copy_(torch.eye(2))
    embedding = torch.tensor([[math.cos(angle), 0.0]], requires_grad=True)
    torch.autograd.backward(head(embedding, torch.tensor([0])))
    assert embedding.grad is not None
    assert head.weight.grad is not None
    assert embedding.grad.isfinite().all()
    assert head.weight.grad.isfinite().all()


def test_extended_cosine_is_continuous_and_never_rises() -> None:
    phi = torch.linspace(0, 4 * math.pi + 1.6, 200_001, dtype=torch.float64)
    values = monotone_cos(phi)
    steps = values.diff()
    assert (steps <= 1e-12).all()
    assert (steps >= -2 * float(phi[1] - phi[0])).all()
    inside = phi <= math.pi
    assert torch.equal(values[inside], torch.cos(phi[inside]))


def test_half_precision_embeddings_are_scored_in_float32() -> None:
    head = CombinedMarginHead(3, embedding_size=4, m2=0.2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head.logits(torch.randn(2, 4, dtype=torch.bfloat16), torch.tensor([0, 2]))
    assert logits.dtype == torch.float32


def test_scale_follows_the_number_of_classes_but_has_a_floor() -> None:
    assert adaptive_scale(2) == adaptive_scale(144) == 16.0
    assert adaptive_scale(617_970) == pytest.approx(math.sqrt(2) * math.log(617_969))
    assert CombinedMarginHead(617, embedding_size=2).scale == 16.0
    assert CombinedMarginHead(617, embedding_size=2, scale=64.0).scale == 64.0


@pytest.mark.parametrize("margins", MARGINS)
@pytest.mark.parametrize("angle", [2e-3, math.pi - 2e-3])
def test_gradients_are_exact_near_both_poles(margins: tuple[float, float, float], angle: float) -> None:
    """Close to the centre and opposite to it, where acos has no digits left; for large margins beyond pi."""
    head = head_of(margins, num_classes=3)
    weight = torch.eye(3, dtype=torch.float64, requires_grad=True)
    place = [math.cos(angle), 0.6 * math.sin(angle), 0.8 * math.sin(angle)]
    embeddings = torch.tensor([place], dtype=torch.float64, requires_grad=True)

    def loss(x: Tensor, w: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(head, {"weight": w}, (x, torch.tensor([0])))
        return result

    assert gradcheck(loss, (embeddings, weight))


def filtering_head(chunk: int | None, *, threshold: float | None = 0.3) -> CombinedMarginHead:
    """Return a head in float64 whose centres in 3 dimensions leave cosines on both sides of the threshold."""
    torch.manual_seed(4)
    head = CombinedMarginHead(11, embedding_size=3, m2=0.4, m3=0.1, scale=8.0, filter_threshold=threshold, chunk=chunk)
    return head.double()


def test_filtered_classes_count_as_orthogonal_and_pass_no_gradient() -> None:
    plain, filtering = filtering_head(None, threshold=None), filtering_head(None)
    torch.manual_seed(5)
    x, labels = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0, 3, 10, 3])
    before, after = plain.logits(x, labels), filtering.logits(x, labels)
    wrong = torch.ones_like(before, dtype=torch.bool).scatter(1, labels[:, None], False)
    dropped = wrong & (before > 8.0 * 0.3)
    assert dropped.any()
    assert (wrong & ~dropped).any()
    assert torch.equal(after, before.masked_fill(dropped, 0))
    torch.autograd.backward(after[dropped].sum())
    assert filtering.weight.grad is not None
    assert not filtering.weight.grad.any()


@pytest.mark.parametrize("threshold", [None, 0.3])
@pytest.mark.parametrize("chunk", [1, 4, 11, 40])
def test_chunks_do_not_show_in_loss_and_gradients(chunk: int, threshold: float | None) -> None:
    """Equal to 1e-9, in float64: only the order of sums differs."""
    results = []
    for head in (filtering_head(None, threshold=threshold), filtering_head(chunk, threshold=threshold)):
        torch.manual_seed(6)
        x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
        loss = head(x, torch.tensor([0, 10, 4, 4, 7]))
        torch.autograd.backward(loss)
        results.append((loss.detach(), x.grad, head.weight.grad))
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-9)


def test_chunks_do_not_show_in_float32_at_full_scale() -> None:
    """Equal to 1e-5 of the largest gradient, in float32 with s = 64 and 5,000 classes."""
    results = []
    for chunk in (None, 999):
        torch.manual_seed(7)
        head = CombinedMarginHead(5000, embedding_size=64, m2=0.5, scale=64.0, chunk=chunk)
        x, labels = torch.randn(16, 64, requires_grad=True), torch.randint(5000, (16,))
        loss = head(x, labels)
        torch.autograd.backward(loss)
        assert x.grad is not None
        assert head.weight.grad is not None
        results.append((loss.detach(), x.grad / x.grad.abs().max(), head.weight.grad / head.weight.grad.abs().max()))
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("threshold", [None, 0.3])
def test_gradients_of_chunks_are_exact(threshold: float | None) -> None:
    head = filtering_head(4, threshold=threshold)
    torch.manual_seed(8)
    embeddings = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    weight = head.weight.detach().clone().requires_grad_()
    labels = torch.tensor([0, 10, 2, 2])

    def loss(x: Tensor, w: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(head, {"weight": w}, (x, labels))
        return result

    assert gradcheck(loss, (embeddings, weight))


@pytest.mark.parametrize("chunk", [None, 3])
def test_loss_under_autocast_is_that_of_float32(chunk: int | None) -> None:
    head = CombinedMarginHead(10, embedding_size=8, m2=0.3, chunk=chunk)
    torch.manual_seed(9)
    x, labels = torch.randn(4, 8, dtype=torch.bfloat16, requires_grad=True), torch.tensor([0, 9, 4, 4])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = head(x, labels)
    torch.autograd.backward(loss)
    inside = head.weight.grad
    head.weight.grad = None
    whole = head(x.detach().float(), labels)
    torch.autograd.backward(whole)
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    torch.testing.assert_close(loss, whole)
    torch.testing.assert_close(inside, head.weight.grad)


def test_many_classes_are_scored_in_chunks_unless_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_whole_logits(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(CombinedMarginHead, "logits", no_whole_logits)
    torch.manual_seed(0)
    x, labels = torch.randn(2, 2), torch.tensor([0, 131_071])
    assert CombinedMarginHead(131_072, embedding_size=2)(x, labels).isfinite()
    with pytest.raises(AssertionError):
        CombinedMarginHead(131_072, embedding_size=2, chunk=131_072)(x, labels)
    with pytest.raises(AssertionError):
        CombinedMarginHead(1000, embedding_size=2)(x, labels % 1000)

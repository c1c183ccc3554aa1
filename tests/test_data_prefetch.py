"""Prefetching: the same batches in any order of steps, errors where they belong, and no thread left behind."""

import gc
import threading
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data_batches import CPU, make, numbered_faces
from torch import Tensor

from tuner.data.batches import Batches
from tuner.data.effects import Effects
from tuner.data.prefetch import Prefetcher, prefetched

PATIENCE_SECONDS = 60


def batches_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("batches")}


@given(
    steps=st.lists(st.integers(0, 20) | st.none(), min_size=1, max_size=12), seed=st.integers(0, 99)
)  # None: the step after the one before, as a run takes them
@settings(max_examples=25, deadline=None)
def test_batches_are_the_same_in_any_order_of_steps(steps: list[int | None], seed: int) -> None:
    plain, ahead = make(10, 7, seed=seed), Prefetcher(make(10, 7, seed=seed), device=CPU)
    step = 0
    for wanted in steps:
        step = step + 1 if wanted is None else wanted
        for expected, got in zip(plain(step), ahead(step), strict=True):
            assert torch.equal(expected, got)


class Watched:
    """Batches that say what is asked of them and when; those of `broken` steps fail."""

    def __init__(self, *broken: int) -> None:
        self.broken = broken
        self.began = {step: threading.Event() for step in range(20)}
        self._busy = threading.Lock()

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        assert self._busy.acquire(blocking=False), "called by two threads at once"
        try:
            self.began[step].set()
            if step in self.broken:
                raise RuntimeError(f"no batch of {step}")
            return torch.tensor(step), torch.tensor(step)
        finally:
            self._busy.release()


def test_the_next_batch_is_begun_without_being_asked_for() -> None:
    batches = Watched()
    ahead = Prefetcher(batches, device=CPU)
    ahead(0)
    assert batches.began[1].wait(PATIENCE_SECONDS)
    ahead(7)
    assert batches.began[8].wait(PATIENCE_SECONDS)
    assert not batches.began[2].is_set()


def test_an_error_is_raised_at_the_step_that_needs_the_batch_and_at_no_other() -> None:
    ahead = Prefetcher(Watched(3, 5), device=CPU)
    assert [int(ahead(step)[0]) for step in (0, 1, 2)] == [0, 1, 2]
    with pytest.raises(RuntimeError, match="no batch of 3"):
        ahead(3)
    with pytest.raises(RuntimeError, match="no batch of 3"):
        ahead(3)
    assert int(ahead(4)[0]) == 4
    assert [int(ahead(step)[0]) for step in (2, 6, 7)] == [2, 6, 7]  # past the broken ones


def test_no_thread_and_no_batches_are_left_behind() -> None:
    before = batches_threads()
    batches = make(10, 7)
    gone = weakref.ref(batches)
    ahead = Prefetcher(batches, device=CPU)
    ahead(0)
    started = batches_threads() - before
    assert len(started) == 1
    del ahead, batches
    gc.collect()
    for thread in started:
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()
    gc.collect()
    assert gone() is None


def test_a_cpu_makes_its_batches_itself() -> None:
    batches = make(10, 7)
    assert prefetched(batches, device=CPU) is batches


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("cache", ["disk", "device"])
def test_a_cuda_device_gets_the_batches_of_the_host(cache: str) -> None:
    device = torch.device("cuda")
    effects = Effects(mask=0.5, occlusion=0.5)
    arguments = {"batch_size": 64, "seed": 0, "flip": 0.5, "crop": 0.1, "effects": effects}
    plain = Batches(numbered_faces(50, size=32), device=CPU, **arguments)  # type: ignore[arg-type]
    batches = Batches(numbered_faces(50, size=32), device=device, cache=cache, **arguments)  # type: ignore[arg-type]
    ahead = prefetched(batches, device=device)
    for step in (0, 1, 2, 3, 9, 10, 1, 2):
        images, labels = ahead(step)
        torch.testing.assert_close(images.cpu(), plain(step)[0], rtol=0, atol=1.1 / 127.5)
        assert torch.equal(labels.cpu(), plain(step)[1])

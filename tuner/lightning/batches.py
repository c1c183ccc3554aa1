"""The batches of a DataLoader as functions of (seed, number), whatever was drawn before and whichever worker loads."""

import random
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from tuner.errors import UserError

_ORDER, _LOADING, _TRAINING = range(1, 4)
"""Streams of random numbers."""
BUILDING: Final = 0
"""The stream of initial weights, and of all else that is drawn before the first batch."""


def seed_all(*parts: int) -> None:
    """Seed all generators that a training may draw from: torch's on CPU and GPUs, Python's and NumPy's."""
    state = int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])
    torch.default_generator.manual_seed(state)  # torch.manual_seed takes 80 us, for a traceback that nobody asks for
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(state)
    random.seed(state)
    np.random.seed(state % 2**32)  # noqa: NPY002 - the one that foreign code uses


def numbered(loader: object) -> "DataLoader[Any]":
    """Return a train loader whose batches can be found by their numbers.

    Raises:
        UserError: it is none.
    """
    if isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset) and len(loader):
        return loader
    kind = type(loader.dataset if isinstance(loader, DataLoader) else loader).__name__
    raise UserError(
        f"the train loader must be a DataLoader of a data set with an index and at least a batch, but is of a {kind}: "
        "a batch must be found by its number; give the data set `__len__` and `__getitem__`"
    )


class Batches:
    """The batches of a loader from the one numbered `first` on, an epoch at each iteration; epochs do not end.

    Before a batch is handed out, `before` is called, and the generators are seeded for what is drawn in training on it.

    Args:
        loader: whose data set, sampler, collation and workers are taken.
        seed: that everything is drawn from.
        first: number of the first batch, from 0, through all epochs.
        before: called before each batch is loaded.
    """

    def __init__(self, loader: "DataLoader[Any]", *, seed: int, first: int, before: Callable[[], object]) -> None:
        self._seed, self._next, self._before = seed, first, before
        self._order: Any = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
        self._loader, self._length = loader, len(loader)
        whole = _Loaded(loader, seed=seed)
        self._batches: Iterator[Any] | None = iter(
            DataLoader(
                whole,
                batch_size=None,
                sampler=_Numbered(self._indices),
                collate_fn=_as_it_is,
                num_workers=loader.num_workers,
                prefetch_factor=loader.prefetch_factor,
                pin_memory=loader.pin_memory,
                timeout=loader.timeout,
                worker_init_fn=loader.worker_init_fn,
                multiprocessing_context=loader.multiprocessing_context,
            )
        )

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return self._length

    def __iter__(self) -> Iterator[Any]:
        """Yield the rest of the epoch."""
        end = (self._next // self._length + 1) * self._length
        while self._next < end and self._batches is not None:
            self._before()
            batch = next(self._batches)
            seed_all(self._seed, _TRAINING, self._next)
            self._next += 1
            yield batch

    def close(self) -> None:
        """End the workers, which wait for long where this is left to the garbage collector."""
        self._batches = None

    def _indices(self) -> Iterator[tuple[int, Any]]:
        """Yield the number of each batch with the indices of its samples, for ever."""
        number = self._next
        while True:
            epoch, start = divmod(number, self._length)
            chosen = self._chosen(epoch)
            for index in chosen[start:]:
                yield number, index
                number += 1

    def _chosen(self, epoch: int) -> list[Any]:
        seed_all(self._seed, _ORDER, epoch)
        parts: list[Any] = [self._order, getattr(self._order, "sampler", None)]
        for part in parts:
            if isinstance(generator := getattr(part, "generator", None), torch.Generator):
                generator.manual_seed(torch.initial_seed())
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)
        chosen = list(self._order)
        if len(chosen) != self._length:
            raise UserError(
                f"each epoch must have as many batches as the train loader says, {self._length}, but epoch {epoch} has "
                f"{len(chosen)}; correct the sampler's `__len__`"
            )
        return chosen


class _Numbered:
    """A sampler of what a function yields."""

    def __init__(self, numbered: Callable[[], Iterator[tuple[int, Any]]]) -> None:
        self._numbered = numbered

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        return self._numbered()


class _Loaded(Dataset[Any]):
    """Whole batches of a loader by (number, indices), loaded with generators seeded by the number."""

    def __init__(self, loader: "DataLoader[Any]", *, seed: int) -> None:
        self._dataset, self._collate, self._seed = loader.dataset, loader.collate_fn, seed
        self._in_batches = loader.batch_sampler is not None

    def __getitem__(self, numbered: tuple[int, Any]) -> Any:
        number, index = numbered
        seed_all(self._seed, _LOADING, number)
        if not self._in_batches:
            samples = self._dataset[index]
        elif (several := getattr(self._dataset, "__getitems__", None)) is not None:
            samples = several(index)
        else:
            samples = [self._dataset[each] for each in index]
        return self._collate(samples)


def _as_it_is(batch: Any) -> Any:
    return batch

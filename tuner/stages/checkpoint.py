"""Checkpoints of a workload's state: written by torch, read back as data only, never as pickled objects."""

import pickle
from typing import IO, Any, Final, cast

import torch
from torch import Tensor

from tuner.stages.files import Counted
from tuner.stages.shelf import Shelf
from tuner.stages.tree import Stage

_SCALARS: Final = (bool, int, float, str, bytes, type(None))


def save(shelf: Shelf, stage: Stage, step: int, state: dict[str, Any]) -> bool:
    """Keep a workload's state before `step` on a stage; return whether there was room for it."""
    payload = {"shelf": shelf.key, "stage": stage.id, "step": step, "state": state}

    def write(file: Counted) -> None:
        torch.save(payload, cast(IO[bytes], file))

    return shelf.add_checkpoint(stage, step, write, num_bytes=_num_bytes(state))


def load(shelf: Shelf, stage: Stage, step: int) -> dict[str, Any] | None:
    """Return the state before `step`, tensors in host memory; None, with a warning, where it cannot be used."""
    file = shelf.open_checkpoint(stage, step)
    if file is None:
        return None
    with file:
        try:
            payload = torch.load(file, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError) as error:
            shelf.drop_checkpoint(stage, step, f"{file.name} cannot be read ({type(error).__name__})")
            return None
    where = {"shelf": shelf.key, "stage": stage.id, "step": step}
    if not isinstance(payload, dict) or {name: payload.get(name) for name in where} != where:
        shelf.drop_checkpoint(stage, step, f"{file.name} holds another state")
        return None
    state: dict[str, Any] = payload["state"]
    return state


def snapshot(tree: Any, *, at: str = "state_dict()") -> Any:
    """Return a copy of a state in host memory, which training on does not change.

    Raises:
        TypeError: it holds something else than dicts, lists, tuples, tensors and scalars. That could be written, but
            not read back without running code from the file.
    """
    if isinstance(tree, Tensor):
        return tree.detach().to("cpu", copy=True)
    if isinstance(tree, dict):
        return {key: snapshot(value, at=f"{at}[{key!r}]") for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [snapshot(value, at=f"{at}[{index}]") for index, value in enumerate(tree)]
    if type(tree) in _SCALARS:  # and no kind of its own, such as NumPy's of float
        return tree
    raise TypeError(
        f"a workload's state must consist of dicts, lists, tensors and scalars, but {at} is a {type(tree).__name__}"
    )


def _num_bytes(tree: Any) -> int:
    """Return the bytes of all tensors of a state."""
    if isinstance(tree, Tensor):
        return tree.nbytes
    if isinstance(tree, dict):
        return sum(map(_num_bytes, tree.values()))
    return sum(map(_num_bytes, tree)) if isinstance(tree, list | tuple) else 0

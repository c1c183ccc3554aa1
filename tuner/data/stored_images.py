"""Images taken by number to the device: from the host's memory or disk, or from the device's memory where they fit."""

import mmap
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tuner.data.faces import ChosenImages, Images, mapped_file
from tuner.errors import UserError
from tuner.sizes import shown

Cache = Literal["auto", "disk", "device"]

DEVICE_SHARE: Final = 0.25
"""Of the free memory of a device: images that take at most so much are held there. The rest is for training."""
LARGE_MAP_BYTES: Final = 256 * 2**20
"""Of smaller memory maps all is in the host's memory after the first steps, and asking the disk ahead costs more."""
_UPLOAD_BYTES: Final = 64 * 2**20


class StoredImages:
    """N images on the host, or on the device, where `take` finds them without the host.

    Args:
        images: uint8 [N, H, W, 3]; may be a memory map, or rows chosen from one.
        cache: "disk" leaves the images where they are; "device" copies them to a CUDA device; "auto" does so where they
            take at most `DEVICE_SHARE` of its free memory. The CPU has them already: there it changes nothing.
        device: where `take` returns images.

    Raises:
        UserError: `cache` is none of the three, or is "device" and the images do not fit.
    """

    def __init__(self, images: Images | ChosenImages, *, cache: Cache, device: torch.device) -> None:
        num_bytes = int(np.prod(images.shape, dtype=np.int64))
        self._device, self._images = device, images
        self._held = _upload(images, device) if is_held(num_bytes, cache=cache, device=device) else None

    def take(self, chosen: NDArray[np.int64]) -> Tensor:
        """Return the images of these numbers, uint8 [B, H, W, 3], new, on the device."""
        if self._held is not None:
            return self._held.index_select(0, to_device(chosen, self._device))
        pinned = self._device.type == "cuda"
        return _read(self._images, chosen, pinned=pinned).to(self._device, non_blocking=pinned)


def is_held(num_bytes: int, *, cache: Cache, device: torch.device) -> bool:
    """Return whether images of so many bytes are to be held on the device; arguments and errors as `StoredImages`."""
    if cache not in ("auto", "disk", "device"):
        raise UserError(f"`cache` must be auto, disk or device, but got {cache!r}; auto is the default")
    if device.type != "cuda" or cache == "disk":
        return False
    free = torch.cuda.mem_get_info(device)[0]
    if cache == "device" and num_bytes > free:
        raise UserError(
            f"with `cache: device` the images must fit into the device's memory, but they take {shown(num_bytes)} and"
            f" {shown(free)} are free; write `cache: auto`"
        )
    return cache == "device" or num_bytes <= DEVICE_SHARE * free


def to_device(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """Return a tensor of an array, on the device; a copy to a CUDA device runs beside what the device does."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":  # from pinned memory alone is a copy asynchronous
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _upload(images: Images | ChosenImages, device: torch.device) -> Tensor:
    """Return all images on the device, copied in parts, so that the host never holds them all."""
    held = torch.empty(images.shape, dtype=torch.uint8, device=device)
    at_once = max(1, _UPLOAD_BYTES // max(1, held[:1].numel()))
    for start in range(0, len(images), at_once):
        part = np.arange(start, min(start + at_once, len(images)))
        held[start : start + at_once].copy_(_read(images, part, pinned=False))
    return held


def _read(images: Images | ChosenImages, rows: NDArray[np.int64], *, pinned: bool) -> Tensor:
    """Return rows of stored images in the host's memory, pinned for a CUDA device where asked for."""
    if isinstance(images, ChosenImages):
        return _read(images.stored, images.rows[rows], pinned=pinned)
    _ask_ahead(images, rows)
    taken = torch.empty((len(rows), *images.shape[1:]), dtype=torch.uint8, pin_memory=pinned)
    # The rows are there; the default mode, which raises where one is not, would gather to a copy first.
    np.take(images, rows, axis=0, out=taken.numpy(), mode="clip")
    return taken


def _ask_ahead(images: Images, rows: NDArray[np.int64]) -> None:
    """Ask the system for the pages of all rows of a large memory map at once.

    Taken one by one, each page that is not in memory waits for the disk, and brings in what lies behind it unasked: of
    random images that the disk alone holds, some fifty times as slow.
    """
    file = mapped_file(images)
    if file is None or images.nbytes < LARGE_MAP_BYTES or not hasattr(mmap, "MADV_WILLNEED"):
        return
    before, size = file.offset % mmap.ALLOCATIONGRANULARITY, images.nbytes // len(images)
    for row in rows.tolist():
        start = before + row * size
        page = start // mmap.PAGESIZE * mmap.PAGESIZE
        file.memory.madvise(mmap.MADV_WILLNEED, page, start + size - page)

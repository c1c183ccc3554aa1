"""Training batches as a function of (seed, step): shuffled, augmented, normalised, on the device."""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tuner.data.effects import NO_EFFECTS, Effects
from tuner.data.faces import FaceSet, Images
from tuner.data.stored_images import Cache, StoredImages, to_device
from tuner.errors import UserError

# Streams of random numbers that must not meet.
_SHUFFLE: Final = 1
_AUGMENT: Final = 2


def to_tensor(images: Images | Tensor) -> Tensor:
    """Return images uint8 [B, H, W, 3] as float32 [B, 3, H, W], (x / 255 - 0.5) / 0.5, in [-1, 1].

    A tensor stays on its device; an array becomes a tensor of the host. The memory format is channels-last, as the
    images are stored and as convolutions are fastest.
    """
    pixels = images if isinstance(images, Tensor) else torch.from_numpy(np.array(images))
    return pixels.to(torch.float32).div_(127.5).sub_(1).permute(0, 3, 1, 2)


class Batches:
    """Batches of faces: `batches(step)` returns images float32 [B, 3, H, W] in [-1, 1] and labels int64 [B].

    The batch of step t holds positions t * B to (t + 1) * B - 1 of the sequence of all epochs, where epoch e is a
    permutation of the N images drawn by (seed, e); a batch may span epochs, and B may be larger than N. An image is
    flipped with probability `flip`, and moved by up to round(crop * H) pixels down and across, its border pixels
    repeated: a random crop after padding; then come the `effects`. Order and augmentation are drawn on the host
    by (seed, step), so that a batch is the same on every device, in every process and after any other.

    Args:
        faces: N images.
        batch_size: B, at least 1.
        seed: of order and augmentation.
        flip: probability of a horizontal flip.
        crop: largest shift as a share of the image size, 0 to 0.25.
        device: where images and labels are returned.
        effects: further augmentation; by default none.
        cache: where the images wait, see `StoredImages`; changes no batch.

    Raises:
        UserError: a setting is out of its range, there are no images, or `cache` is "device" and they do not fit.
    """

    def __init__(
        self,
        faces: FaceSet,
        *,
        batch_size: int,
        seed: int,
        flip: float,
        crop: float,
        device: torch.device,
        effects: Effects = NO_EFFECTS,
        cache: Cache = "auto",
    ) -> None:
        if batch_size < 1:
            raise UserError(f"`batch_size >= 1` must hold, but got {batch_size}; 32 is the default")
        if not 0 <= flip <= 1:
            raise UserError(f"`0 <= flip <= 1` must hold, but got {flip}; 0.5 is the default")
        if not 0 <= crop <= 0.25:
            raise UserError(f"`0 <= crop <= 0.25` must hold, but got {crop}; 0.08 is the default")
        if len(faces.labels) == 0:
            raise UserError(f"training needs images, but `{faces.source}` has none; add images")
        self._faces, self._batch_size, self._seed = faces, batch_size, seed
        self._flip, self._effects, self._device = flip, effects, device
        self._images = StoredImages(faces.images, cache=cache, device=device)
        self._reach = round(crop * faces.images.shape[1])
        self._permutations: dict[int, NDArray[np.int64]] = {}

    def indices(self, step: int) -> NDArray[np.int64]:
        """Return which images the batch of `step` (from 0) holds, [B]."""
        num_images = len(self._faces.labels)
        positions = np.arange(step * self._batch_size, (step + 1) * self._batch_size)
        epochs, places = np.divmod(positions, num_images)
        chosen = np.empty(self._batch_size, dtype=np.int64)
        for epoch in np.unique(epochs).tolist():
            chosen[epochs == epoch] = self._permutation(epoch)[places[epochs == epoch]]
        return chosen

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Return images and labels of `step` (from 0), on the device."""
        chosen = self.indices(step)
        rng = np.random.default_rng([self._seed, _AUGMENT, step])
        flipped = rng.random(self._batch_size) < self._flip
        shifts = rng.integers(-self._reach, self._reach, size=(2, self._batch_size), endpoint=True)
        rows, columns = self._pixel_indices(flipped, shifts)
        images = _gather(self._images.take(chosen), to_device(rows, self._device), to_device(columns, self._device))
        images = self._effects.apply(images, moves=self._moves(flipped, shifts), seed=self._seed, step=step)
        return to_tensor(images), to_device(self._faces.labels[chosen], self._device)

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        """Return the order of an epoch; the newest two are kept, since one batch may need both."""
        if epoch not in self._permutations:
            rng = np.random.default_rng([self._seed, _SHUFFLE, epoch])
            while len(self._permutations) > 1:
                self._permutations.pop(next(iter(self._permutations)))
            self._permutations[epoch] = rng.permutation(len(self._faces.labels))
        return self._permutations[epoch]

    def _pixel_indices(
        self, flipped: NDArray[np.bool_], shifts: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return from which row and column of the stored image each row [B, H] and column [B, W] comes."""
        height, width = self._faces.images.shape[1:3]
        across = np.arange(width)
        columns = np.where(flipped[:, None], width - 1 - across, across) + shifts[1][:, None]
        rows = np.arange(height) + shifts[0][:, None]
        return rows.clip(0, height - 1).astype(np.int32), columns.clip(0, width - 1).astype(np.int32)

    def _moves(self, flipped: NDArray[np.bool_], shifts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return how far each face is moved to the right and down, as shares of width and height, [B, 2]."""
        height, width = self._faces.images.shape[1:3]
        return np.stack([np.where(flipped, shifts[1], -shifts[1]) / width, -shifts[0] / height], axis=1)


def _gather(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return images [B, H, W, 3] with pixel (i, j) taken from (rows[b, i], columns[b, j])."""
    num_images, height, width, channels = images.shape
    # Narrow numbers, of which there is one a pixel: a fifth less time on the CPU.
    dtype = torch.int32 if images.numel() < 2**31 else torch.int64
    image = torch.arange(num_images, dtype=dtype, device=images.device)[:, None]
    places = ((image * height + rows) * width)[:, :, None] + columns[:, None, :]
    # One flat index: three times as fast on the CPU as indexing the three axes.
    return images.reshape(-1, channels).index_select(0, places.reshape(-1)).reshape(images.shape)

"""Pictures of classes, to train and validate on: embedded digits, torchvision's sets where they are, or a folder."""

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tuner.data.cache import cached, default_cache
from tuner.data.faces import ChosenImages, FaceSet, Images, Labels
from tuner.data.folder import folder_recipe
from tuner.errors import UserError

DIGITS: Final = "digits"
"""The name of the embedded pictures: 1797 handwritten digits, which come with scikit-learn."""
_TORCHVISION: Final = {
    "cifar-10-batches-py": "CIFAR10",
    "cifar-100-python": "CIFAR100",
    "MNIST/raw": "MNIST",
    "FashionMNIST/raw": "FashionMNIST",
}
"""The folder that torchvision keeps a set in, and its name there; nothing is downloaded."""


@lru_cache(maxsize=1)  # the trials of a process share them
def load_pictures(data: str, *, image_size: int) -> FaceSet:
    """Return square pictures with their classes as identities.

    Args:
        data: "digits"; the folder in which torchvision keeps the training part of CIFAR10, CIFAR100, MNIST or
            FashionMNIST; or a folder `root/class/image.*`, decoded once and then memory-mapped from the cache.
        image_size: side in pixels; pictures of another size are resized.

    Raises:
        UserError: there are no such pictures, or fewer than two classes.
    """
    if data == DIGITS:
        return _digits(image_size)
    root = Path(data).expanduser()
    if not root.is_dir():
        raise UserError(
            f"pictures must be `{DIGITS}` or in a folder `root/class/image.*`, but `{root}` is no folder; give one "
            "that holds one folder for each class"
        )
    found = next((name for place, name in _TORCHVISION.items() if (root / place).is_dir()), None)
    if found is not None:
        return _of_torchvision(found, root, image_size)
    return cached(folder_recipe(root, image_size=image_size, least=2), cache=default_cache())


def split_pictures(pictures: FaceSet, *, held_out: float, seed: int) -> tuple[FaceSet, FaceSet]:
    """Return pictures to train on and pictures to validate on: of each class its share, drawn by `seed`.

    Args:
        pictures: of at least two classes.
        held_out: share to validate on, between 0 and 1; of each class at least one picture is, and one is left.
        seed: of the draw.

    Raises:
        UserError: a class has a single picture.
    """
    rng, train, validation = np.random.default_rng(seed), list[NDArray[np.int64]](), list[NDArray[np.int64]]()
    for label, name in enumerate(pictures.names):
        rows = rng.permutation(np.flatnonzero(pictures.labels == label))
        if len(rows) < 2:
            raise UserError(f"a class must have 2 pictures or more, but {name!r} in {pictures.source} has {len(rows)}")
        count = min(max(round(held_out * len(rows)), 1), len(rows) - 1)
        validation.append(rows[:count])
        train.append(rows[count:])
    return _rows(pictures, np.concatenate(train)), _rows(pictures, np.concatenate(validation))


def _rows(pictures: FaceSet, rows: NDArray[np.int64]) -> FaceSet:
    rows = np.sort(rows)
    images = pictures.images
    mapped = isinstance(images, np.memmap)
    return FaceSet(
        images=ChosenImages(images, rows) if mapped else images[rows],  # type: ignore[arg-type]
        labels=pictures.labels[rows],
        names=pictures.names,
        digest=hashlib.sha256(pictures.digest.encode() + rows.tobytes()).hexdigest(),
        source=pictures.source,
    )


def _digits(image_size: int) -> FaceSet:
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    pictures = np.repeat((found.images * (255 / 16)).round().astype(np.uint8)[..., None], 3, axis=3)
    return _made(pictures, found.target.astype(np.int64), tuple("0123456789"), DIGITS, image_size)


def _of_torchvision(name: str, root: Path, image_size: int) -> FaceSet:
    from torchvision import datasets

    make: Callable[..., Any] = getattr(datasets, name)
    try:
        found = make(root, train=True, download=False)
    except (RuntimeError, OSError, ValueError, EOFError) as error:
        raise UserError(f"{root} must hold {name} as torchvision keeps it, but it is damaged ({error})") from None
    pictures = np.asarray(found.data)
    if pictures.ndim == 3:
        pictures = np.repeat(pictures[..., None], 3, axis=3)
    return _made(pictures, np.asarray(found.targets, dtype=np.int64), tuple(found.classes), str(root), image_size)


def _made(pictures: Images, labels: Labels, names: tuple[str, ...], source: str, image_size: int) -> FaceSet:
    """Return pictures at a size; the digest is of their content at that size."""
    if pictures.shape[1:3] != (image_size, image_size):
        pictures = _resized(pictures, image_size)
    content = hashlib.sha256(np.ascontiguousarray(pictures).data)
    content.update(labels.tobytes())
    return FaceSet(images=pictures, labels=labels, names=names, digest=content.hexdigest(), source=source)


def _resized(pictures: Images, image_size: int) -> Images:
    import torch
    from torchvision.transforms.v2.functional import resize

    tensor = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    blocks = [resize(block, [image_size, image_size], antialias=True) for block in torch.split(tensor, 1024)]
    return torch.cat(blocks).permute(0, 2, 3, 1).contiguous().numpy()

"""A verification set of masked against bare faces, made from any other."""

from typing import Final

import numpy as np
import torch

from tuner.data.masks import draw_masks, wear_masks
from tuner.data.split import Pairs
from tuner.data.verification_sets import VerificationSet
from tuner.names import MASKED

_MASKS: Final = 5
"""Stream of random numbers, beside those of batches and dropout."""
_BLOCK: Final = 256


def masked_set(faces: VerificationSet, *, seed: int) -> VerificationSet:
    """Return the same pairs in the same order, with a synthetic mask on the first face of each.

    A face that stands first in several pairs wears the same mask in all. The images are copied, those that are
    compared.

    Args:
        faces: any set; masks fit faces aligned as for training, see `tuner.data.masks`.
        seed: of the masks.
    """
    bare, right = np.unique(faces.pairs.right, return_inverse=True)
    masked, left = np.unique(faces.pairs.left, return_inverse=True)
    masks = torch.from_numpy(draw_masks(np.random.default_rng([seed, _MASKS]), len(masked)))
    images = [np.asarray(faces.images[bare])]
    for start in range(0, len(masked), _BLOCK):
        some = slice(start, start + _BLOCK)
        images.append(wear_masks(torch.from_numpy(np.array(faces.images[masked[some]])), masks[some]).numpy())
    pairs = Pairs(left + len(bare), right, faces.pairs.same)
    digest = f"{faces.digest} masked by {seed}"
    return VerificationSet(name=MASKED, images=np.concatenate(images), pairs=pairs, digest=digest)

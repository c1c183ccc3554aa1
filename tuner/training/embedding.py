"""A network as the function that verification asks for: from images to embeddings, some at a time."""

from typing import Final

import numpy as np
import torch
from torch import nn

from tuner.data.batches import to_tensor
from tuner.data.faces import Images
from tuner.training.verification import Floats
from tuner.training.verify import Embed

_CPU_PIXELS: Final = 32 * 48**2


def evaluation_batch(device: torch.device, *, image_size: int) -> int:
    """Return how many images of this side, in pixels, a network is best given at once while it is evaluated.

    A GPU wants many. On the CPU the layers' outputs then no longer fit its cache, and the allocator hands their memory
    back to the system after each: 128 images at once take 1.7 (48 pixels) to 2.5 times (112) the time of these.
    """
    return 128 if device.type == "cuda" else max(16, _CPU_PIXELS // image_size**2)


def embedder(backbone: nn.Module, device: torch.device) -> Embed:
    """Return f(images): uint8 RGB [n, H, W, 3] to float32 embeddings [n, D] on the host, as `backbone` gives them.

    The network computes in float32 and by the statistics of its training; it is left as it was, parameters, BN
    statistics and mode, and nothing is recorded for gradients.

    Args:
        backbone: on `device`.
        device: where it computes.
    """

    @torch.inference_mode()
    def embed(images: Images) -> Floats:
        training = backbone.training
        backbone.eval()
        try:
            # Copied, since a memory map is read-only; a quarter of the bytes travels if they become floats over there.
            pixels = to_tensor(torch.from_numpy(np.array(images)).to(device))
            with torch.autocast(device.type, enabled=False):
                embeddings: Floats = backbone(pixels).float().cpu().numpy()
        finally:
            backbone.train(training)
        return embeddings

    return embed

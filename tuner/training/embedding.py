"""A network as the function that verification asks for: from images to embeddings, some at a time."""

import numpy as np
import torch
from torch import nn

from tuner.data.batches import to_tensor
from tuner.data.faces import Images
from tuner.training.verification import Floats
from tuner.training.verify import Embed


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

"""torchvision's classifiers as backbones: the last layer gives the embedding, and BN follows it."""

from typing import Any

import torch
from torch import Tensor, nn

from tuner.errors import UserError
from tuner.models.precision import whole_precision


class TorchvisionBackbone(nn.Module):
    """A classifier with fresh weights whose last layer has `embedding_size` outputs, and BN on them.

    Shapes: images [B, 3, S, S] -> embeddings [B, embedding_size], not normalised. Classifiers that draw random numbers
    while training (dropout, stochastic depth) draw them from torch's global generators. Names of the state: `body.` in
    front of torchvision's own, and `features` for the BN, whose weight is fixed at 1.

    Args:
        classifier: torchvision's name, as in `torchvision.models.list_models()`.
        image_size: S in pixels.
        embedding_size: length of the embedding.

    Raises:
        UserError: the classifier does not take images of this size.
    """

    def __init__(self, classifier: str, *, image_size: int, embedding_size: int) -> None:
        super().__init__()
        try:
            self.body = _build(classifier, image_size=image_size, outputs=embedding_size)
            _check_size(self.body, image_size=image_size)
        except (RuntimeError, ValueError, AssertionError) as error:
            raise UserError(
                f"torchvision/{classifier} does not take images of {image_size} x {image_size} pixels; "
                "224 suits every torchvision classifier, 112 most of them"
            ) from error
        self.features = nn.BatchNorm1d(embedding_size)
        self.features.weight.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the embeddings of `images`."""
        with whole_precision(self.body(images)) as x:
            embeddings: Tensor = self.features(x)
        return embeddings


def _build(classifier: str, *, image_size: int, outputs: int) -> nn.Module:
    from torchvision import models

    options: dict[str, Any] = {"weights": None, "num_classes": outputs}
    if classifier.startswith("vit_"):
        options["image_size"] = image_size
    elif classifier.startswith("maxvit"):
        options["input_size"] = (image_size, image_size)
    elif classifier in ("googlenet", "inception_v3"):  # auxiliary classifiers would return more than one output
        options |= {"aux_logits": False, "init_weights": True}
    model: nn.Module = models.get_model(classifier, **options)
    return model


def _check_size(body: nn.Module, *, image_size: int) -> None:
    """Run the network once on shapes alone, which costs neither memory nor arithmetic."""
    shapes = {name: value.to("meta") for name, value in (*body.named_parameters(), *body.named_buffers())}
    with torch.no_grad():
        torch.func.functional_call(body, shapes, torch.empty(2, 3, image_size, image_size, device="meta"))

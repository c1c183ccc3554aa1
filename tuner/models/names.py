"""Which backbones there are, by name; importable without torch."""

import difflib
from typing import Final

from tuner.errors import UserError

TORCHVISION: Final = "torchvision/"
"""What the name of a torchvision classifier begins with: `torchvision/resnet18`."""

OWN: Final[tuple[str, ...]] = (
    "iresnet_small",
    "iresnet18",
    "iresnet34",
    "iresnet50",
    "iresnet100",
    "iresnet200",
    "mobilefacenet",
    "mbf",
)
"""The backbones of this project, see `iresnet` and `mobilefacenet`."""


def check_backbone(name: str) -> str:
    """Return `name` where a backbone has it; torchvision is imported only for a name of its own.

    Raises:
        UserError: there is no such backbone.
    """
    known, rule = OWN, f"one of {', '.join(OWN)}, or {TORCHVISION} and the name of a torchvision classifier"
    if name.startswith(TORCHVISION):
        known = tuple(f"{TORCHVISION}{classifier}" for classifier in _torchvision_classifiers())
        rule = "a torchvision classifier, such as torchvision/resnet18"
    if name not in known:
        near = difflib.get_close_matches(name, (*known, f"{TORCHVISION}resnet18"), n=1)
        hint = f"; did you mean `{near[0]}`?" if near else ""
        raise UserError(f"the backbone must be {rule}, but got `{name}`{hint}")
    return name


def _torchvision_classifiers() -> list[str]:
    from torchvision import models

    return list(models.list_models(module=models))

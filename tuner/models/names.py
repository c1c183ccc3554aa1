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
    """Return `name` where a backbone has it.

    Raises:
        UserError: there is no such backbone.
    """
    if fault := backbone_fault(name):
        raise UserError(f"the backbone {fault}, but got `{name}`")
    return name


def backbone_fault(name: str) -> str | None:
    """Return what must hold of a backbone's name and does not; torchvision is imported only for a name of its own."""
    known, rule = OWN, f"must be one of {', '.join(OWN)}, or a torchvision classifier such as {TORCHVISION}resnet18"
    if name.startswith(TORCHVISION):
        known = tuple(f"{TORCHVISION}{classifier}" for classifier in _torchvision_classifiers())
        rule = f"must be a classifier of torchvision, such as {TORCHVISION}resnet18"
    if name in known:
        return None
    near = difflib.get_close_matches(name, (*known, f"{TORCHVISION}resnet18"), n=1)
    return f"{rule} (did you mean `{near[0]}`?)" if near else rule


def _torchvision_classifiers() -> list[str]:
    from torchvision import models

    return list(models.list_models(module=models))

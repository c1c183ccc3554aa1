"""Image classification as a workload that comes with the tool: what can be set, and what it reads; free of torch."""

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

from pydantic import AfterValidator, Field

from tuner.config.strict import PositiveInt, Strict
from tuner.data.pictures import DIGITS, load_pictures, split_pictures
from tuner.models.names import TORCHVISION, backbone_fault
from tuner.workload import Data, Direction

if TYPE_CHECKING:
    import torch

    from tuner.training.classifier import Classifier

_WITH_SIDE_OUTPUTS: Final = ("googlenet", "inception_v3")


def _model(name: str) -> str:
    if name in _WITH_SIDE_OUTPUTS:
        raise ValueError(f"`{name}` has a second output, which is not trained here; take another, such as resnet18")
    if fault := backbone_fault(f"{TORCHVISION}{name}"):
        raise ValueError(fault.replace(TORCHVISION, ""))
    return name


class PictureSettings(Strict):
    """Pictures, model, augmentation and SGD.

    `data` is "digits", which come with the tool, or a folder, see `tuner.data.pictures`; of each class the share
    `held_out` is drawn by `split_seed` to validate on. `model` is a classifier of torchvision, trained from the start.

    Pictures are flipped with probability `flip`, moved by up to `crop` of their size, and changed by `policy`, one of
    torchvision's transforms v2: TrivialAugmentWide or RandAugment. All of it is drawn by (seed, step).
    """

    data: str = DIGITS
    image_size: Annotated[int, Field(ge=16, le=512)] = 32
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.25
    split_seed: Annotated[int, Field(ge=0)] = 0
    model: Annotated[str, AfterValidator(_model)] = "resnet18"
    flip: Annotated[float, Field(ge=0, le=1)] = 0.0
    crop: Annotated[float, Field(ge=0, le=0.25)] = 0.1
    policy: Literal["none", "trivial", "rand"] = "none"
    batch_size: Annotated[int, Field(ge=2)] = 32
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Literal["float32", "bf16"] = "float32"
    evaluation_batch: PositiveInt = 256


class ImageClassification:
    """Cross-entropy on pictures, judged by top-1 and top-5 accuracy on those held out; a `WorkloadClass`."""

    metrics: ClassVar[dict[str, Direction]] = {"accuracy": "maximize", "top5": "maximize"}
    base_lr = 0.02
    Settings = PictureSettings
    CODE = f"1 of torchvision {version('torchvision')}"
    """To be raised when a change of the code changes losses or metrics for the same settings."""

    @staticmethod
    def data(settings: PictureSettings) -> Data:
        """Return what is read, and how much there is."""
        pictures = load_pictures(settings.data, image_size=settings.image_size)
        train, validation = split_pictures(pictures, held_out=settings.held_out, seed=settings.split_seed)
        return Data(
            name=DIGITS if settings.data == DIGITS else Path(settings.data).name,
            digest=train.digest + validation.digest,
            source=settings.data,
            counts={
                "classes": len(pictures.names),
                "training_images": len(train.labels),
                "validation_images": len(validation.labels),
            },
        )

    @staticmethod
    def weights(state: dict[str, Any]) -> dict[str, Any]:
        """Return the model's state dict, which torchvision's own model takes."""
        model: dict[str, Any] = state["model"]
        return model

    def __new__(cls, settings: PictureSettings, *, seed: int, device: "torch.device") -> "Classifier":  # type: ignore[misc]
        """Build the workload itself, which takes torch."""
        from tuner.training.classifier import Classifier

        return Classifier(settings, seed=seed, device=device)

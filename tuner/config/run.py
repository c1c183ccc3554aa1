"""What one training run is made of: every setting that can change its result, validated, with its defaults.

A `RunConfig` is plain data: it travels to the trial's process as a dict, is stored beside the trial's results, and its
parts outside `scheduler` are what trials of one sweep have in common.
"""

import re
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from tuner.config.own import OwnConfig
from tuner.config.strict import PositiveFloat, PositiveInt, Strict
from tuner.models.names import backbone_fault
from tuner.names import (
    MASKED,
    METRIC_ACCURACY,
    METRIC_ACCURACY_STD,
    METRIC_FINAL_LOSS,
    METRIC_TAR,
    SYNTHETIC,
    set_metrics,
)
from tuner.schedulers.registry import Schedule, Setting, resolve
from tuner.workload import Direction

Probability = Annotated[float, Field(ge=0, le=1)]


class DataConfig(Strict):
    """Which faces to train and verify on.

    `source` is a folder `root/identity/image.*`, an InsightFace set (the folder of `train.rec` and `train.idx`, or the
    path of a `.rec` file), or "synthetic"; `identities` and `images_per_identity` shape the synthetic set only.
    `max_identities` and `max_images` (of all identities together) take a part of a large set: whole identities, drawn
    by `split_seed`, in the order drawn, as long as both limits hold; only they are decoded. `held_out` is the share of
    identities that training never sees and verification uses; `split_seed` draws them too. 0 trains on all, and is for
    runs that are judged by `evaluation.sets`.

    `cache` says where decoded images wait for their step and changes no result: "disk" leaves them in the memory-mapped
    file, "device" copies them to the GPU's memory, and "auto" does that where they take at most a quarter of what is
    free there. Without a GPU it does nothing.
    """

    source: str = SYNTHETIC
    image_size: Annotated[int, Field(ge=32, le=224, multiple_of=16)] = 48
    identities: Annotated[int, Field(ge=4)] = 240
    images_per_identity: Annotated[int, Field(ge=2)] = 20
    max_identities: Annotated[int, Field(ge=4)] | None = None
    max_images: Annotated[int, Field(ge=20)] | None = None
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.4
    split_seed: Annotated[int, Field(ge=0)] = 0
    cache: Literal["auto", "disk", "device"] = "auto"


def _sets(paths: tuple[str, ...]) -> tuple[str, ...]:
    """Check that the metrics of all sets can be told apart, and written to any tracking store."""
    seen = {METRIC_ACCURACY, METRIC_ACCURACY_STD, METRIC_TAR}
    for path in paths:
        name = PurePath(path).stem
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.\- ]*", name):
            raise ValueError(
                f"a set's file must be named with letters, digits, spaces, '.', '-' and '_', but `{path}` is not;"
                " rename it"
            )
        if seen & {*set_metrics(name)}:
            raise ValueError(
                f"each set's metrics must have names of their own, but those of `{path}` are taken; rename the file"
            )
        seen |= {*set_metrics(name)}
    return paths


def _backbone(name: str) -> str:
    if fault := backbone_fault(name):
        raise ValueError(fault)
    return name


class ModelConfig(Strict):
    """The backbone, by name (`tuner.models.names`), the length of its embedding, and where its weights come from.

    `weights` is the path of a state dict to start from, such as arcface_torch's `backbone.pth`; None starts afresh.
    """

    backbone: Annotated[str, AfterValidator(_backbone)] = "iresnet_small"
    embedding_size: PositiveInt = 128
    weights: str | None = None


class HeadConfig(Strict):
    """Combined-margin head: logit of the true class `scale * (cos(m1 * theta + m2) - m3)`, `scale * cos` elsewhere.

    ArcFace is m1 = 1, m3 = 0; CosFace is m1 = 1, m2 = 0. `scale` None takes it from the number of classes.
    `filter_threshold` leaves out other classes with a cosine above it (inter-class filtering, against one person under
    two labels); None leaves out none. `sample_rate` below 1 scores that share of the classes in a step (Partial FC).
    `chunk` classes are scored at a time, to bound memory; None chooses, and scores few classes at once.
    """

    m1: Annotated[float, Field(ge=1, le=4)] = 1.0
    m2: Annotated[float, Field(ge=0, lt=1.6)] = 0.2
    m3: Annotated[float, Field(ge=0, lt=1)] = 0.0
    scale: PositiveFloat | None = None
    filter_threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    sample_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    chunk: PositiveInt | None = None


class AugmentationConfig(Strict):
    """What is done to an image, drawn afresh for each; `tuner.data.effects` gives the formulas.

    In this order: a horizontal flip with probability `flip`; a crop after padding by `crop` of the image size; a
    synthetic mask over the lower face with probability `mask`; contrast, then brightness, times 1 -+ `contrast_change`
    and 1 -+ `brightness_change` at most, with probabilities `contrast` and `brightness`; a rectangle of one colour, of
    0.1 to 1 times `occlusion_area` of the image, with probability `occlusion`.
    """

    flip: Probability = 0.5
    crop: Annotated[float, Field(ge=0, le=0.25)] = 0.08
    mask: Probability = 0.0
    contrast: Probability = 0.0
    contrast_change: Annotated[float, Field(gt=0, lt=1)] = 0.4
    brightness: Probability = 0.0
    brightness_change: Annotated[float, Field(gt=0, lt=1)] = 0.4
    occlusion: Probability = 0.0
    occlusion_area: Annotated[float, Field(gt=0, le=0.5)] = 0.2


class OptimizerConfig(Strict):
    """SGD with momentum; `base_lr` is the LR that the scheduler's factor multiplies.

    Weights that a normalisation follows forget their norm within (1 - momentum) / (base_lr * weight_decay) steps; only
    over longer spans does the LR itself, and not a growing norm, set the pace. A published run lasts 16 such spans
    (LR 0.02, weight decay 5e-4, 165 435 steps); the defaults make the short run last 6.
    """

    base_lr: PositiveFloat = 0.2
    batch_size: Annotated[int, Field(ge=2)] = 32
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-3
    clip_norm: PositiveFloat | None = 5.0


class ComputeConfig(Strict):
    """How a training step is computed; evaluations are in float32 whatever is said here.

    `precision` is that of the backbone; embeddings, head, weights and their update stay in float32. fp16 comes with a
    scaler of gradients, which leaves out a step whose gradients overflow and goes on with a smaller scale; a CPU has it
    too, but slowly. `tf32` lets float32 convolutions on a GPU round what they multiply to 10 bits of mantissa.
    `accumulate` parts of a batch go through the network one after another, to save memory; each has its own BN
    statistics. `compile` hands the backbone to torch.compile, which takes a C++ compiler and, once for all trials of a
    sweep, half a minute or more. `deterministic` off lets a GPU take faster kernels that give other last bits each
    time: steps that trials share are then common random numbers, and not bit for bit what each would give alone. A CPU
    is deterministic either way.
    """

    precision: Literal["float32", "bf16", "fp16"] = "float32"
    tf32: bool = True
    accumulate: PositiveInt = 1
    compile: bool = False
    # Left out of records where it is on, as in those that were made before there was a choice.
    deterministic: Annotated[bool, Field(exclude_if=bool)] = True


class EvaluationConfig(Strict):
    """Open-set verification on the held-out identities, and on sets that others made.

    `pairs` genuine and impostor pairs of the held-out identities in equal number, in ten folds; `far` is the
    false-accept rate at which the true-accept rate is reported; `times` evaluations spread evenly over the run, the
    last at its end.

    `sets` are paths of `.bin` sets (lfw, cfp_fp, ...) or of lists of pairs, see `tuner.data.verification_sets`; each
    gives metrics under its file's name, `tuner.names.set_metrics`. `accuracy` and `tar_at_far` are those of the
    held-out identities; where `data.held_out` is 0, the means over the sets.

    `masked` verifies the same pairs of held-out identities once more, the first face of each with a synthetic mask:
    `accuracy_masked`, `accuracy_std_masked` and `tar_masked`.
    """

    pairs: Annotated[int, Field(ge=20, multiple_of=20)] = 6000
    far: Annotated[float, Field(gt=0, lt=1)] = 1e-2
    times: PositiveInt = 4
    sets: Annotated[tuple[str, ...], AfterValidator(_sets)] = ()
    # Left out of records where it is off, as in those that were made before there was such a thing.
    masked: Annotated[bool, Field(exclude_if=lambda masked: not masked)] = False

    @model_validator(mode="after")
    def _masked_is_no_set(self) -> "EvaluationConfig":
        if self.masked and MASKED in self.set_names:
            raise ValueError(f"with `masked` no set may be called {MASKED}, but one is; rename its file")
        return self

    @property
    def set_names(self) -> tuple[str, ...]:
        """The names of the sets, in their order: those of the files, without folder and ending."""
        return tuple(PurePath(path).stem for path in self.sets)


class FaceConfig(Strict):
    """The face-recognition workload."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    head: HeadConfig = HeadConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    compute: ComputeConfig = ComputeConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _somebody_is_verified(self) -> "FaceConfig":
        if self.data.held_out == 0 and not self.evaluation.sets:
            raise ValueError(
                "`data.held_out > 0` must hold without `evaluation.sets`, but got 0; name sets to verify on, or"
                " hold out identities (0.4 is the default)"
            )
        if self.data.held_out == 0 and self.evaluation.masked:
            raise ValueError(
                "`data.held_out > 0` must hold with `evaluation.masked`, but got 0; hold out some, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _batch_has_equal_parts(self) -> "FaceConfig":
        batch_size, parts = self.optimizer.batch_size, self.compute.accumulate
        if batch_size % parts or batch_size < 2 * parts:
            raise ValueError(
                f"`compute.accumulate` must divide `optimizer.batch_size` into equal parts of 2 faces or more, but got"
                f" {parts} and {batch_size}"
            )
        return self

    @property
    def reference_lr(self) -> float:
        """The base LR where no scheduler space searches it."""
        return self.optimizer.base_lr

    @property
    def given_lr(self) -> float | None:
        """The base LR, where it was written out."""
        return self.optimizer.base_lr if "base_lr" in self.optimizer.model_fields_set else None

    @property
    def metrics(self) -> dict[str, Direction]:
        """What a trial can be judged by, the usual one first, with the better direction."""
        sets = [*self.evaluation.set_names, *([MASKED] if self.evaluation.masked else [])]
        of_sets = [name for each in sets for name in set_metrics(each)[::2]]
        return {
            METRIC_ACCURACY: "maximize",
            METRIC_TAR: "maximize",
            METRIC_FINAL_LOSS: "minimize",
            **dict.fromkeys(of_sets, "maximize"),
        }

    @property
    def evaluations(self) -> int:
        """How many times a run is evaluated."""
        return self.evaluation.times

    @property
    def batch_size(self) -> int:
        """How many faces a step takes."""
        return self.optimizer.batch_size

    @property
    def deterministic(self) -> bool:
        """Whether equal runs are to give equal bits, also on a GPU."""
        return self.compute.deterministic

    @property
    def source(self) -> str:
        """Where the faces are."""
        return self.data.source

    @property
    def inputs(self) -> str:
        """What decides the losses besides the settings, in words."""
        return f"the faces in {self.source}, the verification sets or the weights to start from"

    def at_lr(self, base_lr: float) -> "FaceConfig":
        """Return the same at another base LR."""
        return self.model_copy(update={"optimizer": self.optimizer.model_copy(update={"base_lr": base_lr})})

    def from_source(self, source: str) -> "FaceConfig":
        """Return the same on other faces."""
        return self.model_copy(update={"data": self.data.model_copy(update={"source": source})})


def _kind(value: object) -> str:
    named = "name" in value if isinstance(value, dict) else isinstance(value, OwnConfig)
    return "<own>" if named else "<faces>"


WorkloadConfig = Annotated[
    Annotated[FaceConfig, Tag("<faces>")] | Annotated[OwnConfig, Tag("<own>")], Discriminator(_kind)
]
"""The built-in faces, or with a `name`, a workload of one's own."""


class SchedulerConfig(Strict):
    """A scheduler by name, and its settings in steps or as fractions of the run (see `tuner.schedulers`)."""

    name: str = "fastface"
    settings: dict[str, Setting] = Field(default_factory=dict)


class RunConfig(Strict):
    """One training run from its first step to its last.

    `loss_delay` 1 reads the loss of a step while the next one runs, so that the device never waits for the host: the
    loss of step t then decides the LR of step t + 2, as in the published runs; 0 reads it at once, for step t + 1.
    Schedulers that do not read the loss are exact either way.
    """

    workload: WorkloadConfig = FaceConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    total_steps: PositiveInt = 600
    seed: Annotated[int, Field(ge=0)] = 0
    loss_delay: Literal[0, 1] = 1

    def schedule(self) -> Schedule:
        """Return the scheduler with its settings resolved for this run's length."""
        return resolve(self.scheduler.name, self.scheduler.settings, total_steps=self.total_steps)

    def evaluation_steps(self) -> list[int]:
        """Return after how many steps to evaluate: evenly spread, the last at the end of the run."""
        times = min(self.workload.evaluations, self.total_steps)
        return [round(self.total_steps * (index + 1) / times) for index in range(times)]

    @model_validator(mode="after")
    def _scheduler_can_be_resolved(self) -> "RunConfig":
        self.schedule()
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the run as JSON-like data, defaults included; `RunConfig.model_validate` reads it back."""
        return self.model_dump(mode="json")

"""The face-recognition workload: backbone, margin head and SGD; judged by verification of people it never saw."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from statistics import fmean
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from tuner.config.run import FaceConfig
from tuner.data.batches import Batches
from tuner.data.effects import Effects
from tuner.data.faces import FaceSet
from tuner.data.masked_set import masked_set
from tuner.data.prefetch import prefetched
from tuner.data.verification_sets import VerificationSet, drawn_set
from tuner.models.backbones import build_backbone
from tuner.models.heads import CombinedMarginHead
from tuner.models.names import TORCHVISION
from tuner.models.partial_fc import PartialFC
from tuner.models.weights import load_weights
from tuner.names import METRIC_ACCURACY, METRIC_ACCURACY_STD, METRIC_TAR, set_metrics
from tuner.training.compiled import compiled, compiler_at_hand
from tuner.training.embedding import embedder, evaluation_batch
from tuner.training.fingerprint import fingerprint
from tuner.training.precision import check_precision, convolutions, lower_precision, scaler_of
from tuner.training.verify import verify

_DROPOUT: Final = 4
"""Stream of random numbers, beside those of the batches and of the sampled classes."""


class FaceWorkload:
    """Train a backbone under a margin head with SGD; a `Workload`.

    Weights come from `seed` and the config alone, whatever random numbers the process drew before, and building a
    workload draws none of its own from the process. A step never waits for the device: batches are made on it, and the
    loss is returned unread.

    State: weights and BN statistics of the backbone, class centres of the head, momentum, the scale of fp16 gradients.
    Batches need none, being a function of (seed, step).

    Args:
        config: the workload's settings.
        seed: of the initial weights and the batches.
        train: faces to train on, one class an identity.
        verification: faces of other identities, for `evaluate`; none where all are trained on.
        sets: those that `config.evaluation.sets` names, for `evaluate` too.
        device: where to train.

    Raises:
        UserError: the backbone does not take such images, the weights to start from do not fit it, or the device does
            not have the precision.
    """

    def __init__(
        self,
        config: FaceConfig,
        *,
        seed: int,
        train: FaceSet,
        verification: FaceSet,
        sets: Sequence[VerificationSet] = (),
        device: torch.device,
    ) -> None:
        check_precision(config.compute.precision, device)
        self._config, self._seed, self._device = config, seed, device
        self._train, self._verification = train, verification
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            backbone = build_backbone(
                config.model.backbone,
                image_size=config.data.image_size,
                embedding_size=config.model.embedding_size,
            )
            head = self._make_head(train.num_identities)
        if config.model.weights is not None:
            load_weights(backbone, config.model.weights)
        # Convolutions on channels-last tensors take a sixth less time, on the CPU as on tensor cores.
        self._backbone = backbone.to(device).to(memory_format=torch.channels_last)
        self._embeddings = compiled(self._backbone) if config.compute.compile else self._backbone
        self._head = head.to(device)
        self._parameters = [p for p in (*backbone.parameters(), *head.parameters()) if p.requires_grad]
        self._optimizer = torch.optim.SGD(
            self._parameters,
            lr=config.optimizer.base_lr,
            momentum=config.optimizer.momentum,
            weight_decay=config.optimizer.weight_decay,
            fused=True,
        )
        self._scaler = scaler_of(config.compute.precision, self._optimizer, device)
        batches = Batches(
            train,
            batch_size=config.optimizer.batch_size,
            seed=seed,
            flip=config.augmentation.flip,
            crop=config.augmentation.crop,
            device=device,
            effects=Effects(**config.augmentation.model_dump(exclude={"flip", "crop"})),
            cache=config.data.cache,
        )
        self._batches = prefetched(batches, device=device)
        self._sets = tuple(sets)
        if [each.name for each in self._sets] != [*config.evaluation.set_names]:
            raise ValueError(f"the verification sets must be {config.evaluation.set_names}, in this order")
        self._held_out: VerificationSet | None = None
        self._masked: tuple[VerificationSet, ...] = ()
        if len(verification.labels):
            pairs, split_seed = config.evaluation.pairs, config.data.split_seed
            self._held_out = drawn_set(verification, num_pairs=pairs, seed=split_seed)
            if config.evaluation.masked:
                self._masked = (masked_set(self._held_out, seed=split_seed),)

    def training_step(self, step: int, lr: float) -> Tensor:
        """Train on the batch of `step` at learning rate `lr`; return the loss before the update, detached, shape ().

        Raises:
            UserError: the backbone is to be compiled, but cannot be on this machine.
        """
        images, labels = self._batches(step)
        kernels = convolutions(tf32=self._config.compute.tf32, device=self._device)
        with kernels, self._random_numbers(step), self._classes(labels, step=step) as places:
            self._optimizer.zero_grad()
            loss = self._gradients(images, places)
            self._update(lr)
        return loss

    def _gradients(self, images: Tensor, places: Tensor) -> Tensor:
        """Add up the gradients of the mean loss over all parts of the batch, scaled for fp16; return that loss."""
        parts = self._config.compute.accumulate
        losses = []
        for some, where in zip(images.chunk(parts), places.chunk(parts), strict=True):
            with lower_precision(self._config.compute.precision, self._device), compiler_at_hand():
                embeddings = self._embeddings(some.contiguous(memory_format=torch.channels_last))
            loss: Tensor = self._head(embeddings, where)
            with compiler_at_hand():
                torch.autograd.backward(self._scaler.scale(loss if parts == 1 else loss / parts))
            losses.append(loss.detach())
        return losses[0] if parts == 1 else torch.stack(losses).mean()

    def _update(self, lr: float) -> None:
        """Clip the gradients and take the step; with fp16, neither if a gradient has overflowed."""
        self._scaler.unscale_(self._optimizer)
        if self._config.optimizer.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, self._config.optimizer.clip_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._scaler.step(self._optimizer)
        self._scaler.update()

    def evaluate(self) -> Mapping[str, float]:
        """Return accuracy and its standard deviation (10 folds) and the TAR at the configured FAR, on unseen people.

        `accuracy`, `accuracy_std` and `tar_at_far` are those of the held-out identities; with none held out, `accuracy`
        and `tar_at_far` are the means over the verification sets. Each set has its own, `tuner.names.set_metrics`, and
        so have the held-out identities with masks, where that is configured.
        """
        far, embed = self._config.evaluation.far, embedder(self._backbone, self._device)
        at_once = evaluation_batch(self._device, image_size=self._config.data.image_size)
        sets = (*self._sets, *self._masked)
        scores = [verify(faces, embed, far=far, batch_size=at_once) for faces in sets]
        metrics: dict[str, float] = {}
        for faces, found in zip(sets, scores, strict=True):
            metrics |= zip(set_metrics(faces.name), (found.accuracy, found.accuracy_std, found.tar), strict=True)
        if self._held_out is None:
            means = {METRIC_ACCURACY: fmean(each.accuracy for each in scores), METRIC_TAR: fmean(e.tar for e in scores)}
            return {**means, **metrics}
        own = verify(self._held_out, embed, far=far, batch_size=at_once)
        return {METRIC_ACCURACY: own.accuracy, METRIC_ACCURACY_STD: own.accuracy_std, METRIC_TAR: own.tar, **metrics}

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the state in host memory, which training on does not change."""
        state = {
            "backbone": self._backbone.state_dict(),
            "head": self._head.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }
        return {name: _host_copy(part) for name, part in state.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._backbone.load_state_dict(state["backbone"])
        self._head.load_state_dict(state["head"])
        # A copy, since the optimizer keeps the tensors that it is given.
        self._optimizer.load_state_dict(_host_copy(state["optimizer"]))
        self._scaler.load_state_dict(state["scaler"])

    def fingerprint(self) -> Mapping[str, Any]:
        """Return all that decides losses and metrics besides the LRs; the faces count by content, not by path."""
        return fingerprint(
            self._config,
            seed=self._seed,
            train=self._train.digest,
            verification=self._verification.digest,
            sets={each.name: each.digest for each in self._sets},
            device=self._device,
        )

    def _make_head(self, num_classes: int) -> CombinedMarginHead | PartialFC:
        model, settings = self._config.model, self._config.head
        options = settings.model_dump(exclude={"sample_rate"})
        head = CombinedMarginHead(num_classes, embedding_size=model.embedding_size, **options)
        if settings.sample_rate == 1:
            return head
        batch_size = self._config.optimizer.batch_size
        return PartialFC(head, rate=settings.sample_rate, batch_size=batch_size, seed=self._seed)

    def _classes(self, labels: Tensor, *, step: int) -> AbstractContextManager[Tensor]:
        """Give the places of the labels among the classes that the head scores in this step."""
        if isinstance(self._head, PartialFC):
            return self._head.sampled(labels, step=step, optimizer=self._optimizer)
        return nullcontext(labels)

    @contextmanager
    def _random_numbers(self, step: int) -> Iterator[None]:
        """Make what a torchvision backbone draws (dropout) a function of (seed, step); own backbones draw nothing."""
        if not self._config.model.backbone.startswith(TORCHVISION):
            yield
            return
        with torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else []):
            state = np.random.SeedSequence([self._seed, _DROPOUT, step]).generate_state(1, np.uint64)
            torch.manual_seed(int(state[0]))
            yield


def _host_copy(tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return tree.detach().to("cpu", copy=True)
    if isinstance(tree, dict):
        return {key: _host_copy(value) for key, value in tree.items()}
    return [_host_copy(value) for value in tree] if isinstance(tree, list) else tree

"""A run's workload with all that it reads at hand: described, fingerprinted, built. Importable without torch.

This is the seam between what a run trains and all that runs it: `open_workload` is the one place that knows which kinds
of workloads there are.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tuner.config.own import OwnConfig
from tuner.config.own_code import find_class, parse_settings, sources_digest, where_from
from tuner.config.run import FaceConfig, WorkloadConfig
from tuner.errors import UserError
from tuner.names import SYNTHETIC
from tuner.training.faces import prepare_faces, prepare_sets
from tuner.workload import Data, Workload

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, int], None]


class OpenWorkload(Protocol):
    """What a run trains, read and checked, before anything is built."""

    @property
    def data(self) -> Data:
        """What it reads; the digest covers all that decides its losses besides settings, seed and device."""
        ...

    def fingerprint(self, *, seed: int, device: "torch.device") -> Mapping[str, Any]:
        """Return, as JSON-like data, all that decides the losses besides LR history: settings, data content, seed."""
        ...

    def build(self, *, seed: int, device: "torch.device") -> Workload:
        """Return the workload as it is before step 0, the same each time."""
        ...


def open_workload(config: WorkloadConfig, *, progress: Progress | None = None) -> OpenWorkload:
    """Read and check all that a workload needs.

    Args:
        config: what a run says of it.
        progress: called with (images done, images in all) while images are decoded or rendered.

    Raises:
        UserError: its data, weights, code or settings cannot be used.
    """
    return OpenFaces(config, progress=progress) if isinstance(config, FaceConfig) else OpenOwn(config)


class OpenFaces:
    """The faces of a run, those to train on and those to verify on; an `OpenWorkload`."""

    def __init__(self, config: FaceConfig, *, progress: Progress | None = None) -> None:
        self._config = config
        self._sets = prepare_sets(config, progress=progress)
        self._train, self._verification = prepare_faces(config.data, progress=progress)

    @property
    def data(self) -> Data:
        """The faces; their own digest, where neither sets nor weights add to it."""
        source, train, verification = self._config.source, self._train, self._verification
        others = [each.digest for each in self._sets] + _weights_digest(self._config)
        joined = hashlib.sha256("".join((train.digest, *others)).encode()).hexdigest()
        return Data(
            name="synthetic faces" if source == SYNTHETIC else Path(source).name,
            digest=joined if others else train.digest,
            source=source,
            counts={
                "training_identities": train.num_identities,
                "training_images": len(train.labels),
                "verification_identities": verification.num_identities,
                "verification_images": len(verification.labels),
                **{f"pairs_{each.name}": len(each.pairs.same) for each in self._sets},
            },
        )

    def fingerprint(self, *, seed: int, device: "torch.device") -> Mapping[str, Any]:
        """Return what decides losses and metrics besides the LRs; the faces count by content, not by path."""
        from tuner.training.fingerprint import fingerprint

        return fingerprint(
            self._config,
            seed=seed,
            train=self._train.digest,
            verification=self._verification.digest,
            sets={each.name: each.digest for each in self._sets},
            device=device,
        )

    def build(self, *, seed: int, device: "torch.device") -> Workload:
        """Return the face workload before its first step."""
        from tuner.training.face import FaceWorkload

        return FaceWorkload(
            self._config,
            seed=seed,
            train=self._train,
            verification=self._verification,
            sets=self._sets,
            device=device,
        )


def _weights_digest(config: FaceConfig) -> list[str]:
    """Return the digest of the weights to start from, none where there are none."""
    if config.model.weights is None:
        return []
    from tuner.models.weights import weights_digest

    return [weights_digest(config.model.weights)]


class OpenOwn:
    """A class of one's own, found, with its settings; an `OpenWorkload`."""

    def __init__(self, config: OwnConfig) -> None:
        self._config = config
        self._class = find_class(config.name)
        self._settings = parse_settings(config)
        self._code = sources_digest(config.name)

    @property
    def data(self) -> Data:
        """What the class says that it reads; the digest covers its code too."""
        said = _said_data(self._config.name, json.dumps(self._config.settings, sort_keys=True))
        digest = hashlib.sha256(f"{self._code} {'' if said is None else said.digest}".encode()).hexdigest()
        if said is None:
            return Data(name=self._config.name, digest=digest, source=self._config.source)
        return Data(name=said.name, digest=digest, source=said.source or self._config.source, counts=said.counts)

    def fingerprint(self, *, seed: int, device: "torch.device") -> Mapping[str, Any]:
        """Return what decides losses and metrics besides the LRs; code and data count by content."""
        from tuner.training.fingerprint import software

        # Data that its class describes counts by content, not by where it is.
        described = {"data"} if getattr(self._class, "data", None) is not None else set()
        return {
            "workload": self._config.name,
            "settings": {name: value for name, value in self._config.settings.items() if name not in described},
            "code and data": self.data.digest,
            "seed": seed,
            **software(device),
        }

    def build(self, *, seed: int, device: "torch.device") -> Workload:
        """Return the workload before its first step."""
        return self._class(self._settings, seed=seed, device=device)


@cache  # what a folder of images holds takes long to find out, and each trial of a process asks
def _said_data(name: str, settings: str) -> Data | None:
    say = getattr(find_class(name), "data", None)
    if say is None:
        return None
    try:
        said = say(parse_settings(OwnConfig(name=name, settings=json.loads(settings))))
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"workload {name}: its data cannot be used: {where_from(error)}") from error
    if not isinstance(said, Data):
        raise UserError(f"workload {name}: `data` must return a tuner.workload.Data, but returned {said!r}")
    return said

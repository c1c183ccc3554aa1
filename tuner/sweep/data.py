"""The faces of a sweep or a single run, decoded or rendered once before the first step."""

from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from tuner.config.run import FaceConfig
from tuner.errors import UserError
from tuner.names import SYNTHETIC
from tuner.tracking.runs import DataDescription
from tuner.training.faces import prepare_faces


def prepare(workload: FaceConfig, console: Console) -> DataDescription:
    """Decode or render the faces of a workload, find out whether they can be used, and describe them."""
    config = workload.data
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("preparing faces", total=None)
        on_image: Callable[[int, int], None] = lambda done, total: bar.update(task, completed=done, total=total)  # noqa: E731
        train, verification = prepare_faces(config, progress=on_image)
    return DataDescription(
        name="synthetic faces" if config.source == SYNTHETIC else Path(config.source).name,
        digest=train.digest,
        source=config.source,
        counts={
            "training_identities": train.num_identities,
            "training_images": len(train.labels),
            "verification_identities": verification.num_identities,
            "verification_images": len(verification.labels),
        },
    )


def absolute_data(data: str | None) -> str | None:
    """Return `--data` as the plan keeps it: a folder by its whole path."""
    if data in (None, SYNTHETIC):
        return data
    try:
        return str(Path(data).expanduser().absolute())
    except RuntimeError as error:
        raise UserError(f"--data must be a folder of faces, but got {data!r}: {error}; write the whole path") from None

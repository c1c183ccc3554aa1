"""Whether trials of a workload may share steps: checked before the first one, in a process of its own."""

from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TYPE_CHECKING

from tuner.config.own import OwnConfig
from tuner.config.run import RunConfig
from tuner.errors import UserError

if TYPE_CHECKING:
    from tuner.testing import Failed


def unfit(config: RunConfig) -> str | None:
    """Return what makes a workload unfit for sharing, in one line; None where it is fit. Built-in ones are.

    It trains about twenty steps and evaluates twice, in a process of its own, which leaves no trace on the device.

    Raises:
        UserError: it cannot be built, trained or evaluated, or lacks a metric, so that all trials would fail.
    """
    if not isinstance(config.workload, OwnConfig) or config.workload.is_built_in:
        return None
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        try:
            failed = process.submit(_failed, config.workload, seed=config.seed).result()
        except BrokenProcessPool:
            what = "the process that tried it ended without a word, perhaps for want of memory"
            raise UserError(
                f"workload {config.workload.name}: {what}; try it: fastface-tuner check-workload {config.workload.name}"
            ) from None
    return "; ".join(failed) or None


def tried(workload: OwnConfig, *, seed: int = 0) -> "list[Failed]":
    """Return which checks a workload failed, tried in this process.

    Raises:
        UserError: it cannot be built, trained or evaluated.
    """
    import torch

    from tuner.config.own_code import where_from
    from tuner.testing import check_config
    from tuner.tracking.environment import num_cores

    torch.set_num_threads(num_cores())
    try:
        return check_config(workload, seed=seed)
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - foreign code
        raise UserError(f"workload {workload.name}: a first try of it failed: {where_from(error)}") from None


def _failed(workload: OwnConfig, *, seed: int) -> list[str]:
    found = tried(workload, seed=seed)
    for each in found:
        if each.check == "metrics":
            raise UserError(f"workload {workload.name}: {each.mend}")
    return [str(each) for each in found]

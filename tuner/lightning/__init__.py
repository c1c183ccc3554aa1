"""A LightningModule as the workload of a sweep; needs the extra `lightning`."""

from tuner.lightning.workload import LightningWorkload

__all__ = ["LightningWorkload"]

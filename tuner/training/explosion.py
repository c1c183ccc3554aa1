"""A loss that has exploded although it is still a number."""

import math
from typing import Final

from tuner.errors import DivergedError

FACTOR: Final = 1000.0
"""So many times its first values, a loss is beyond what a healthy run ever shows, however noisy."""
FIRST_STEPS: Final = 10
LEAST_STEPS: Final = 100
RUN_SHARE: Final = 0.05


class Explosion:
    """Watches the losses of one run, every one and in order.

    A run has exploded when for a twentieth of its steps, and for 100 at least, every loss was more than 1000 times the
    largest of its first ten (by magnitude, and 1 at least). A loss that returns from a peak before that is left alone;
    so is any loss that has an upper bound, such as that of a face-recognition head.
    """

    def __init__(self, total_steps: int) -> None:
        self._patience = max(LEAST_STEPS, math.ceil(RUN_SHARE * total_steps))
        self._first = 1.0
        self._count = 0

    def watch(self, step: int, loss: float) -> None:
        """Take the loss of a step; DivergedError where the run has exploded with it."""
        if step < FIRST_STEPS:
            self._first = max(self._first, abs(loss))
        elif loss <= FACTOR * self._first:
            self._count = 0
        else:
            self._count += 1
            if self._count >= self._patience:
                raise DivergedError(
                    f"the loss must not explode, but was above {FACTOR:g} times its first values for {self._count} "
                    f"steps in a row, {loss:g} at step {step}; lower the base LR"
                )

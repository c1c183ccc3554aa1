"""The actor that Ray Tune keeps alive from trial to trial. Torch comes with its first trial, not into the driver."""

import os
import signal
from typing import TYPE_CHECKING, Any

from ray import tune

from tuner.sweep.jobs import ENVIRONMENT, HOME

if TYPE_CHECKING:
    from tuner.sweep.trial_process import TrialProcess


class TrialActor(tune.Trainable):
    """Runs one trial after another in one process; `TrialProcess.begin` says what the config of a trial is."""

    _process: "TrialProcess"

    def setup(self, config: dict[str, Any]) -> None:
        """Start with the first trial's config."""
        os.environ.update(config.get(ENVIRONMENT, {}))
        if HOME in config:
            os.chdir(config[HOME])
        from tuner.sweep.trial_process import TrialProcess

        # A signal may go to all processes of a job or a machine; when to stop, this one hears from the sweep's.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._process = TrialProcess()
        self._process.begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Go on with the next trial."""
        self._process.begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train for about half a second, or to the next evaluation, and report."""
        return self._process.step()

    def cleanup(self) -> None:
        """Leave the trial, after a checkpoint where it was broken off."""
        self._process.close()

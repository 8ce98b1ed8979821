"""What happens between two training loops: the check of the loss, the signal."""

from __future__ import annotations

import math
import signal
import threading
from typing import Any, Mapping

import orbit
import tensorflow as tf
from absl import logging

from panoptic_tf.training import progress, workers

STOPPED_BY_SIGNAL = 143
"""Exit code after SIGTERM, the shell's own (128 + 15)."""


class FiniteLoss(orbit.Action):
    """Stops a run whose loss is not a number, and names the part that is not."""

    def __init__(self, global_step: tf.Variable):
        """See the class."""
        self._global_step = global_step

    def __call__(self, output: Mapping[str, Any]) -> None:
        """Checks the logs of a training loop.

        Raises:
          FloatingPointError: a loss is NaN or infinite.
        """
        bad = [k for k, v in output.items() if "loss" in k and not math.isfinite(float(v))]
        if bad:
            raise FloatingPointError(
                f"{', '.join(sorted(bad))} became NaN or infinite by step "
                f"{int(self._global_step.numpy())}. Lower the learning rate or set "
                "global_clipnorm of the optimizer; the last checkpoint is from before."
            )


class StarvationWarning(orbit.Action):
    """Warns once where accelerators wait for batches in several loops one after another."""

    _NUM_LOOPS = 3
    _SHARE = 0.2

    def __init__(self):
        """See the class."""
        self._num_loops = -1  # The first waits for the pipeline to fill.
        self._is_told = False

    def __call__(self, output: Mapping[str, Any]) -> None:
        """Looks at the logs of a training loop."""
        share = float(output.get(progress.DATA_SHARE, 0.0))
        is_waiting = share > self._SHARE or self._num_loops < 0
        self._num_loops = self._num_loops + 1 if is_waiting else 0
        if self._num_loops >= self._NUM_LOOPS and not self._is_told:
            self._is_told = True
            logging.warning(
                "the accelerators wait for batches %.0f%% of the time. Keep decoded images in "
                "memory (task.train_data.cache), give this machine more CPU cores, or make the "
                "batches on other machines (task.train_data.enable_tf_data_service).",
                100 * share,
            )


class EvaluationStopped(Exception):
    """SIGTERM came in an evaluation."""


class SaveOnSignal(orbit.Action):
    """On SIGTERM saves a checkpoint at the end of the running loop, then exits with 143.

    So do all workers when one of them gets the signal. An evaluation is given up, except by several
    workers, who have to finish it together.
    """

    def __init__(
        self,
        checkpoint_manager: tf.train.CheckpointManager,
        global_step: tf.Variable,
        *,
        num_workers: int = 1,
    ):
        """Installs the handler; in another thread than the main one nothing hears the signal.

        Args:
          checkpoint_manager: saves.
          global_step: number of the checkpoint.
          num_workers: processes that train.
        """
        self._manager = checkpoint_manager
        self._num_workers = num_workers
        self._global_step = global_step
        self._received = False
        if threading.current_thread() is threading.main_thread():  # Others cannot.
            signal.signal(signal.SIGTERM, self._receive)

    def _receive(self, signum: int, frame: Any) -> None:
        del signum, frame
        self._received = True

    def __call__(self, output: Mapping[str, Any]) -> None:
        """Saves and exits if the signal came."""
        del output
        if any(workers.gather(self._received)):
            self.save_and_exit()

    def stop_evaluation(self, *image: Any) -> None:
        """To be called for every evaluated image.

        Raises:
          EvaluationStopped: the signal came.
        """
        del image
        if self._received and self._num_workers == 1:
            raise EvaluationStopped

    def save_and_exit(self) -> None:
        """Saves a checkpoint, whatever the interval between two is, and ends the process."""
        self._manager.save(checkpoint_number=self._global_step.numpy(), check_interval=False)
        raise SystemExit(STOPPED_BY_SIGNAL)

"""What happens between two training loops: the progress bar, the check of the loss, the signal."""

from __future__ import annotations

import math
import signal
import sys
import time
from typing import Any, Mapping, Optional

import orbit
import tensorflow as tf
from tqdm import tqdm

from panoptic_tf.training import workers

STOPPED_BY_SIGNAL = 143
"""Exit code after SIGTERM, the shell's own (128 + 15)."""


class ProgressBar(orbit.Action):
    """A bar with loss, images per second and time left."""

    def __init__(self, *, global_step: tf.Variable, train_steps: int, batch_size: int):
        """The bar appears with `start`.

        Args:
          global_step: the trainer's.
          train_steps: of the whole run.
          batch_size: images of a global batch.
        """
        self._global_step = global_step
        self._train_steps = train_steps
        self._batch_size = batch_size
        self._bar: Optional[tqdm] = None

    def start(self) -> None:
        """Shows the bar, at the step that the run resumes from."""
        self._step = int(self._global_step.numpy())
        self._time = time.monotonic()
        self._bar = tqdm(
            total=self._train_steps,
            initial=self._step,
            unit="step",
            desc="train",
            file=sys.stdout,
        )

    def __call__(self, output: Mapping[str, Any]) -> None:
        """Moves the bar; called after every training loop."""
        step, now = int(self._global_step.numpy()), time.monotonic()
        images = (step - self._step) * self._batch_size / max(now - self._time, 1e-9)
        self._bar.set_postfix_str(
            f"loss {float(output['training_loss']):.4f}, {images:.1f} images/s", refresh=False
        )
        self._bar.update(step - self._step)
        self._step, self._time = step, now

    def close(self) -> None:
        """Ends the bar's line."""
        if self._bar is not None:
            self._bar.close()


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
        """Installs the handler.

        Args:
          checkpoint_manager: saves.
          global_step: number of the checkpoint.
          num_workers: processes that train.
        """
        self._manager = checkpoint_manager
        self._num_workers = num_workers
        self._global_step = global_step
        self._received = False
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

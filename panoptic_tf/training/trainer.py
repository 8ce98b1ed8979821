"""The Model Garden's trainer, which also measures how long its steps wait for batches."""

from __future__ import annotations

import time
from typing import Any, Dict

import tensorflow as tf
from official.core import base_trainer

from panoptic_tf.training.progress import DATA_SHARE

SAMPLED_EVERY = 10
"""Steps of which one is measured."""


class DataWait:
    """Sums up, on the host, how long sampled steps wait for their batch.

    A host runs ahead of an accelerator: it may wait for a batch while the accelerator still works
    on earlier ones. A sampled step therefore first waits until the weights of the step before are
    there; while it then waits for its batch, the accelerator has nothing to do.

    Must be made outside of a strategy's scope, which would put the sums on its devices.
    """

    def __init__(self):
        with tf.device("CPU:0"):
            self._count = tf.Variable(0, dtype=tf.int64, trainable=False)
            self._num_sampled = tf.Variable(0, dtype=tf.int64, trainable=False)
            self._seconds = tf.Variable(0.0, dtype=tf.float64, trainable=False)

    def next_of(self, iterator: Any, weights: tf.Variable) -> Any:
        """The next batch of an iterator, in a graph; one call a step.

        Args:
          iterator: of a dataset, which may be distributed.
          weights: what a step changes last: those of the first layer.
        """
        with tf.device("CPU:0"):
            is_sampled = self._count % SAMPLED_EVERY == 0
            before = tf.cond(is_sampled, lambda: _now(after=[_element(weights)]), _never)
        with tf.control_dependencies([before]):
            batch = next(iterator)
        with tf.device("CPU:0"), tf.control_dependencies(tf.nest.flatten(batch, True)):
            self._count.assign_add(1)
            tf.cond(is_sampled, lambda: self._add(before), _never)
        return batch

    def _add(self, before: tf.Tensor) -> tf.Tensor:
        now = tf.timestamp()
        self._num_sampled.assign_add(1)
        self._seconds.assign_add(now - before)
        return now

    def take(self, num_steps: int, seconds: float) -> Dict[str, float]:
        """The share of a loop that was waited, `DATA_SHARE`; none where no step was sampled.

        Args:
          num_steps: of the loop.
          seconds: that it took.
        """
        num_sampled, waited = int(self._num_sampled.numpy()), float(self._seconds.numpy())
        self._num_sampled.assign(0)
        self._seconds.assign(0.0)
        if not num_sampled:
            return {}
        return {DATA_SHARE: min(waited / num_sampled * num_steps / max(seconds, 1e-9), 1.0)}


def _element(weights: tf.Variable) -> tf.Tensor:
    """One number of a variable, on the host as soon as the device has computed it."""
    element = tf.reshape(weights, [-1])[:1]
    with tf.device("CPU:0"):
        return tf.identity(element)


def _now(after: Any) -> tf.Tensor:
    with tf.control_dependencies(after):
        return tf.timestamp()


def _never() -> tf.Tensor:
    return tf.constant(0.0, tf.float64)


class Trainer(base_trainer.Trainer):
    """Adds `DATA_SHARE` to the logs of a training loop.

    Args:
      data_wait: measures; None: nothing does (a TPU runs its loop without the host).
      **kwargs: of the base class.
    """

    def __init__(self, *args: Any, data_wait: DataWait = None, **kwargs: Any):
        self._data_wait = data_wait
        super().__init__(*args, **kwargs)

    def next_train_inputs(self, iterator: Any) -> Any:
        """See base class."""
        if self._data_wait is None:
            return super().next_train_inputs(iterator)
        return self._data_wait.next_of(iterator, self.model.trainable_variables[0])

    def train(self, num_steps: tf.Tensor) -> Dict[str, Any]:
        """See base class."""
        start = time.monotonic()
        logs = dict(super().train(num_steps))
        if self._data_wait is not None:
            # The logs are read first: what computes them has then ended.
            logs = {name: tf.convert_to_tensor(value).numpy() for name, value in logs.items()}
            logs.update(self._data_wait.take(int(num_steps), time.monotonic() - start))
        return logs

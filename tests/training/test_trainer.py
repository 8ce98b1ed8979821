"""How long steps wait for batches."""

import time

import pytest
import tensorflow as tf
from absl import logging

from panoptic_tf.training import actions, trainer
from panoptic_tf.training.progress import DATA_SHARE

STEPS = 4 * trainer.SAMPLED_EVERY


def sleep(seconds):
    def wait(value):
        time.sleep(seconds)
        return value

    return lambda value: tf.ensure_shape(tf.numpy_function(wait, [value], tf.int64), [])


def measure(strategy, *, seconds_of_batch, seconds_of_step, prefetch):
    """The share of the loop of a trainer of such steps."""
    data_wait = trainer.DataWait()
    dataset = tf.data.Dataset.range(1000).map(sleep(seconds_of_batch))
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.inject_prefetch = False
    dataset = dataset.with_options(options)
    # A distributed dataset always fetches in advance.
    iterator = iter(strategy.experimental_distribute_dataset(dataset) if prefetch else dataset)
    with strategy.scope():
        weights = tf.Variable([[1.0, 2.0]])

    def step(value):
        waited = sleep(seconds_of_step)(value)
        with tf.control_dependencies([waited]):
            weights.assign_add([[1.0, 1.0]])

    @tf.function
    def loop(num_steps):
        for _ in tf.range(num_steps):
            strategy.run(step, args=(data_wait.next_of(iterator, weights),))

    loop(tf.constant(1))
    assert set(data_wait.take(1, 1.0)) == {DATA_SHARE}
    assert data_wait.take(1, 1.0) == {}
    start = time.monotonic()
    loop(tf.constant(STEPS))
    share = data_wait.take(STEPS, time.monotonic() - start)[DATA_SHARE]
    assert weights.numpy()[0, 0] == 2 + STEPS
    return share


@pytest.mark.parametrize(
    "batch, step, prefetch, expected",
    [
        (0.05, 0.05, False, (0.3, 0.7)),  # one after the other: half
        (0.05, 0.0, True, (0.5, 1.0)),  # the batches are what takes time
        (0.0, 0.05, True, (0.0, 0.25)),
    ],
)
def test_the_share_of_waiting(batch, step, prefetch, expected):
    strategy = tf.distribute.OneDeviceStrategy("device:CPU:0")
    share = measure(strategy, seconds_of_batch=batch, seconds_of_step=step, prefetch=prefetch)
    assert expected[0] <= share <= expected[1]


def test_a_starved_accelerator_is_told_once(caplog):
    warn = actions.StarvationWarning()
    shares = [0.9, 0.3, 0.1, 0.3, 0.3]
    with caplog.at_level(logging.WARNING, logger="absl"):
        for share in shares:
            warn({DATA_SHARE: share})
        assert not caplog.records
        for share in (0.43, 0.5, 0.5, 0.5, 0.5):
            warn({DATA_SHARE: share})
    (entry,) = caplog.records
    assert "wait for batches 43% of the time" in entry.getMessage()
    assert "task.train_data.cache" in entry.getMessage()

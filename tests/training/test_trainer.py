"""How long steps wait for batches."""

import time

import pytest
import tensorflow as tf
from absl import logging

from panoptic_tf.training import actions, trainer
from panoptic_tf.training.progress import DATA_SHARE

STEPS = 4 * trainer.SAMPLED_EVERY


class Clock:
    """Stands still but while something sleeps."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds

    def timestamp(self):
        return tf.ensure_shape(tf.numpy_function(self.monotonic, [], tf.float64), [])


def sleep(clock, seconds):
    def wait(value):
        clock.sleep(seconds)
        return value

    return lambda value: tf.ensure_shape(tf.numpy_function(wait, [value], tf.int64), [])


def measure(clock, *, seconds_of_batch, seconds_of_step, prefetch):
    """The share of the loop of a trainer of such steps."""
    strategy = tf.distribute.OneDeviceStrategy("device:CPU:0")
    data_wait = trainer.DataWait()
    dataset = tf.data.Dataset.range(1000).map(sleep(clock, seconds_of_batch))
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.inject_prefetch = False
    dataset = dataset.with_options(options)
    # A distributed dataset always fetches in advance.
    iterator = iter(strategy.experimental_distribute_dataset(dataset) if prefetch else dataset)
    with strategy.scope():
        weights = tf.Variable([[1.0, 2.0]])

    def step(value):
        # Nothing else orders the two: the clock must not go on before the wait is measured.
        with tf.control_dependencies([data_wait._seconds.read_value()]):
            waited = sleep(clock, seconds_of_step)(tf.identity(value))
        with tf.control_dependencies([waited]):
            weights.assign_add([[1.0, 1.0]])

    @tf.function
    def loop(num_steps):
        for _ in tf.range(num_steps):
            strategy.run(step, args=(data_wait.next_of(iterator, weights),))

    loop(tf.constant(1))
    assert set(data_wait.take(1, 1.0)) == {DATA_SHARE}
    assert data_wait.take(1, 1.0) == {}
    start = clock.monotonic()
    loop(tf.constant(STEPS))
    share = data_wait.take(STEPS, clock.monotonic() - start)[DATA_SHARE]
    assert weights.numpy()[0, 0] == 2 + STEPS
    return share


@pytest.mark.parametrize(
    "batch, step, expected", [(1.0, 1.0, 0.5), (3.0, 1.0, 0.75), (1.0, 0.0, 1.0), (0.0, 1.0, 0.0)]
)
def test_the_share_of_batches_and_steps_one_after_the_other(monkeypatch, batch, step, expected):
    clock = Clock()
    monkeypatch.setattr(trainer.tf, "timestamp", clock.timestamp)
    share = measure(clock, seconds_of_batch=batch, seconds_of_step=step, prefetch=False)
    assert share == pytest.approx(expected)


def test_batches_that_are_made_beside_the_steps_are_not_waited_for():
    # Two numbers far apart, 1 and 0 on an idle machine.
    slow_batches = measure(time, seconds_of_batch=0.05, seconds_of_step=0.0, prefetch=True)
    slow_steps = measure(time, seconds_of_batch=0.0, seconds_of_step=0.05, prefetch=True)
    assert slow_batches > 2 * slow_steps


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

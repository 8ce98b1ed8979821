import numpy as np
import tensorflow as tf

from panoptic_tf.losses.cross_entropy import WeightedBootstrappedCrossEntropy
from panoptic_tf.losses.reduction import reduce_loss
from panoptic_tf.losses.regression import WeightedAbsoluteError


def test_sum_over_sum():
    # (1 + 5) / (2 + 4), not the mean of 1/2 and 5/4.
    assert reduce_loss(tf.constant([1.0, 5.0]), tf.constant([2.0, 4.0])) == 1.0
    assert reduce_loss(tf.constant([0.0, 0.0]), tf.constant([0.0, 0.0])) == 0.0
    assert reduce_loss(tf.zeros([0]), tf.zeros([0])) == 0.0


def draw():
    """Four images; the first half has a tenth of the second's weight."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(4, 6, 5, 2)).astype(np.float32)
    targets = rng.normal(size=(4, 6, 5, 3)).astype(np.float32)
    weights = (rng.random((4, 6, 5, 1)) < 0.8).astype(np.float32)
    weights[:2] *= rng.random((2, 6, 5, 1)) < 0.1
    mask = rng.integers(0, 4, (4, 6, 5)).astype(np.int32)
    mask[1] = 0
    return inputs, targets, weights, mask


def losses_and_gradients(strategy, batches, kernel):
    """Losses and gradients of a linear map, summed over the replicas."""
    with strategy.scope():
        variable = tf.Variable(kernel)

    def step(inputs, targets, weights, mask):
        with tf.GradientTape() as tape:
            outputs = tf.einsum("bhwi,io->bhwo", inputs, variable)
            regression = reduce_loss(*WeightedAbsoluteError()(outputs, targets, weights))
            cross_entropy = WeightedBootstrappedCrossEntropy(top_k_fraction=0.3)
            semantic = reduce_loss(*cross_entropy(outputs, mask, weights[..., 0] + 1.0))
            total = regression + semantic
        return regression, semantic, tape.gradient(total, variable)

    values = (
        strategy.experimental_distribute_values_from_function(
            lambda context, i=i: tf.constant(batches[context.replica_id_in_sync_group][i])
        )
        for i in range(4)
    )
    outputs = tf.function(lambda *v: strategy.run(step, args=v))(*values)
    return [strategy.reduce("SUM", value, axis=None).numpy() for value in outputs]


def test_two_replicas_are_one_batch(mirrored):
    arrays = draw()
    kernel = np.random.default_rng(1).normal(size=(2, 3)).astype(np.float32)
    one = losses_and_gradients(tf.distribute.OneDeviceStrategy("CPU:0"), [arrays], kernel)
    halves = [[a[:2] for a in arrays], [a[2:] for a in arrays]]
    two = losses_and_gradients(mirrored, halves, kernel)
    assert abs(one[0]) > 0.1 and np.abs(one[2]).max() > 0.01
    for a, b in zip(one, two):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    # What a mean over replicas of per-replica means would be, is something else.
    alone = [
        losses_and_gradients(tf.distribute.OneDeviceStrategy("CPU:0"), [half], kernel)[0]
        for half in halves
    ]
    assert abs(np.mean(alone) - one[0]) > 1e-3


def test_a_replica_without_any_weight(mirrored):
    arrays = draw()
    arrays[2][:2] = 0.0
    kernel = np.ones((2, 3), np.float32)
    one = losses_and_gradients(tf.distribute.OneDeviceStrategy("CPU:0"), [arrays], kernel)
    two = losses_and_gradients(mirrored, [[a[:2] for a in arrays], [a[2:] for a in arrays]], kernel)
    for a, b in zip(one, two):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)

"""Losses of kernels, a part of the pairs at a time, beside those of all masks at once."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.layers.dynamic_conv import mask_logits
from panoptic_tf.losses.dice import weighted_dice_loss
from panoptic_tf.systems.panoptic_fcn.mask_losses import kernel_losses

HEIGHT, WIDTH, CHANNELS, MASKS = 5, 7, 4, 3


def draw(batch=2, pairs=5, k=3, seed=0):
    """kernels, encoded, masks, rows, weights."""
    rng = np.random.default_rng(seed)
    arrays = (
        rng.normal(size=(batch, pairs, k, CHANNELS)),
        rng.normal(size=(batch, HEIGHT, WIDTH, CHANNELS)),
        rng.choice([0.0, 0.25, 1.0], (batch, MASKS, HEIGHT, WIDTH)),
        rng.integers(0, MASKS, (batch, pairs)).astype(np.int32),
        rng.random((batch, pairs, k)),
    )
    return [tf.constant(x, tf.int32 if x.dtype == np.int32 else tf.float32) for x in arrays]


def all_at_once(kernels, encoded, masks, rows, weights):
    logits = mask_logits(kernels, encoded)  # [B, P, k, h, w]
    targets = tf.gather(masks, rows, axis=1, batch_dims=1)
    sizes, cells = tf.shape(weights), tf.reduce_prod(tf.shape(encoded)[1:3])
    logits = tf.reshape(logits, tf.concat([sizes, [cells]], axis=0))
    targets = tf.reshape(targets, tf.concat([sizes[:2], [cells]], axis=0))
    return weighted_dice_loss(logits, targets, weights)


def loss_and_gradients(function, kernels, encoded, masks, rows, weights):
    watched = [kernels, encoded, weights]
    with tf.GradientTape() as tape:
        tape.watch(watched)
        loss = function(kernels, encoded, masks, rows, weights)
        total = tf.reduce_sum(tf.square(loss))  # so that pairs differ in their gradient
    return loss, *tape.gradient(total, watched)


def in_parts(pairs, batch=2, k=3):
    """`kernel_losses`, of this many pairs at a time."""
    return functools.partial(kernel_losses, logit_bytes=4 * batch * pairs * k * HEIGHT * WIDTH)


def assert_close(found, expected):
    for x, y in zip(found, expected):
        assert x.shape == y.shape
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("at_once", [0, 1, 2, 4, 5, 100])
@pytest.mark.parametrize("in_graph", [False, True])
def test_any_part_of_the_pairs(at_once, in_graph):
    arrays = draw()
    run = tf.function(loss_and_gradients, autograph=False) if in_graph else loss_and_gradients
    assert_close(run(in_parts(at_once), *arrays), loss_and_gradients(all_at_once, *arrays))


def test_a_kernel_of_a_pair():
    arrays = draw(k=1)
    found = loss_and_gradients(kernel_losses, *arrays)
    assert_close(found, loss_and_gradients(all_at_once, *arrays))


def test_sizes_that_only_a_step_knows():
    arrays = draw()
    specs = [tf.TensorSpec([None, None, *x.shape[2:]], x.dtype) for x in arrays]
    specs[1] = tf.TensorSpec([None, None, None, CHANNELS])
    specs[2] = tf.TensorSpec([None, None, None, None])

    @tf.function(input_signature=specs, autograph=False)
    def run(*arrays):
        return loss_and_gradients(in_parts(2), *arrays)

    for batch, pairs in ((2, 5), (1, 1), (3, 4)):
        arrays = draw(batch, pairs)
        assert_close(run(*arrays), loss_and_gradients(all_at_once, *arrays))


def test_compiled():
    arrays = draw()
    run = tf.function(
        functools.partial(loss_and_gradients, in_parts(2)), jit_compile=True, autograph=False
    )
    assert_close(run(*arrays), loss_and_gradients(all_at_once, *arrays))

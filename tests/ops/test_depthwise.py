import functools

import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.ops import forms
from panoptic_tf.ops.depthwise import depthwise_conv2d


@pytest.mark.parametrize("size", [(7, 6), (2, 3), (1, 1)])
@pytest.mark.parametrize(
    "form", forms.registered()["depthwise.depthwise_conv2d"], ids=lambda form: form.value
)
def test_5x5_and_its_gradients(size, form):
    x = tf.random.stateless_normal([2, *size, 8], seed=(0, 1))
    kernel = tf.random.stateless_normal([5, 5, 8, 1], seed=(0, 2))
    weights = tf.random.stateless_normal([2, *size, 8], seed=(0, 3))

    def gradients(convolve):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            y = convolve(x, kernel)
            loss = tf.reduce_sum(y * weights)
        return [y, *tape.gradient(loss, [x, kernel])]

    plain = gradients(lambda x, k: tf.nn.depthwise_conv2d(x, k, (1, 1, 1, 1), "SAME"))
    with forms.use(form):
        found = gradients(functools.partial(depthwise_conv2d, training=True))
    for ours, expected in zip(found, plain):
        np.testing.assert_allclose(ours, expected, atol=2e-5)

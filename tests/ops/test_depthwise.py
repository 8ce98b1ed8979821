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


@pytest.mark.parametrize("size", [(7, 6), (2, 3), (1, 1)])
@pytest.mark.parametrize("padding, dilation_rate", [("SAME", 2), ("SAME", 3), ("VALID", 2)])
@pytest.mark.parametrize(
    "form", forms.registered()["depthwise.depthwise_conv2d"], ids=lambda form: form.value
)
def test_dilated_without_training(form, size, padding, dilation_rate):
    size = size if padding == "SAME" else (9, 8)
    x = tf.random.stateless_normal([2, *size, 3], seed=(0, 1))
    kernel = tf.random.stateless_normal([3, 3, 3, 1], seed=(0, 2))
    expected = tf.nn.depthwise_conv2d(
        x, kernel, (1, 1, 1, 1), padding, dilations=[dilation_rate] * 2
    )
    with forms.use(form):
        found = depthwise_conv2d(x, kernel, padding=padding, dilation_rate=dilation_rate)
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize(
    "form", forms.registered()["depthwise.depthwise_conv2d"], ids=lambda form: form.value
)
def test_dilated_and_its_gradients_keep_the_input_alone(form, is_compiled):
    x = tf.random.stateless_normal([2, 7, 6, 3], seed=(0, 1))
    kernel = tf.random.stateless_normal([3, 3, 3, 1], seed=(0, 2))

    def gradients(x, kernel, training):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            y = depthwise_conv2d(x, kernel, dilation_rate=2, training=training)
            loss = tf.reduce_sum(tf.sin(y))
        return [y, *tape.gradient(loss, [x, kernel])]

    function = tf.function(gradients, jit_compile=is_compiled, autograph=False)
    with forms.use(form):
        ours = function.get_concrete_function(x, kernel, True)
    for found, expected in zip(ours(x, kernel), gradients(x, kernel, None)):
        np.testing.assert_allclose(found, expected, atol=2e-5)
    operators = ours.graph.get_operations()
    (read,) = [op.inputs[0] for op in operators if op.type.endswith("BackpropFilter")]
    # Cut up again, once the gradient is there.
    assert read.op.type == "SpaceToBatchND" and read.op.inputs[0].op.control_inputs

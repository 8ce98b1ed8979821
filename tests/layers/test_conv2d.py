import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.layers import convolution
from panoptic_tf.ops import forms
from panoptic_tf.ops.conv2d import conv2d


def _normal(*shape, seed):
    return tf.random.stateless_normal(shape, seed=(0, seed))


def _gradients(convolve, x, kernel):
    with tf.GradientTape() as tape:
        tape.watch([x, kernel])
        y = convolve(x, kernel)
        loss = tf.reduce_sum(tf.sin(y))
    return [y, *tape.gradient(loss, [x, kernel])]


def _assert_close(ours, expected):
    for a, b in zip(ours, expected):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


def _split(x, kernel, groups, *, dilation_rate=1, strides=1):
    """Dense convolutions of kernels with zeros between their taps."""
    size = (kernel.shape[0] - 1) * dilation_rate + 1
    taps = [[i * dilation_rate, j * dilation_rate] for i in range(3) for j in range(3)]
    spread = tf.scatter_nd(
        taps, tf.reshape(kernel, [9, *kernel.shape[2:]]), [size, size, *kernel.shape[2:]]
    )
    pairs = zip(tf.split(x, groups, -1), tf.split(spread, groups, -1))
    return tf.concat([conv2d(*pair, strides=strides) for pair in pairs], axis=-1)


@pytest.mark.parametrize(
    "groups, channels, filters, options",
    [
        (32, 4, 4, {}),  # four groups share a convolution of 16 channels
        (6, 5, 7, {"strides": 2}),  # three share one
        (2, 24, 8, {"dilation_rate": 2}),
        (5, 1, 1, {}),
        (1, 3, 4, {}),
        (1, 3, 4, {"strides": 2}),
        (1, 3, 4, {"dilation_rate": 2}),
        (1, 3, 4, {"dilation_rate": 4}),  # larger than the map
        (1, 3, 4, {"dilation_rate": 3, "strides": 2}),
        (1, 256, 512, {"dilation_rate": 2}),
    ],
)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("form", forms.registered()["conv2d.conv2d"], ids=lambda form: form.value)
def test_every_form_equals_convolutions_of_spread_kernels(
    groups, channels, filters, options, training, form
):
    x = _normal(2, 6, 7, groups * channels, seed=1)
    kernel = _normal(3, 3, channels, groups * filters, seed=2)
    expected = _gradients(lambda *xs: _split(*xs, groups, **options), x, kernel)

    @tf.function
    def ours(x, kernel):
        with forms.use(form):
            return conv2d(x, kernel, training=training, **options)

    if training:
        _assert_close(_gradients(ours, x, kernel), expected)
    else:
        _assert_close([ours(x, kernel)], expected[:1])


@pytest.mark.parametrize("form", forms.registered()["conv2d.conv2d"], ids=lambda form: form.value)
def test_large_kernels_of_one_tap(form):
    x, kernel = _normal(1, 2, 3, 1024, seed=1), _normal(1, 1, 1024, 1024, seed=2) / 32.0

    @tf.function
    def ours(x, kernel):
        with forms.use(form):
            return conv2d(x, kernel, training=True)

    expected = _gradients(lambda x, kernel: tf.einsum("bhwc,cd->bhwd", x, kernel[0, 0]), x, kernel)
    _assert_close(_gradients(ours, x, kernel), expected)


def test_the_gradient_pads_again():
    @tf.function(autograph=False)
    def gradients(x, kernel):
        return _gradients(lambda *xs: conv2d(*xs, strides=2, training=True), x, kernel)

    specs = [tf.TensorSpec([2, 8, 8, 4]), tf.TensorSpec([3, 3, 4, 4])]
    operators = gradients.get_concrete_function(*specs).graph.get_operations()
    (read,) = [op.inputs[0] for op in operators if op.type == "Conv2DBackpropFilter"]
    assert read.op.type == "Pad" and read.op.inputs[0].op.control_inputs


def test_grouped_kernels_keep_the_plain_shape():
    layer = convolution.ConvNormAct(128, 3, groups=32, norm="none", name="conv1")
    layer(tf.zeros([1, 4, 4, 64]))
    assert {v.name: tuple(v.shape) for v in layer.variables} == {
        "conv1/conv/kernel:0": (3, 3, 2, 128),
        "conv1/conv/bias:0": (128,),
    }
    with pytest.raises(ValueError, match="got 3 groups, 64 input and 128 output channels"):
        convolution.ConvNormAct(128, 3, groups=3)(tf.zeros([1, 4, 4, 64]))


_WITHOUT_ONEDNN = """
import panoptic_tf
import tensorflow as tf
from panoptic_tf.layers import convolution
from panoptic_tf.ops import forms

for norm, options in (
    ("batch", {"groups": 16}),
    ("frozen_batch", {"groups": 16}),
    ("batch", {"dilation_rate": 3}),
    ("frozen_batch", {"dilation_rate": 2, "groups": 2}),
):
    layer = convolution.ConvNormAct(64, 3, norm=norm, **options)
    x = tf.random.normal([1, 8, 8, 64])
    tf.function(lambda: layer(x, training=False))()

    @tf.function
    def step():
        with forms.use(forms.Form.CPU), tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(x, training=True) ** 2)
        return tape.gradient(loss, layer.trainable_variables)

    assert all(tf.reduce_any(g != 0) for g in step())
"""


@pytest.mark.slow
def test_gradients_without_onednn():
    # Its operators are the only ones of TensorFlow that know groups, and gradients of dilated ones.
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"}
    command = [sys.executable, "-c", _WITHOUT_ONEDNN]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.slow
def test_grouped_convolution_is_one_builtin_operator():
    layer = convolution.ConvNormAct(64, 3, groups=16, strides=2, norm="frozen_batch")
    inputs = tf.keras.Input([8, 8, 64], batch_size=1)
    converter = tf.lite.TFLiteConverter.from_keras_model(tf.keras.Model(inputs, layer(inputs)))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    interpreter = tf.lite.Interpreter(model_content=converter.convert())
    interpreter.allocate_tensors()
    image = _normal(1, 8, 8, 64, seed=1)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    result = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(result, layer(image), atol=1e-5)

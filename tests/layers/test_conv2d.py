import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.layers import conv2d, convolution


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


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("cells", [(5, 7), (1, 2)])
def test_gradients_by_products_equal_the_plain_ones(size, cells, monkeypatch):
    monkeypatch.setattr(conv2d, "_LARGE_MAP_BYTES", 0)
    monkeypatch.setattr(conv2d, "_gradients_by_products", _called(conv2d._gradients_by_products))
    x = _normal(2, *cells, 128, seed=1)
    kernel = 0.02 * _normal(size, size, 128, 130, seed=2)
    ours = _gradients(lambda *xs: conv2d.conv2d(*xs, training=True), x, kernel)
    assert conv2d._gradients_by_products.calls == 1
    _assert_close(ours, _gradients(lambda *xs: tf.nn.conv2d(*xs, 1, "SAME"), x, kernel))


def _called(function):
    def counted(*args):
        counted.calls += 1
        return function(*args)

    counted.calls = 0
    return counted


def test_products_are_for_large_maps_and_1x1_kernels():
    def is_faster(height, width, channels, filters, size, dtype=tf.float32):
        inputs = tf.keras.Input([height, width, channels], dtype=dtype)
        return conv2d._is_product_faster(inputs, tf.TensorSpec([size, size, channels, filters]))

    assert is_faster(128, 128, 256, 256, 3)
    assert is_faster(128, 128, 256, 256, 3, tf.bfloat16)
    assert not is_faster(128, 128, 256, 128, 3, tf.bfloat16)
    assert not is_faster(64, 64, 256, 256, 3)
    assert not is_faster(256, 256, 64, 64, 3)
    assert is_faster(16, 16, 256, 64, 1)
    assert not is_faster(16, 16, 256, 32, 1)
    assert not is_faster(None, 128, 256, 256, 3)


def _split(x, kernel, groups, **options):
    pairs = zip(tf.split(x, groups, -1), tf.split(kernel, groups, -1))
    return tf.concat([conv2d.conv2d(*pair, **options) for pair in pairs], axis=-1)


@pytest.mark.parametrize(
    "groups, channels, filters, options",
    [
        (32, 4, 4, {}),  # four groups share a convolution of 16 channels
        (6, 5, 7, {"strides": 2}),  # three share one
        (2, 24, 8, {"dilation_rate": 2}),
        (5, 1, 1, {}),
    ],
)
@pytest.mark.parametrize("training", [False, True])
def test_grouped_convolution(groups, channels, filters, options, training):
    x = _normal(2, 6, 7, groups * channels, seed=1)
    kernel = _normal(3, 3, channels, groups * filters, seed=2)
    expected = _gradients(lambda *xs: _split(*xs, groups, **options), x, kernel)

    @tf.function
    def ours(x, kernel):
        return conv2d.conv2d(x, kernel, training=training, **options)

    if training:
        _assert_close(_gradients(ours, x, kernel), expected)
    else:
        _assert_close([ours(x, kernel)], expected[:1])


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

for norm in ("batch", "frozen_batch"):
    layer = convolution.ConvNormAct(64, 3, groups=16, norm=norm)
    x = tf.random.normal([1, 8, 8, 64])
    tf.function(lambda: layer(x, training=False))()

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(x, training=True) ** 2)
        return tape.gradient(loss, layer.trainable_variables)

    assert all(tf.reduce_any(g != 0) for g in step())
"""


@pytest.mark.slow
def test_grouped_convolution_runs_without_onednn():
    # Its fused and its gradient operators are the only ones of TensorFlow that know groups.
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


def test_layer_rebuilds_from_its_config():
    layer = conv2d.Conv2D(8, 3, strides=2, groups=2, use_bias=False, name="conv")
    config = layer.get_config()
    assert conv2d.Conv2D.from_config(config).get_config() == config

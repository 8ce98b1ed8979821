import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.backbones import rewiring

_LAYERS = {
    "conv": lambda **k: tf.keras.layers.Conv2D(4, 3, use_bias=False, **k),
    "depthwise": lambda **k: tf.keras.layers.DepthwiseConv2D(5, **k),
    "max_pooling": lambda **k: tf.keras.layers.MaxPooling2D(3, **k),
}
_SIZES = {"conv": 3, "depthwise": 5, "max_pooling": 3}


def _model(*layers, channels=3):
    inputs = x = tf.keras.Input([None, None, channels])
    for layer in layers:
        x = layer(x)
    return tf.keras.Model(inputs, x)


@pytest.mark.parametrize("kind", list(_LAYERS))
@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
def test_symmetric_padding_is_that_of_an_explicit_one(kind, size):
    layer = _LAYERS[kind](strides=2, padding="same")
    model = _model(layer)
    x = (
        tf.random.stateless_normal([2, *size, 3], seed=(0, 1)) - 3.0
    )  # negative: -inf pads a maximum
    same = model(x)
    rewiring.pad_symmetrically(model)
    # An equal layer without padding, on a padded image.
    plain = _LAYERS[kind](strides=2, padding="valid")
    margins = [[0, 0], *[[_SIZES[kind] // 2] * 2] * 2, [0, 0]]
    padded = tf.pad(x, margins, constant_values=-1e9 if kind == "max_pooling" else 0.0)
    plain.build(padded.shape)
    plain.set_weights(layer.get_weights())
    np.testing.assert_allclose(model(x), plain(padded), atol=1e-5)
    assert model(x).shape == same.shape
    assert np.allclose(model(x), same, atol=1e-5) == (size == (9, 7))


def test_padding_without_a_stride_or_a_window_stays():
    layers = [
        tf.keras.layers.Conv2D(4, 3, padding="same"),
        tf.keras.layers.Conv2D(4, 1, strides=2, padding="same"),
        tf.keras.layers.Conv2D(4, 3, strides=2, padding="valid"),
    ]
    rewiring.pad_symmetrically(_model(*layers))
    assert [type(layer) for layer in layers] == [tf.keras.layers.Conv2D] * 3


@pytest.mark.parametrize("output_stride", [4, 2])
def test_dilated_is_strided_read_at_more_cells(output_stride):
    def build():
        conv = tf.keras.layers.Conv2D
        options = {"padding": "same", "kernel_initializer": "he_normal"}
        strides = (2, 1, 2, 1, 2, 1)
        model = _model(*(conv(4, 3, strides=s, activation="relu", **options) for s in strides))
        rewiring.pad_symmetrically(model)
        return model

    strided, dilated = build(), build()
    dilated.set_weights(strided.get_weights())
    rewiring.dilate(dilated, output_stride)
    assert [layer.dilation_rate[0] for layer in dilated.layers[1:]] == (
        [1, 1, 1, 1, 1, 2] if output_stride == 4 else [1, 1, 1, 2, 2, 4]
    )
    x = tf.random.stateless_normal([1, 32, 40, 3], seed=(0, 1))
    step = 8 // output_stride
    np.testing.assert_allclose(dilated(x)[:, ::step, ::step], strided(x), atol=1e-5)


def test_stem_ends_before_the_second_stride():
    layers = [
        tf.keras.layers.Conv2D(4, 3, strides=2),
        tf.keras.layers.BatchNormalization(),
        tf.keras.layers.ReLU(),
        tf.keras.layers.MaxPooling2D(2),
        tf.keras.layers.Conv2D(4, 3),
    ]
    model = _model(*layers)
    assert [x for x in rewiring.stem(model) if x in layers] == layers[:3]


def test_frozen_norms_scale_and_shift():
    model = _model(tf.keras.layers.BatchNormalization())
    rewiring.freeze_norms(model)
    x = tf.random.stateless_normal([4, 8, 8, 3], seed=(0, 1))
    np.testing.assert_allclose(model(x, training=True), model(x, training=False))
    assert not model.trainable_variables
    np.testing.assert_array_equal(model.layers[1].moving_mean, np.zeros(3))

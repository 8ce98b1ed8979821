import numpy as np
import tensorflow as tf

from panoptic_tf.layers import coordinates, resize


def test_bilinear_doubling_is_half_pixel():
    # Output 0 reads at -0.25 (clamped to 0), 1 at 0.25, 2 at 0.75, 3 at 1.25 (clamped to 1).
    x = tf.reshape(tf.constant([0.0, 4.0]), [1, 1, 2, 1])
    y = resize.resize_bilinear(x, (2, 4))
    np.testing.assert_allclose(y[0, :, :, 0], [[0, 1, 3, 4]] * 2)


def test_aligned_corners_keep_the_first_and_the_last_pixel():
    # 2 -> 5 along x: positions 0, 1/4, ..., 1; along y one row is all there is.
    x = tf.reshape(tf.constant([0.0, 4.0]), [1, 1, 2, 1])
    y = resize.resize_bilinear(x, (2, 5), align_corners=True)
    np.testing.assert_allclose(y[0, :, :, 0], [[0, 1, 2, 3, 4]] * 2)
    like = resize.upsample_like(tf.cast(x, tf.bfloat16), y, align_corners=True)
    assert like.dtype == tf.bfloat16 and like.shape == y.shape


def test_resize_keeps_the_dtype_and_computes_in_float32():
    x = tf.random.stateless_normal([1, 3, 4, 2], seed=(0, 1))
    low = tf.cast(x, tf.bfloat16)
    y = resize.resize_bilinear(low, (7, 5))
    expected = tf.cast(tf.image.resize(tf.cast(low, tf.float32), (7, 5)), tf.bfloat16)
    assert y.dtype == tf.bfloat16
    np.testing.assert_array_equal(tf.cast(y, tf.float32), tf.cast(expected, tf.float32))


def test_upsample_like_works_with_unknown_sizes():
    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 1])] * 2)
    def like(x, reference):
        return resize.upsample_like(x, reference)

    assert like(tf.ones([1, 2, 3, 1]), tf.zeros([1, 5, 7, 1])).shape == (1, 5, 7, 1)


def test_coordinates_are_row_then_column():
    y = coordinates.Coordinates()(tf.zeros([1, 2, 3, 1]))
    np.testing.assert_allclose(y[0, :, :, 1], [[-1, -1, -1], [1, 1, 1]])
    np.testing.assert_allclose(y[0, :, :, 2], [[-1, 0, 1], [-1, 0, 1]])


def test_coordinate_head_equals_the_recorded_one(golden):
    from layers import recorded_weights
    from panoptic_tf.layers import convolution

    blocks = golden("blocks")
    x = coordinates.Coordinates()(recorded_weights.nhwc(blocks["coord_head/x"]))
    layer = convolution.ConvNormAct(32, 3, norm="group", name="h_head_1")
    layer(x)
    weights = recorded_weights.weights_of(blocks, "coord_head/")
    recorded_weights.assign(layer, weights, {"": "h_head_1"})
    expected = recorded_weights.nhwc(blocks["coord_head/y"])
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-5)

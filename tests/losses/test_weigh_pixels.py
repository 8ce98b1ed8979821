import numpy as np
import tensorflow as tf

from panoptic_tf.losses.class_weights import weigh_pixels


def test_each_pixel_has_the_weight_of_its_channel():
    mask = np.array([[[0, 1, 2], [3, 3, 0]]], np.int32)
    found = weigh_pixels(tf.constant(mask), [0.5, 2.0, 7.0])
    assert found.dtype == tf.float32
    np.testing.assert_array_equal(found, [[[0, 0.5, 2], [7, 7, 0]]])

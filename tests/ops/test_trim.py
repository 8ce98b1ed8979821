"""Rows and channels that only padding has."""

import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.ops import forms
from panoptic_tf.ops.trim import drop_empty_channels, trim


@pytest.mark.parametrize("count, left", [(0, 1), (2, 2), (5, 5)])
def test_rows(count, left):
    table, masks = tf.random.uniform([2, 5, 3]), tf.random.uniform([2, 4, 4, 5])
    whole = trim(tf.constant(count), table, table[..., 0])
    np.testing.assert_array_equal(whole[0], table)
    with forms.use(forms.Form.CPU):
        rows, first = trim(tf.constant(count), table, table[..., 0])
        (channels,) = trim(tf.constant(count), masks, axis=3)
    np.testing.assert_array_equal(rows, table[:, :left])
    np.testing.assert_array_equal(first, table[:, :left, 0])
    np.testing.assert_array_equal(channels, masks[..., :left])


@pytest.mark.parametrize("present, left", [([], [0]), ([2], [0, 2]), ([0, 3], [0, 3])])
def test_channels(present, left):
    masks = np.zeros([2, 3, 3, 4], np.uint8)
    masks[1, 2, 0, present] = 1
    np.testing.assert_array_equal(drop_empty_channels(tf.constant(masks)), masks)
    with forms.use(forms.Form.CPU):
        np.testing.assert_array_equal(drop_empty_channels(tf.constant(masks)), masks[..., left])

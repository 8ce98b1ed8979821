"""Masks at stride 4 against loops over the pixels of a cell."""

import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.inputs.masks import count_channels, count_masks

SIZES = [(1, 1), (4, 8), (13, 22), (30, 17)]


def expected_counts(masks):
    """[K, H, W] -> [K, h4, w4]; rows and columns 1 and 2 of each cell, as far as they are there."""
    count, height, width = masks.shape
    counts = np.zeros([count, -(-height // 4), -(-width // 4)], int)
    for k, y, x in np.argwhere(masks):
        if y % 4 in (1, 2) and x % 4 in (1, 2):
            counts[k, y // 4, x // 4] += 1
    return counts


@pytest.mark.parametrize("size", SIZES)
def test_masks(size):
    masks = np.random.default_rng(0).random([5, *size]) < 0.5
    counts = count_masks(tf.constant(masks, tf.uint8))
    assert counts.dtype == tf.uint8
    np.testing.assert_array_equal(counts, expected_counts(masks))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("block", [1, 5])
def test_channels(size, block):
    """Single pixels, where nearly every cell is mixed, and blocks, where few are."""
    rng = np.random.default_rng(1)
    ids = rng.integers(0, 6, [-(-length // block) for length in size])
    ids = np.kron(ids, np.ones((block, block), int))[: size[0], : size[1]]
    channels = np.array([0, 3, 0, 1, 3, 2])  # Ids 1 and 4 share a channel, 2 has none.
    counts = count_channels(tf.constant(ids, tf.int32), tf.constant(channels, tf.int32), 4)
    assert counts.dtype == tf.uint8 and counts.shape[-1] == 4
    masks = np.stack([channels[ids] == channel + 1 for channel in range(4)])
    np.testing.assert_array_equal(np.moveaxis(counts, -1, 0), expected_counts(masks))


def test_a_count_is_four_times_the_bilinear_resize():
    masks = np.random.default_rng(2).random([3, 16, 24]) < 0.5
    resized = tf.image.resize(tf.cast(masks, tf.float32)[..., tf.newaxis], [4, 6])[..., 0]
    counts = count_masks(tf.constant(masks, tf.uint8))
    np.testing.assert_allclose(tf.cast(counts, tf.float32), 4 * resized, rtol=0, atol=1e-5)


def test_no_mask():
    assert count_masks(tf.zeros([0, 8, 8], tf.uint8)).shape == (0, 2, 2)

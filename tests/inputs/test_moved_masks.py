"""The fast paths of the geometry against the slow and obvious ones."""

import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.datasets import record, rle
from panoptic_tf.inputs import geometry, normalize

FRAME = (23, 37)


def draw(size, seed):
    return geometry.random_geometry(
        tf.constant(size),
        FRAME,
        seed=tf.constant([seed, 5], tf.int64),
        scale_min=0.3,
        scale_max=3.0,
        flip_horizontally=True,
        flip_vertically=True,
    )


def resize_crop_turn_pad(values, where, method):
    """Everything at its full size, one step after the other."""
    scaled = tf.image.resize(values, where.scaled_size, method=method).numpy()
    top, left = where.offset.numpy()
    crop = scaled[top : top + FRAME[0], left : left + FRAME[1]]
    crop = crop[:, ::-1] if where.flip_horizontally else crop
    crop = crop[::-1] if where.flip_vertically else crop
    return np.pad(crop, [(0, f - n) for f, n in zip(FRAME, crop.shape)] + [(0, 0)])


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("size", [(24, 40), (17, 5), (61, 83)])
def test_against_all_steps_at_full_size(size, seed):
    rng = np.random.default_rng(seed)
    where = draw(size, seed)
    image = tf.constant(rng.integers(0, 256, (*size, 3)), tf.uint8)
    moved, _ = geometry.transform_image(image, where, FRAME)
    expected = resize_crop_turn_pad(image, where, "bilinear")
    np.testing.assert_allclose(moved, expected, atol=1e-2)
    masks = tf.constant(rng.integers(0, 9, (3, *size)), tf.int32)
    expected = resize_crop_turn_pad(tf.transpose(masks, [1, 2, 0]), where, "nearest")
    expected = expected.transpose(2, 0, 1)
    np.testing.assert_array_equal(geometry.transform_masks(masks, where, FRAME), expected)
    turned = tf.transpose(masks, [0, 2, 1])
    found = geometry.transform_masks(turned, where, FRAME, transposed=True)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_masks_as_they_are_stored(count):
    masks = np.random.default_rng(count).integers(0, 2, (count, 7, 11)).astype(np.uint8)
    rles = tf.constant([rle.encode_rle(mask) for mask in masks], tf.string)
    found = record.decode_instance_masks(rles, tf.constant(7), tf.constant(11))
    np.testing.assert_array_equal(found, masks)
    found = record.decode_instance_masks(rles, tf.constant(7), tf.constant(11), transposed=True)
    np.testing.assert_array_equal(found, masks.transpose(0, 2, 1))


def test_channels_backwards_exactly():
    image = np.random.default_rng(0).uniform(0, 255, (8, 9, 3)).astype(np.float32)
    np.testing.assert_array_equal(normalize.reorder_channels(image, "BGR"), image[..., ::-1])
    assert normalize.reorder_channels(image, "RGB") is image

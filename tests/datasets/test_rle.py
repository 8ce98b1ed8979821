"""Run lengths, against pycocotools."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as mask_api

from panoptic_tf.datasets import rle

MASKS = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12))


def decode(counts, height, width):
    """A mask from checked text."""
    rle.check_rle(counts, height, width)
    return mask_api.decode({"size": [height, width], "counts": counts})


@given(MASKS)
def test_round_trip_equals_pycocotools(mask):
    counts = rle.encode_rle(mask)
    np.testing.assert_array_equal(decode(counts, *mask.shape), mask)


@pytest.mark.parametrize("threshold", [-1.0, 0.3, 0.999, 2.0])
def test_long_runs(threshold):
    mask = np.random.default_rng(0).random((300, 411)) > threshold
    np.testing.assert_array_equal(decode(rle.encode_rle(mask), 300, 411), mask)


@given(st.binary(max_size=20))
def test_any_bytes_decode_or_are_refused(counts):
    try:
        mask = decode(counts, 3, 5)
    except ValueError:
        return
    assert mask.shape == (3, 5) and mask.max() <= 1


def test_text_of_another_size_is_refused():
    counts = rle.encode_rle(np.ones((4, 4)))
    with pytest.raises(ValueError, match="must fill 4 x 5 = 20 pixels, got 16"):
        rle.check_rle(counts, 4, 5)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_masks_come_back_and_unite(share):
    rng = np.random.default_rng(7)
    masks = rng.random([3, 5, 8]) < share
    encoded = [rle.encode_rle(mask) for mask in masks]
    for mask, counts in zip(masks, encoded):
        np.testing.assert_array_equal(rle.decode_rle(counts, 5, 8), mask)
    united = rle.decode_rle(rle.unite(encoded, 5, 8), 5, 8)
    np.testing.assert_array_equal(united, masks.any(axis=0))
    assert rle.unite(encoded[:1], 5, 8) == encoded[0]

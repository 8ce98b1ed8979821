"""Run lengths decoded by TensorFlow, against pycocotools and NumPy."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as mask_api

from panoptic_tf.datasets import rle, rle_decoding

SIGNATURE = [tf.TensorSpec([None], tf.string), *[tf.TensorSpec([], tf.int32)] * 2]
decode_in_graph = tf.function(rle_decoding.decode_rles, input_signature=SIGNATURE)
check_in_graph = tf.function(rle_decoding.check_rles, input_signature=SIGNATURE)
DECODERS = {"eager": rle_decoding.decode_rles, "graph": decode_in_graph}

MASKS = hnp.array_shapes(min_dims=3, max_dims=3, min_side=0, max_side=17).flatmap(
    lambda shape: hnp.arrays(bool, (shape[0], shape[1] + 1, shape[2] + 1))
)


def decode(texts, height, width, decoder=decode_in_graph):
    return decoder(tf.constant(texts, tf.string), height, width).numpy()


@settings(deadline=None)
@given(MASKS)
def test_against_pycocotools(masks):
    texts = [mask_api.encode(np.asfortranarray(m.astype(np.uint8)))["counts"] for m in masks]
    found = decode(texts, *masks.shape[1:])
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, masks.transpose(0, 2, 1))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("count", [0, 1, 9])
def test_long_runs_and_borders_of_masks(decoder, count):
    # Full and empty masks between random ones, so that runs of ones touch the next mask.
    rng = np.random.default_rng(count)
    masks = rng.random((count, 64, 83)) > rng.choice([-1.0, 0.3, 0.999, 2.0], (count, 1, 1))
    found = decode([rle.encode_rle(mask) for mask in masks], 64, 83, DECODERS[decoder])
    np.testing.assert_array_equal(found, masks.transpose(0, 2, 1))


def test_numbers_of_several_characters():
    masks = np.zeros((2, 1100, 1000), bool)
    masks[0, 5:, 3:-1] = masks[1, 7, 500] = True
    found = decode([rle.encode_rle(mask) for mask in masks], 1100, 1000)
    np.testing.assert_array_equal(found, masks.transpose(0, 2, 1))


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=12), max_size=4))
def test_runs_of_no_pixel(texts_of_runs):
    size = max((sum(runs) for runs in texts_of_runs), default=1) or 1
    texts_of_runs = [[*runs, size - sum(runs)] for runs in texts_of_runs]
    found = decode([rle.encode_runs(runs, size, 1) for runs in texts_of_runs], size, 1)
    expected = [np.repeat(np.arange(len(runs)) % 2, runs) for runs in texts_of_runs]
    np.testing.assert_array_equal(found[:, 0], np.reshape(expected, [-1, size]))


def assert_alike(texts, height, width):
    """What NumPy's check refuses is refused, and nothing else."""
    try:
        for text in texts:
            rle.check_rle(text, height, width)
    except ValueError:
        for function in (decode_in_graph, check_in_graph):
            with pytest.raises(tf.errors.InvalidArgumentError, match="run lengths"):
                function(tf.constant(texts, tf.string), height, width)
        return
    size = [height, width]
    expected = [mask_api.decode({"size": size, "counts": text}).T for text in texts]
    found = decode(texts, height, width)
    np.testing.assert_array_equal(found, np.reshape(expected, [-1, width, height]))
    checked = check_in_graph(tf.constant(texts, tf.string), height, width).numpy()
    assert checked.tolist() == texts


@settings(deadline=None)
@given(st.lists(st.binary(max_size=6), min_size=1, max_size=3))
def test_any_bytes(texts):
    assert_alike(texts, 3, 5)


@settings(deadline=None)
@given(st.lists(st.text("0123456789:;?@NOPQo", max_size=5), min_size=1, max_size=3))
def test_what_is_almost_right(texts):
    assert_alike([text.encode() for text in texts], 3, 5)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"?P",
        b"P",
        b"11",
        b"\xff",
        b"?\n",
        b"\0",
        b"oooooooO",
        b"ooooooO",
        b"O0?",
        b"4OO7",
        b"@O",
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_bad_text_among_others(text, place):
    texts = [b"?", b"0?"]  # 15 zeros; 15 ones
    assert_alike(texts, 3, 5)
    texts.insert(place, text)
    with pytest.raises(ValueError):
        rle.check_rle(text, 3, 5)
    assert_alike(texts, 3, 5)


def test_an_error_without_a_graph():
    with pytest.raises(tf.errors.InvalidArgumentError, match="^run lengths must fill the image"):
        rle_decoding.decode_rles(tf.constant([b"11"]), 3, 5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="^run lengths are not COCO's text"):
        rle_decoding.check_rles(tf.constant([b"?P"]), 3, 5)

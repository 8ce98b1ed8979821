"""Masks from COCO's compressed run-length text, in TensorFlow's operators alone.

All texts of an image are decoded at once. `rle` is the same in NumPy, one text at a time.
"""

from __future__ import annotations

from typing import Tuple

import numpy as np
import tensorflow as tf

# A number is up to seven characters: the last in 0..O, those before in P..o.
_TEXT = "([P-o]{0,6}[0-O])+"

_WORD = 64
_EIGHT_PIXELS = np.unpackbits(
    np.arange(256, dtype=np.uint8)[:, np.newaxis], axis=1, bitorder="little"
).view(np.int64)[:, 0]  # by the byte whose bits they are


def decode_rles(rles: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """Decodes the masks of one image, transposed: column by column, as they are stored.

    Runs of ones become bits, 64 of a word, and then bytes, so that what is in memory beside the
    masks is less than they are.

    Args:
      rles: string [K], COCO's compressed `counts`.
      height: int32 [], rows.
      width: int32 [], columns.

    Returns:
      uint8 [K, width, height], 1 on the instance. See `check_rles` for errors.
    """
    runs, places = _checked_runs(rles, height, width)
    num_pixels = tf.size(rles, tf.int64) * tf.cast(height * width, tf.int64)
    ends = tf.cumsum(runs)
    edges = tf.boolean_mask(tf.stack([ends - runs, ends], axis=1), places % 2 == 1)  # [., 2]
    words, bits = edges // _WORD, tf.cast(edges % _WORD, tf.uint64)
    # Modulo 2^64, -1 << bit is ones from that bit on: a run is its start's less its end's.
    signs = tf.zeros_like(bits) + tf.cast(tf.constant([-1, 1], tf.int64), tf.uint64)
    num_words = num_pixels // _WORD + 1
    own = tf.math.unsorted_segment_sum(tf.bitwise.left_shift(signs, bits), words, num_words)
    before = tf.cumsum(tf.math.unsorted_segment_sum(signs, words, num_words), exclusive=True)
    packed = tf.reshape(tf.bitcast(own + before, tf.uint8), [-1])
    pixels = tf.bitcast(tf.gather(_EIGHT_PIXELS, tf.cast(packed, tf.int32)), tf.uint8)
    return tf.reshape(tf.reshape(pixels, [-1])[:num_pixels], [tf.size(rles), width, height])


def check_rles(rles: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """Checks texts without decoding the masks.

    Args:
      rles, height, width: see `decode_rles`.

    Returns:
      The texts. An InvalidArgumentError says, where it runs, that one of them is no run-length text
      or does not fill the image.
    """
    runs, _ = _checked_runs(rles, height, width)
    with tf.control_dependencies([runs]):
        return tf.identity(rles)


def _checked_runs(
    rles: tf.Tensor, height: tf.Tensor, width: tf.Tensor
) -> Tuple[tf.Tensor, tf.Tensor]:
    """Runs and places of `_runs`, checked."""
    is_text = tf.reduce_all(tf.strings.regex_full_match(rles, _TEXT))
    well_formed = tf.debugging.assert_equal(is_text, True, "run lengths are not COCO's text")
    with tf.control_dependencies([well_formed]):
        runs, places, splits = _runs(tf.identity(rles))
    filled = tf.gather(tf.concat([[0], tf.cumsum(runs)], axis=0), splits)
    expected = tf.range(tf.size(splits, tf.int64)) * tf.cast(height * width, tf.int64)
    fills = tf.reduce_all(filled == expected) & tf.reduce_all(runs >= 0)
    complete = tf.debugging.assert_equal(fills, True, "run lengths must fill the image exactly")
    with tf.control_dependencies([complete]):
        return tf.identity(runs), places


def _runs(rles: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Lengths of the runs of texts that match `_TEXT`; the first of each is of zeros.

    A number is a group of characters, least significant first; a character holds five bits, bit 5
    says that another follows, bit 4 of the last is the sign. From the fourth of a text on, numbers
    are differences to the run two before.

    Returns:
      int64 [R], the runs of all texts one after the other; int64 [R], their places in their texts;
      int64 [K + 1], where among them a text begins and the last one ends.
    """
    codes = tf.cast(tf.io.decode_raw(tf.strings.reduce_join(rles), tf.uint8), tf.int64) - 48  # [N]
    is_last = codes < 32
    ended = tf.concat([[0], tf.cumsum(tf.cast(is_last, tf.int64))], axis=0)  # numbers before
    number = ended[:-1]
    ends = tf.where(is_last)[:, 0]
    starts = tf.concat([[0], ends[:-1] + 1], axis=0)
    power = tf.range(tf.size(codes, tf.int64)) - tf.gather(starts, number)
    is_negative = is_last & (codes >= 16)
    digits = codes % 32 - tf.where(is_negative, tf.constant(32, tf.int64), 0)
    values = tf.math.segment_sum(tf.bitwise.left_shift(digits, 5 * power), number)  # [R]

    text_ends = tf.cumsum(tf.strings.length(rles))
    splits = tf.gather(ended, tf.concat([[0], text_ends], axis=0))

    first = tf.gather(splits, tf.ragged.row_splits_to_segment_ids(splits))  # [R], of its text
    places = tf.range(tf.size(values, tf.int64)) - first
    is_sum = tf.stack([places % 2 == 0, places % 2 == 1], axis=1) & (places > 0)[:, tf.newaxis]
    sums = tf.cumsum(tf.where(is_sum, values[:, tf.newaxis], 0))  # [R, 2], over all texts
    before = tf.gather(tf.pad(sums, [[1, 0], [0, 0]]), first)
    summed = tf.reduce_sum(tf.where(is_sum, sums - before, 0), axis=1)
    return tf.where(places > 0, summed, values), places, splits

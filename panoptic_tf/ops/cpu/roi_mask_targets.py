"""Crops of bit masks that touch only the rows which their boxes cover.

Rows of pixels first: a bin row of a box is a weighted sum of whole rows of its mask (a product with
a sparse matrix, one operand for all boxes of an instance), then columns within the box.
"""

from __future__ import annotations

from typing import List, Tuple

import tensorflow as tf

from panoptic_tf.ops import forms
from panoptic_tf.ops import roi_mask_targets as reference
from panoptic_tf.ops.bit_masks import BITS_PER_PLANE
from panoptic_tf.ops.cpu import sparse


@forms.register(reference.mask_shares, forms.Form.CPU)
def mask_shares(
    bit_masks: tf.Tensor,
    boxes: tf.Tensor,
    instance: tf.Tensor,
    *,
    output_size: int,
    sampling_ratio: int,
) -> tf.Tensor:
    """See the reference."""
    batch, _, width, planes = tf.unstack(tf.shape(bit_masks))
    instance = tf.cast(instance, tf.int32)
    mask = tf.range(batch)[:, tf.newaxis] * (planes * BITS_PER_PLANE) + instance
    y, x = _pixel_taps(boxes, tf.shape(bit_masks), output_size, sampling_ratio)
    mask_of_tap = tf.gather(tf.reshape(mask, [-1]), y.bin // output_size)
    rows, row_of_tap = _unpack_rows(bit_masks, mask_of_tap, y.cell)

    bins = tf.size(mask) * output_size
    index = tf.stack([y.bin, row_of_tap], axis=-1)
    bin_rows = sparse.sparse_product(index, y.weight, rows, rows=bins)
    index = tf.stack([x.bin, x.cell], axis=-1)
    columns = tf.scatter_nd(index, x.weight, tf.stack([bins, width]))
    shape = tf.stack([tf.size(mask), output_size, width])
    bin_rows, columns = tf.reshape(bin_rows, shape), tf.reshape(columns, shape)
    return tf.matmul(bin_rows, columns, transpose_b=True)  # [B * R, S, W] x 2 -> [B * R, S, S]


def _pixel_taps(
    boxes: tf.Tensor, shape: tf.Tensor, output_size: int, sampling_ratio: int
) -> List[sparse.AxisTaps]:
    """Taps along y and x."""
    boxes = tf.reshape(boxes, [-1, 4])
    return [
        sparse.axis_taps(
            boxes[:, i],
            boxes[:, i + 2],
            tf.fill([tf.shape(boxes)[0]], shape[i + 1]),
            bins=output_size,
            sampling_ratio=sampling_ratio,
        )
        for i in range(2)
    ]


def _unpack_rows(
    bit_masks: tf.Tensor, mask: tf.Tensor, row: tf.Tensor
) -> Tuple[tf.Tensor, tf.Tensor]:
    """Unpacks, of every mask that is read, the rows from the first to the last that are read.

    Args:
      bit_masks: int32 [B, H, W, P].
      mask: int32 [T], (image * P + plane) * 32 + bit.
      row: int32 [T], row of pixels.

    Returns:
      float32 {0, 1} [L, W] and int32 [T], where each of the T is among the L.
    """
    batch, height, width, planes = tf.unstack(tf.shape(bit_masks))
    masks = batch * planes * BITS_PER_PLANE
    first = tf.math.unsorted_segment_min(row, mask, masks)
    last = tf.math.unsorted_segment_max(row, mask, masks)
    is_read = first <= last
    first = tf.where(is_read, first, 0)
    counts = tf.where(is_read, last - first + 1, 0)
    pairs = sparse.ragged_ranges(tf.range(masks), first, counts)
    mask_of_row, row_of_image = tf.unstack(pairs, axis=-1)
    words = tf.reshape(tf.transpose(bit_masks, [0, 3, 1, 2]), [-1, width])  # [B * P * H, W]
    words = tf.gather(words, mask_of_row // BITS_PER_PLANE * height + row_of_image)
    bit = (mask_of_row % BITS_PER_PLANE)[:, tf.newaxis]
    unpacked = tf.bitwise.bitwise_and(tf.bitwise.right_shift(words, bit), 1)
    position = tf.gather(tf.cumsum(counts, exclusive=True) - first, mask) + row
    return tf.cast(unpacked, tf.float32), position

"""Masks of instances as bits of integers, and their crops as targets of a mask head.

A batch of 100 masks that may overlap costs 16 bytes per pixel instead of 100 or 400, and a crop
touches only the rows that its boxes cover.
"""

from __future__ import annotations

from typing import List, Tuple

import tensorflow as tf

from panoptic_tf.layers import bin_taps, operators

BITS_PER_PLANE = 32
_BYTES_PER_PLANE = 4
# A share of exactly one half counts as inside, whatever the rounding of its terms.
_HALF = 0.5 - 1e-6


def pack_instance_ids(
    instance_mask: tf.Tensor, row_of_id: tf.Tensor, *, num_planes: int
) -> tf.Tensor:
    """Packs masks that do not overlap.

    Args:
      instance_mask: int32 [H, W], ids from 0.
      row_of_id: int32 [largest id + 1], the bit of each id; -1 (for 0 as a rule): none.
      num_planes: P; bits of 32 * P and above are dropped.

    Returns:
      int32 [H, W, P]: bit i % 32 of plane i // 32 says whether the pixel belongs to row i.
    """
    row = row_of_id[:, tf.newaxis]
    bit = tf.bitwise.left_shift(1, tf.math.floormod(row, BITS_PER_PLANE))
    is_plane = tf.math.floordiv(row, BITS_PER_PLANE) == tf.range(num_planes)
    words = tf.where(is_plane, bit, 0)  # [ids, P]
    return tf.gather(words, instance_mask)


def pack_masks(masks: tf.Tensor, *, num_planes: int) -> tf.Tensor:
    """Packs masks that may overlap.

    Args:
      masks: uint8 {0, 1} [K, H, W]; any number K, of which those from 32 * P are dropped.
      num_planes: P.

    Returns:
      int32 [H, W, P], see `pack_instance_ids`.
    """
    static = masks.shape[1:]
    masks = masks[: num_planes * BITS_PER_PLANE]
    shape = tf.shape(masks)
    missing = -shape % tf.constant([8, 1, 8])
    masks = tf.pad(masks, [[0, missing[0]], [0, 0], [0, missing[2]]])
    width = shape[2] + missing[2]
    # Eight pixels at once, as the bytes of an integer: [K / 8, 8, H, W / 8].
    pixels = tf.bitcast(tf.reshape(masks, [-1, 8, shape[1], width // 8, 8]), tf.int64)
    octets = tf.add_n([pixels[:, i] * (1 << i) for i in range(8)])
    octets = tf.reshape(tf.bitcast(octets, tf.uint8), [-1, shape[1], width])[..., : shape[2]]
    octets = tf.pad(octets, [[0, -tf.shape(octets)[0] % _BYTES_PER_PLANE], [0, 0], [0, 0]])
    octets = tf.reshape(tf.cast(octets, tf.int32), [-1, _BYTES_PER_PLANE, shape[1], shape[2]])
    words = tf.add_n([tf.bitwise.left_shift(octets[:, i], 8 * i) for i in range(_BYTES_PER_PLANE)])
    words = tf.pad(words, [[0, num_planes - tf.shape(words)[0]], [0, 0], [0, 0]])
    return tf.ensure_shape(tf.transpose(words, [1, 2, 0]), [*static, num_planes])


def crop_bit_masks(
    bit_masks: tf.Tensor,
    boxes: tf.Tensor,
    instance: tf.Tensor,
    *,
    output_size: int,
    sampling_ratio: int = 0,
) -> tf.Tensor:
    """ROI align of each box's own mask, at least one half: the targets of Mask R-CNN's mask head.

    Rows of pixels first: a bin row of a box is a weighted sum of whole rows of its mask (a product
    with a sparse matrix, one operand for all boxes of an instance), then columns within the box.

    Args:
      bit_masks: int32 [B, H, W, P], see `pack_instance_ids`.
      boxes: float32 [B, R, 4].
      instance: int32 [B, R], the bit of each box's mask, in [0, 32 * P).
      output_size: S.
      sampling_ratio: samples per bin and axis; 0: the bin's length in pixels, rounded up.

    Returns:
      float32 {0, 1} [B, R, S, S]. No gradient.
    """
    share = _shares_portably if operators.only_portable_operators() else _shares
    shares = share(bit_masks, boxes, instance, output_size, sampling_ratio)
    targets = tf.cast(shares >= _HALF, tf.float32)
    shape = tf.shape(boxes)
    targets = tf.reshape(targets, [shape[0], shape[1], output_size, output_size])
    return tf.ensure_shape(targets, [*instance.shape, output_size, output_size])


def _shares(
    bit_masks: tf.Tensor,
    boxes: tf.Tensor,
    instance: tf.Tensor,
    output_size: int,
    sampling_ratio: int,
) -> tf.Tensor:
    """Share of each bin that is inside: float32 [B * R, S, S]."""
    batch, _, width, planes = tf.unstack(tf.shape(bit_masks))
    bits = planes * BITS_PER_PLANE
    mask = tf.range(batch)[:, tf.newaxis] * bits + tf.clip_by_value(instance, 0, bits - 1)
    y, x = _pixel_taps(boxes, tf.shape(bit_masks), output_size, sampling_ratio)
    mask_of_tap = tf.gather(tf.reshape(mask, [-1]), y.bin // output_size)
    rows, row_of_tap = _unpack_rows(bit_masks, mask_of_tap, y.cell)

    bins = tf.size(mask) * output_size
    index = tf.stack([y.bin, row_of_tap], axis=-1)
    bin_rows = bin_taps.sparse_product(index, y.weight, rows, rows=bins)
    index = tf.stack([x.bin, x.cell], axis=-1)
    columns = tf.scatter_nd(index, x.weight, tf.stack([bins, width]))
    shape = tf.stack([tf.size(mask), output_size, width])
    bin_rows, columns = tf.reshape(bin_rows, shape), tf.reshape(columns, shape)
    return tf.matmul(bin_rows, columns, transpose_b=True)  # [B * R, S, W] x 2 -> [B * R, S, S]


def _shares_portably(
    bit_masks: tf.Tensor,
    boxes: tf.Tensor,
    instance: tf.Tensor,
    output_size: int,
    sampling_ratio: int,
) -> tf.Tensor:
    """The same with the whole mask of every box and two dense products."""
    height, width, planes = bit_masks.shape[1:]
    instance = tf.clip_by_value(instance, 0, planes * BITS_PER_PLANE - 1)
    words = tf.transpose(bit_masks, [0, 3, 1, 2])  # [B, P, H, W]
    words = tf.gather(words, instance // BITS_PER_PLANE, axis=1, batch_dims=1)  # [B, R, H, W]
    bit = (instance % BITS_PER_PLANE)[..., tf.newaxis, tf.newaxis]
    masks = tf.bitwise.bitwise_and(tf.bitwise.right_shift(words, bit), 1)
    masks = tf.reshape(tf.cast(masks, tf.float32), [-1, height, width])
    boxes = tf.reshape(tf.stop_gradient(boxes), [-1, 4]) - 0.5
    y, x = (
        bin_taps.dense_axis_weights(
            boxes[:, i],
            boxes[:, i + 2],
            size=size,
            bins=output_size,
            sampling_ratio=sampling_ratio,
        )
        for i, size in enumerate((height, width))
    )
    return tf.matmul(tf.matmul(y, masks), x, transpose_b=True)


def _pixel_taps(
    boxes: tf.Tensor, shape: tf.Tensor, output_size: int, sampling_ratio: int
) -> List[bin_taps.AxisTaps]:
    """Taps along y and x, the center of the first pixel being at one half."""
    boxes = tf.reshape(tf.stop_gradient(boxes), [-1, 4]) - 0.5
    return [
        bin_taps.axis_taps(
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
    pairs = bin_taps.ragged_ranges(tf.range(masks), first, counts)
    mask_of_row, row_of_image = tf.unstack(pairs, axis=-1)
    words = tf.reshape(tf.transpose(bit_masks, [0, 3, 1, 2]), [-1, width])  # [B * P * H, W]
    words = tf.gather(words, mask_of_row // BITS_PER_PLANE * height + row_of_image)
    bit = (mask_of_row % BITS_PER_PLANE)[:, tf.newaxis]
    unpacked = tf.bitwise.bitwise_and(tf.bitwise.right_shift(words, bit), 1)
    position = tf.gather(tf.cumsum(counts, exclusive=True) - first, mask) + row
    return tf.cast(unpacked, tf.float32), position

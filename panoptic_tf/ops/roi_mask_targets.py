"""The targets of Mask R-CNN's mask head (arXiv:1703.06870): crops of masks that are bits."""

from __future__ import annotations

import tensorflow as tf

from panoptic_tf.ops import bin_weights, chunks, forms
from panoptic_tf.ops.bit_masks import BITS_PER_PLANE

# A share of exactly one half counts as inside, whatever the rounding of its terms.
_HALF = 0.5 - 1e-6
_PIXELS_AT_ONCE = 2**25


def roi_mask_targets(
    bit_masks: tf.Tensor,
    boxes: tf.Tensor,
    instance: tf.Tensor,
    *,
    output_size: int,
    sampling_ratio: int = 0,
) -> tf.Tensor:
    """ROI align of each box's own mask, at least one half.

    Args:
      bit_masks: int32 [B, H, W, P], see `bit_masks.pack_instance_ids`.
      boxes: float32 [B, R, 4].
      instance: integers [B, R], the bit of each box's mask, in [0, 32 * P).
      output_size: S.
      sampling_ratio: samples per bin and axis; 0: the bin's length in pixels, rounded up.

    Returns:
      float32 {0, 1} [B, R, S, S]. No gradient.
    """
    shares = mask_shares(
        bit_masks,
        tf.stop_gradient(boxes) - 0.5,  # the center of the first pixel lies at one half
        tf.clip_by_value(tf.cast(instance, tf.int64), 0, bit_masks.shape[3] * BITS_PER_PLANE - 1),
        output_size=output_size,
        sampling_ratio=sampling_ratio,
    )
    targets = tf.cast(shares >= _HALF, tf.float32)
    shape = tf.shape(boxes)
    targets = tf.reshape(targets, [shape[0], shape[1], output_size, output_size])
    return tf.ensure_shape(targets, [*instance.shape, output_size, output_size])


@forms.op
def mask_shares(
    bit_masks: tf.Tensor,
    boxes: tf.Tensor,
    instance: tf.Tensor,
    *,
    output_size: int,
    sampling_ratio: int,
) -> tf.Tensor:
    """Share of each bin that is inside; the reference multiplies whole masks, a few at a time.

    Args:
      bit_masks: int32 [B, H, W, P], H and W static.
      boxes: float32 [B, R, 4], the center of the first pixel being 0.
      instance: int64 [B, R], in [0, 32 * P).
      output_size: S.
      sampling_ratio: see `roi_mask_targets`.

    Returns:
      float32 [B * R, S, S].
    """
    height, width, planes = bit_masks.shape[1:]
    # As floats: TensorFlow keeps int32 in host memory where it reshapes.
    words = tf.bitcast(tf.transpose(bit_masks, [0, 3, 1, 2]), tf.float32)  # [B, P, H, W]
    words = tf.reshape(words, [-1, height, width])
    image = tf.range(tf.cast(tf.shape(instance)[0], tf.int64))[:, tf.newaxis]
    plane = tf.reshape(image * planes + instance // BITS_PER_PLANE, [-1])
    bit = tf.cast(tf.reshape(instance % BITS_PER_PLANE, [-1]), tf.float32)

    def shares(plane: tf.Tensor, bit: tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:  # n of each
        masks = tf.bitcast(tf.gather(words, plane), tf.int32)  # [n, H, W]
        masks = tf.bitwise.right_shift(masks, tf.cast(bit, tf.int32)[:, tf.newaxis, tf.newaxis])
        masks = tf.cast(tf.bitwise.bitwise_and(masks, 1), tf.float32)
        y, x = (
            _axis_weights(
                boxes[:, i],
                boxes[:, i + 2],
                size=size,
                bins=output_size,
                sampling_ratio=sampling_ratio,
            )
            for i, size in enumerate((height, width))
        )
        # [n, S, H] x [n, H, W] x [n, W, S] -> [n, S, S]
        return tf.matmul(tf.matmul(y, masks), x, transpose_b=True)

    return chunks.map_chunks(
        shares,
        [plane, bit, tf.reshape(boxes, [-1, 4])],
        at_once=max(_PIXELS_AT_ONCE // (height * width), 1),
        dtype=tf.float32,
    )


def _axis_weights(
    start: tf.Tensor, end: tf.Tensor, *, size: int, bins: int, sampling_ratio: int
) -> tf.Tensor:
    """The weights of all cells of an axis: float32 [N, S, size]."""
    sizes = tf.fill(tf.shape(start), size)
    sampled = bin_weights.split(start, end, sizes, bins=bins, sampling_ratio=sampling_ratio)
    cells = tf.range(size, dtype=tf.float32)
    return bin_weights.cell_weights(bin_weights.expand(sampled, 2), cells, sampling_ratio)

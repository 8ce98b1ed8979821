"""Sums of the losses of matched masks.

A mask is the product of a query's embedding and the features of its image. Masks of queries that
are not matched are never made, and those of some segments are in memory at a time. Gradients are
computed along with the losses, so that nothing of a mask is kept.
"""

from __future__ import annotations

from typing import Any, Tuple

import tensorflow as tf

from panoptic_tf.ops import chunks
from panoptic_tf.systems.mask_transformer.criteria import MaskCriterion

# Of one tensor of the masks that are there at a time, or of those of one segment of every image.
_MASK_BYTES = 2**25


def sum_mask_losses(
    embeddings: tf.Tensor,
    features: tf.Tensor,
    valid: tf.Tensor,
    criterion: MaskCriterion,
    *,
    mask_weight: float,
    dice_weight: float,
    mask_bytes: int = _MASK_BYTES,
) -> Tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Mask and dice losses of L predictions, summed over predictions and segments.

    Segments past the last that is valid in any image take no time.

    Args:
      embeddings: float32 [B, L, M, C], of the query of each of M segments.
      features: float32 [B, h, w, C].
      valid: float32 [B, M], 1 on segments that count and 0 on the others.
      criterion: of segments with numbers 1..M.
      mask_weight: factor of the mask losses in the weighted sum.
      dice_weight: likewise.
      mask_bytes: of the masks that are there at a time.

    Returns:
      weighted: float32 [B], mask_weight * mask + dice_weight * dice. The gradient is that of this
        sum alone.
      mask: float32 [B], without a gradient.
      dice: float32 [B], without a gradient.
    """
    rows = tf.shape(valid)[1]
    numbers = tf.range(1.0, tf.cast(rows, tf.float32) + 1.0)  # [M]
    end = tf.cast(tf.reduce_max(valid * numbers), tf.int32)
    numbers = tf.broadcast_to(numbers, tf.shape(valid))
    batch, predictions = tf.shape(embeddings)[0], tf.shape(embeddings)[1]
    height, width, channels = features.shape[1:]
    at_once = tf.maximum(mask_bytes // (4 * criterion.values_per_mask * batch * predictions), 1)
    at_once = -(-rows // -(-rows // at_once))  # as many in each part
    by_segment = tf.transpose(embeddings, [2, 0, 1, 3])  # [M, B, L, C]
    part, count, total = chunks.sizes(by_segment, at_once)
    tables = [chunks.stack(tf.transpose(x), part, count) for x in (numbers, valid)]
    cells = tf.reshape(features, [-1, height * width, channels])

    def losses_of(
        logits: tf.Tensor, numbers: tf.Tensor, valid: tf.Tensor
    ) -> Tuple[tf.Tensor, tf.Tensor]:
        """Sums over segments and predictions, [B] each."""
        losses = criterion.losses(logits, tf.transpose(numbers))
        return tuple(tf.einsum("bsl,sb->b", x, valid) for x in losses)

    @tf.custom_gradient
    def sums(by_segment: tf.Tensor, cells: tf.Tensor) -> Any:
        stacked = chunks.stack(by_segment, part, count)

        def add(
            i: tf.Tensor, sums: Any, of_embeddings: tf.TensorArray, of_cells: tf.Tensor
        ) -> Tuple[Any, ...]:
            embeddings = stacked[i]  # [s, B, L, C]
            logits = tf.einsum("sblc,bnc->bnsl", embeddings, cells)
            with tf.GradientTape() as tape:
                tape.watch(logits)
                maps = tf.reshape(logits, [batch, height, width, part, predictions])
                mask, dice = losses_of(maps, *(table[i] for table in tables))
                weighted = mask_weight * mask + dice_weight * dice
            of_logits = tape.gradient(weighted, logits)
            of_embeddings = of_embeddings.write(i, tf.einsum("bnsl,bnc->sblc", of_logits, cells))
            of_cells += tf.einsum("bnsl,sblc->bnc", of_logits, embeddings)
            sums = tuple(x + y for x, y in zip(sums, (weighted, mask, dice)))
            return i + 1, sums, of_embeddings, of_cells

        nothing = (tf.zeros([batch]),) * 3
        array = tf.TensorArray(tf.float32, count, element_shape=stacked.shape[1:])
        _, sums, of_embeddings, of_cells = tf.while_loop(
            # One at least: an array without any entry has no shape.
            lambda i, *_: (i == 0) | (i * part < end),
            add,
            (tf.constant(0), nothing, array, tf.zeros_like(cells)),
            parallel_iterations=1,
        )
        of_embeddings = tf.reshape(of_embeddings.stack(), [-1, batch, predictions, channels])

        def gradient(upstream: tf.Tensor, *_: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
            of_image = upstream[:, tf.newaxis, tf.newaxis]
            return of_embeddings[:total] * of_image, of_cells * of_image

        return sums, gradient

    weighted, mask, dice = sums(by_segment, cells)
    return weighted, tf.stop_gradient(mask), tf.stop_gradient(dice)

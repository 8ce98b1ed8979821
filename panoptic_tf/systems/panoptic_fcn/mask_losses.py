"""The dice loss of dynamic kernels (arXiv:2012.00720) without all of their masks in memory.

Every kernel of every pair has a mask as large as the encoded feature, together by far the
largest tensor of a training step. Here the masks of a part of the pairs lie in memory at a time,
and none is kept for the gradient, which computes them again.
"""

from __future__ import annotations

from typing import Any, Tuple

import tensorflow as tf

from panoptic_tf.losses.dice import weighted_dice_gradients, weighted_dice_loss
from panoptic_tf.ops import chunks

_LOGIT_BYTES = 2**28


def kernel_losses(
    kernels: tf.Tensor,
    encoded: tf.Tensor,
    masks: tf.Tensor,
    rows: tf.Tensor,
    weights: tf.Tensor,
    *,
    logit_bytes: int = _LOGIT_BYTES,
) -> tf.Tensor:
    """`weighted_dice_loss` of the masks of kernels; see `layers.dynamic_conv`.

    Args:
      kernels: float32 [B, P, k, C], k of each of P pairs.
      encoded: float32 [B, h, w, C].
      masks: float32 [B, m, h, w], 0..1; they get no gradient.
      rows: int32 [B, P], which of the masks is a pair's.
      weights: float32 [B, P, k], shares of the k kernels.
      logit_bytes: of the logits in memory at a time, or those of one pair of every image.

    Returns:
      float32 [B, P].
    """
    batch, cells = tf.shape(encoded)[0], tf.shape(encoded)[1] * tf.shape(encoded)[2]
    at_once = logit_bytes // (4 * kernels.shape[2] * batch * cells)
    part, count, total = chunks.sizes(tf.transpose(rows), at_once)
    encoded = tf.reshape(encoded, [batch, cells, encoded.shape[-1]])
    masks = tf.reshape(masks, [batch, tf.shape(masks)[1], cells])

    def in_parts(*tables: tf.Tensor) -> Tuple[tf.Tensor, ...]:
        return tuple(_split(table, part, count) for table in tables)

    def predict(
        kernels: tf.Tensor, rows: tf.Tensor, encoded: tf.Tensor
    ) -> Tuple[tf.Tensor, tf.Tensor]:
        """Logits [B, p, k, h * w] and targets [B, p, h * w]."""
        logits = tf.einsum("bpkc,bnc->bpkn", kernels, encoded)
        return logits, tf.gather(masks, rows, axis=1, batch_dims=1)

    @tf.custom_gradient
    def losses(kernels: tf.Tensor, weights: tf.Tensor, encoded: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            tables = in_parts(kernels, weights, rows, upstream)

            def add(
                i: tf.Tensor,
                of_encoded: tf.Tensor,
                of_kernels: tf.TensorArray,
                of_weights: tf.TensorArray,
            ) -> Tuple[Any, ...]:
                kernels, weights, rows, upstream = (table[i] for table in tables)
                of_logits, of_part = weighted_dice_gradients(
                    *predict(kernels, rows, encoded), weights, upstream
                )
                return (
                    i + 1,
                    of_encoded + tf.einsum("bpkn,bpkc->bnc", of_logits, kernels),
                    of_kernels.write(i, tf.einsum("bpkn,bnc->bpkc", of_logits, encoded)),
                    of_weights.write(i, of_part),
                )

            arrays = [tf.TensorArray(tf.float32, count, element_shape=x.shape[1:]) for x in tables]
            _, of_encoded, of_kernels, of_weights = tf.while_loop(
                lambda i, *_: i < count,
                add,
                (tf.constant(0), tf.zeros_like(encoded), *arrays[:2]),
                parallel_iterations=1,
            )
            return _join(of_kernels.stack(), total), _join(of_weights.stack(), total), of_encoded

        found = tf.map_fn(
            lambda pairs: weighted_dice_loss(*predict(*pairs[1:], encoded), pairs[0]),
            in_parts(weights, kernels, rows),
            fn_output_signature=tf.float32,
            parallel_iterations=1,
        )
        return _join(found, total), gradient

    return losses(kernels, weights, encoded)


def _split(x: tf.Tensor, part: chunks.Size, count: chunks.Size) -> tf.Tensor:
    """[B, P, ...] -> [count, B, part, ...], filled up with zeros."""
    missing = count * part - tf.shape(x)[1]
    x = tf.pad(x, [[0, 0], [0, missing]] + [[0, 0]] * (x.shape.rank - 2))
    x = tf.reshape(x, [-1, count, part, *x.shape[2:]])
    return tf.transpose(x, [1, 0, *range(2, x.shape.rank)])


def _join(x: tf.Tensor, total: chunks.Size) -> tf.Tensor:
    """[count, B, part, ...] -> [B, P, ...]."""
    x = tf.transpose(x, [1, 0, *range(2, x.shape.rank)])
    shape = tf.shape(x)
    return tf.reshape(x, [shape[0], shape[1] * shape[2], *x.shape[3:]])[:, :total]

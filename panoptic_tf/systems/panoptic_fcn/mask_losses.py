"""The dice loss of dynamic kernels (arXiv:2012.00720) without the masks of all of them in memory.

Of every pair and each of its kernels there is a mask as large as the encoded feature, by far the
largest tensor of a training step. Here the masks of a part of the pairs lie in memory at a time;
none is kept for the gradient, which computes them again.
"""

from __future__ import annotations

from typing import Any, Tuple

import tensorflow as tf

from panoptic_tf.layers.dynamic_conv import mask_logits
from panoptic_tf.losses.dice import weighted_dice_loss
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
    """`weighted_dice_loss` of what `mask_logits` answers.

    Args:
      kernels: float32 [B, P, k, C], k of each of P pairs.
      encoded: float32 [B, h, w, C].
      masks: float32 [B, m, h, w], 0..1; they get no gradient.
      rows: int32 [B, P], which of the masks a pair's is.
      weights: float32 [B, P, k], shares of the k kernels.
      logit_bytes: of the logits that are in memory at a time, if a pair of each image fits.

    Returns:
      float32 [B, P].
    """

    def losses(
        kernels: tf.Tensor, weights: tf.Tensor, rows: tf.Tensor, encoded: tf.Tensor
    ) -> tf.Tensor:
        logits = mask_logits(kernels, encoded)  # [B, p, k, h, w]
        targets = tf.gather(masks, rows, axis=1, batch_dims=1)  # [B, p, h, w]
        return weighted_dice_loss(_flatten(logits), _flatten(targets), weights)

    batch, height, width = (tf.shape(encoded)[i] for i in range(3))
    at_once = logit_bytes // (4 * kernels.shape[2] * batch * height * width)
    part, count, total = chunks.sizes(tf.transpose(rows), at_once)

    @tf.custom_gradient
    def in_parts(kernels: tf.Tensor, weights: tf.Tensor, encoded: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            stacked = [_split(x, part, count) for x in (kernels, weights, rows, upstream)]

            def add(
                i: tf.Tensor, of_encoded: tf.Tensor, *of_pairs: tf.TensorArray
            ) -> Tuple[Any, ...]:
                kernels, weights, rows, upstream = (x[i] for x in stacked)
                watched = [kernels, weights, tf.identity(encoded)]
                with tf.GradientTape() as tape:
                    tape.watch(watched)
                    found = losses(kernels, weights, rows, watched[2])
                *gradients, more = tape.gradient(found, watched, upstream)
                written = (array.write(i, x) for array, x in zip(of_pairs, gradients))
                return i + 1, of_encoded + more, *written

            arrays = [tf.TensorArray(tf.float32, count, element_shape=x.shape[1:]) for x in stacked]
            _, of_encoded, *of_pairs = tf.while_loop(
                lambda i, *_: i < count,
                add,
                (tf.constant(0), tf.zeros_like(encoded), *arrays[:2]),
                parallel_iterations=1,
            )
            of_kernels, of_weights = (_join(array.stack(), total) for array in of_pairs)
            return of_kernels, of_weights, of_encoded

        found = tf.map_fn(
            lambda pairs: losses(*pairs, encoded),
            tuple(_split(x, part, count) for x in (kernels, weights, rows)),
            fn_output_signature=tf.float32,
            parallel_iterations=1,
        )
        return _join(found, total), gradient

    return in_parts(kernels, weights, encoded)


def _flatten(x: tf.Tensor) -> tf.Tensor:
    """[..., h, w] -> [..., h * w]."""
    shape = tf.shape(x)
    return tf.reshape(x, tf.concat([shape[:-2], [shape[-2] * shape[-1]]], axis=0))


def _split(x: tf.Tensor, part: chunks.Size, count: chunks.Size) -> tf.Tensor:
    """[B, P, ...] -> [count, B, part, ...], filled up with zeros."""
    others = [[0, 0]] * (x.shape.rank - 2)
    x = tf.pad(x, [[0, 0], [0, count * part - tf.shape(x)[1]], *others])
    x = tf.reshape(x, [-1, count, part, *x.shape[2:]])
    return tf.transpose(x, [1, 0, *range(2, x.shape.rank)])


def _join(x: tf.Tensor, total: chunks.Size) -> tf.Tensor:
    """[count, B, part, ...] -> [B, P, ...]."""
    shape = tf.shape(x)
    x = tf.transpose(x, [1, 0, *range(2, x.shape.rank)])
    return tf.reshape(x, tf.concat([[shape[1], shape[0] * shape[2]], shape[3:]], axis=0))[:, :total]

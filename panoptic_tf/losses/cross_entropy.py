"""Weighted bootstrapped cross-entropy for semantic segmentation.

Panoptic-DeepLab (arXiv:1911.10194, section 3.3) after DeeperLab (arXiv:1902.05093, equation 1).
"""

from __future__ import annotations

from typing import Callable, Optional, Tuple

import tensorflow as tf

from panoptic_tf.layers.resize import resize_bilinear, spatial_size
from panoptic_tf.ops.recompute import recompute
from panoptic_tf.structures import VOID

_SMALLEST_NORMAL = 2.0**-126


class WeightedBootstrappedCrossEntropy(tf.keras.layers.Layer):
    """L = 1/K * sum over the K hardest pixels of w_i * CE_i, K = floor(fraction * pixels).

    Void pixels cost 0 and stay in the count, as in the reference implementations.
    """

    def __init__(
        self,
        *,
        top_k_fraction: float = 0.2,
        rank_over: str = "image",
        align_corners: bool = False,
        name: str = "bootstrapped_cross_entropy",
    ):
        """See the class.

        Args:
          top_k_fraction: share of the pixels that count, 0..1; 1 is the plain mean.
          rank_over: `image` ranks the pixels of each image (the paper), `batch` those of the whole
            batch of a replica (detectron2).
          align_corners: see `pixel_cross_entropy`.
          name: of the layer.

        Raises:
          ValueError: an argument is out of range.
        """
        super().__init__(name=name, dtype=tf.float32)
        if not 0.0 < top_k_fraction <= 1.0:
            raise ValueError(f"top_k_fraction must be in (0, 1], got {top_k_fraction}.")
        if rank_over not in ("image", "batch"):
            raise ValueError(f"rank_over must be 'image' or 'batch', got {rank_over!r}.")
        self._top_k_fraction = top_k_fraction
        self._rank_over = rank_over
        self._align_corners = align_corners

    def call(
        self,
        logits: tf.Tensor,
        category_mask: tf.Tensor,
        pixel_weights: Optional[tf.Tensor] = None,
    ) -> Tuple[tf.Tensor, tf.Tensor]:
        """Computes the loss.

        Args:
          logits: float32 [B, h, w, N], see `pixel_cross_entropy`.
          category_mask: integers [B, H, W], 0 is void.
          pixel_weights: float32 [B, H, W], or None for 1.

        Returns:
          weighted_sum, normalizer: float32 [B] each.
        """
        losses = pixel_cross_entropy(
            logits, category_mask, align_corners=self._align_corners
        )  # [B, H, W]
        if pixel_weights is not None:
            losses *= pixel_weights
        batch = tf.shape(losses)[0]
        losses = tf.reshape(losses, [batch, -1])  # [B, H * W]
        kept, count = self._hardest(losses, batch)
        return tf.reduce_sum(losses * kept, axis=1), count

    def _hardest(self, losses: tf.Tensor, batch: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
        """How much of each pixel counts, and over how many pixels each image is averaged."""
        pixels = tf.shape(losses)[1]
        if self._top_k_fraction == 1.0:
            return tf.ones_like(losses), tf.fill([batch], tf.cast(pixels, tf.float32))
        if self._rank_over == "image":
            k = self._count(pixels)
            count = tf.fill([batch], tf.cast(k, tf.float32))
            return largest_mask(tf.stop_gradient(losses), k), count
        k = self._count(batch * pixels)
        mask = largest_mask(tf.stop_gradient(tf.reshape(losses, [1, -1])), k)
        count = tf.fill([batch], tf.cast(k, tf.float32) / tf.cast(batch, tf.float32))
        return tf.reshape(mask, tf.shape(losses)), count

    def _count(self, pixels: tf.Tensor) -> tf.Tensor:
        k = tf.cast(tf.floor(self._top_k_fraction * tf.cast(pixels, tf.float64)), tf.int32)
        return tf.maximum(k, 1)


def pixel_cross_entropy(
    logits: tf.Tensor, category_mask: tf.Tensor, *, align_corners: bool = False
) -> tf.Tensor:
    """Cross-entropy of every pixel, 0 on void: float32 [B, H, W].

    The gradient keeps the logits as they come: a probability of each category at each pixel would
    be the largest tensor of a step.

    Args:
      logits: any float dtype [B, h, w, N], channel c is category c + 1; resized to [B, H, W, N].
      category_mask: integers [B, H, W], 0 is void.
      align_corners: how the logits are resized; see `resize_bilinear`.
    """
    category_mask = tf.convert_to_tensor(category_mask)
    size = spatial_size(category_mask)

    def losses_of(logits: tf.Tensor) -> tf.Tensor:
        x = resize_bilinear(tf.cast(logits, tf.float32), size, align_corners=align_corners)
        # TensorFlow computes int32 on the host.
        return _cross_entropy(x, tf.cast(category_mask, tf.int64))

    return recompute(losses_of, tf.convert_to_tensor(logits))


def _cross_entropy(logits: tf.Tensor, categories: tf.Tensor) -> tf.Tensor:
    """Float32 [B, H, W, N], int64 [B, H, W] -> float32 [B, H, W]."""

    # What TensorFlow's own operator computes, in fewer passes over memory.
    @tf.custom_gradient
    def cross_entropy(x: tf.Tensor) -> Tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        probabilities = tf.nn.softmax(x)
        own = tf.gather(x, tf.maximum(categories - 1, 0), axis=3, batch_dims=3)  # [B, H, W]
        # -log p[own] by way of the largest p, which cannot be too small for a logarithm.
        losses = tf.reduce_max(x, axis=-1) - own
        losses -= tf.math.log(tf.reduce_max(probabilities, axis=-1))

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            upstream = tf.where(categories == VOID, 0.0, upstream)[..., tf.newaxis]
            # The labels are there when the step begins: without this, so would be their one-hot
            # form, which is as large as the logits.
            with tf.control_dependencies([upstream]):
                one_hot = tf.one_hot(categories - 1, tf.shape(x)[3])
            return (probabilities - one_hot) * upstream

        return tf.where(categories == VOID, 0.0, losses), gradient

    return cross_entropy(logits)


def largest_mask(values: tf.Tensor, k: tf.Tensor) -> tf.Tensor:
    """Marks the k largest values of each row; values equal to the k-th share what is left.

    The order of non-negative floats is that of their bits read as integers, so the k-th largest is
    found bit by bit in 31 vectorised passes: no sort, and the same on every device.

    Args:
      values: float32 [B, P], not negative and not denormal. They are counted as float32: exact up
        to P = 2^24.
      k: int32 [], 1..P.

    Returns:
      float32 [B, P] in 0..1; each row sums to k.
    """
    values = tf.maximum(values, 0.0)

    def is_enough(bits: tf.Tensor) -> tf.Tensor:
        """Whether k values of a row are at least the float of these bits, bool [B, 1]."""
        count = tf.cast(values >= _float_of(bits), tf.float32)
        return tf.reduce_sum(count, axis=1, keepdims=True) >= tf.cast(k, tf.float32)

    def try_bit(bit: tf.Tensor, kth: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
        higher = kth + tf.bitwise.left_shift(tf.constant(1, tf.int64), tf.cast(bit, tf.int64))
        return bit - 1, tf.where(is_enough(higher), higher, kth)

    nothing = tf.zeros([tf.shape(values)[0], 1], tf.int64)
    _, kth = tf.while_loop(lambda bit, kth: bit >= 0, try_bit, (30, nothing))
    kth = _float_of(kth)
    # Where the device takes denormals for 0, the largest of them is what is found for 0.
    kth = tf.where(kth < _SMALLEST_NORMAL, 0.0, kth)
    above = tf.cast(values > kth, tf.float32)
    equal = tf.cast(tf.equal(values, kth), tf.float32)
    left = tf.cast(k, tf.float32) - tf.reduce_sum(above, axis=1, keepdims=True)
    return above + equal * left / tf.reduce_sum(equal, axis=1, keepdims=True)


def _float_of(bits: tf.Tensor) -> tf.Tensor:
    return tf.bitcast(tf.cast(bits, tf.int32), tf.float32)

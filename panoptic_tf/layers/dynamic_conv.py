"""Dynamic 1x1 convolution: every kernel, predicted from the image itself, gives one mask."""

from __future__ import annotations

import tensorflow as tf


def mask_logits(kernels: tf.Tensor, encoded: tf.Tensor) -> tf.Tensor:
    """Convolves a feature map with kernels of its own image, as one matrix product.

    Panoptic FCN, arXiv:2012.00720, section 3.3: P_j = K_j (x) E. No bias.

    Args:
      kernels: float32 [B, ..., C].
      encoded: float32 [B, h, w, C].

    Returns:
      float32 [B, ..., h, w].
    """
    batch, height, width, channels = _sizes(encoded)
    between = _sizes(kernels)[1:-1]
    kernels = tf.reshape(kernels, [batch, -1, channels])
    encoded = tf.reshape(encoded, [batch, -1, channels])
    # [B, K, C] x [B, h * w, C] -> [B, K, h * w]
    logits = tf.matmul(kernels, encoded, transpose_b=True)
    return tf.reshape(logits, [batch, *between, height, width])


def _sizes(x: tf.Tensor) -> list:
    """Every dimension as an integer where it is static, else as a tensor."""
    dynamic = tf.shape(x)
    return [dynamic[i] if size is None else size for i, size in enumerate(x.shape)]

"""Bilinear resizing with half-pixel centers: pixel i reads at (i + 0.5) * in / out - 0.5.

With aligned corners, as some published weights want it, it reads at i * (in - 1) / (out - 1).
"""

from __future__ import annotations

from typing import Sequence, Tuple, Union

import tensorflow as tf

Size = Union[tf.Tensor, Sequence[int]]


def spatial_size(x: tf.Tensor) -> Union[tf.Tensor, Tuple[int, int]]:
    """(height, width) of [B, H, W, C]: plain integers where static, else a tensor."""
    height, width = x.shape[1], x.shape[2]
    if height is None or width is None:
        return tf.shape(x)[1:3]
    return height, width


def resize_bilinear(x: tf.Tensor, size: Size, *, align_corners: bool = False) -> tf.Tensor:
    """Resizes [B, H, W, C] to [B, *size, C], in float32 within, in the dtype that came without.

    Args:
      x: any float dtype.
      size: (height, width).
      align_corners: see above.
    """
    pixels = tf.cast(x, tf.float32)
    if align_corners:
        resized = tf.raw_ops.ResizeBilinear(images=pixels, size=size, align_corners=True)
    else:
        resized = tf.image.resize(pixels, size, method="bilinear", antialias=False)
    return tf.cast(resized, x.dtype)


def repeat_like(x: tf.Tensor, reference: tf.Tensor, factor: int) -> tf.Tensor:
    """Repeats every cell of [B, h, w, C] factor x factor times, cut to the reference's size."""
    repeated = tf.repeat(tf.repeat(x, factor, axis=1), factor, axis=2)
    height, width = spatial_size(reference)
    return repeated[:, :height, :width]


def upsample_like(x: tf.Tensor, reference: tf.Tensor, *, align_corners: bool = False) -> tf.Tensor:
    """Resizes [B, h, w, C] bilinearly to the height and width of [B, H, W, D]."""
    return resize_bilinear(x, spatial_size(reference), align_corners=align_corners)

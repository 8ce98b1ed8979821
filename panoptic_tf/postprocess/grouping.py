"""Class-agnostic grouping of pixels around centers (arXiv:1911.10194, section 3.2)."""

from __future__ import annotations

from typing import NamedTuple, Optional

import tensorflow as tf

from panoptic_tf.ops.nearest_center import nearest_center


class Centers(NamedTuple):
    """K candidates per image, valid ones first, in raster order.

    Attributes:
      positions: float32 [B, K, 2], (y, x).
      scores: float32 [B, K], heat at the center, 0 where not valid.
      valid: bool [B, K].
    """

    positions: tf.Tensor
    scores: tf.Tensor
    valid: tf.Tensor


def find_centers(heatmap: tf.Tensor, *, threshold: float, nms_kernel: int, top_k: int) -> Centers:
    """Local maxima of the center heatmap.

    A pixel is a center if its heat is above the threshold, the largest in a window around it (all
    of an equal plateau survive), and above the top_k-th of those (strictly, as in the reference, so
    that at most top_k - 1 remain where there are more).

    Args:
      heatmap: float32 [B, H, W].
      threshold: smallest heat, not itself included.
      nms_kernel: odd window size.
      top_k: static; K is that, or the number of pixels if there are fewer.

    Returns:
      `Centers`.
    """
    height, width = heatmap.shape[1], heatmap.shape[2]
    heat = tf.where(heatmap > threshold, heatmap, -1.0)
    pooled = _largest_around(_largest_around(heat, nms_kernel, axis=1), nms_kernel, axis=2)
    peaks = tf.reshape(tf.where(tf.equal(heat, pooled), heat, -1.0), [-1, height * width])
    scores, index = tf.math.top_k(peaks, k=min(top_k, height * width))  # [B, K]
    kth = scores[:, -1:] if top_k <= height * width else 0.0
    valid = scores > tf.maximum(kth, 0.0)
    raster = tf.sort(tf.where(valid, index, height * width), axis=1)
    valid = raster < height * width
    raster = tf.where(valid, raster, 0)
    scores = tf.where(valid, tf.gather(peaks, raster, axis=1, batch_dims=1), 0.0)
    positions = tf.stack([raster // width, raster % width], axis=-1)
    return Centers(tf.cast(positions, tf.float32), scores, valid)


def group_pixels(
    offsets: tf.Tensor, centers: Centers, where: Optional[tf.Tensor] = None
) -> tf.Tensor:
    """Gives every pixel the center nearest to where its offset points.

    Args:
      offsets: float32 [B, H, W, 2], (y, x), pixels.
      centers: K candidates.
      where: bool [B, H, W], the pixels that count, or None: all.

    Returns:
      float32 [B, H, W], 1..K, anything at pixels that do not count; 0 everywhere in an image
      without a center.
    """
    rows, columns = (tf.range(length, dtype=tf.float32) for length in offsets.shape[1:3])
    points = tf.stack([offsets[..., 0] + rows[:, tf.newaxis], offsets[..., 1] + columns], axis=-1)
    return nearest_center(points, centers.positions, centers.valid, where)


def _largest_around(x: tf.Tensor, window: int, *, axis: int) -> tf.Tensor:
    """The largest of the odd window around each value of [B, H, W] along an axis.

    Windows of twice the width are the larger of two; that takes a few passes where pooling takes
    one for each value of the window.
    """
    length = x.shape[axis]
    reach = min(window // 2, length - 1)
    window = 2 * reach + 1
    margins = [[0, 0], [0, 0], [0, 0]]
    margins[axis] = [reach, reach]
    largest = tf.pad(x, margins, constant_values=float("-inf"))

    def take(values: tf.Tensor, start: int, count: int) -> tf.Tensor:
        return (
            values[:, start : start + count] if axis == 1 else values[:, :, start : start + count]
        )

    covered = 1
    while covered < window:
        step = min(covered, window - covered)
        count = largest.shape[axis] - step
        largest = tf.maximum(take(largest, 0, count), take(largest, step, count))
        covered += step
    return largest

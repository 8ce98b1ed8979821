"""Class-agnostic grouping of pixels around centers (arXiv:1911.10194, section 3.2)."""

from __future__ import annotations

from typing import NamedTuple, Optional

import tensorflow as tf

from panoptic_tf.layers import operators
from panoptic_tf.postprocess import nearest_center

_FAR = 1e6
_DISTANCES_AT_ONCE = 2**22


class Centers(NamedTuple):
    """K candidates per image in raster order.

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

    Distances are taken a few pixels at a time, so that memory stays bounded whatever the size.

    Args:
      offsets: float32 [B, H, W, 2], (y, x), pixels.
      centers: K candidates.
      where: bool [B, H, W], the pixels that count, or None: all.

    Returns:
      int32 [B, H, W], 1..K, anything at pixels that do not count; 0 everywhere in an image without
      a center.
    """
    height, width = offsets.shape[1], offsets.shape[2]
    positions = tf.where(centers.valid[..., tf.newaxis], centers.positions, _FAR)
    grid = tf.stack(tf.meshgrid(tf.range(height), tf.range(width), indexing="ij"), axis=-1)
    votes = offsets + tf.cast(grid, tf.float32)[tf.newaxis]  # [B, H, W, 2]
    if operators.needs_static_shapes():
        grouped = _compare_all(votes, positions)
    else:
        most = tf.maximum(tf.reduce_sum(tf.cast(centers.valid, tf.int32), axis=1), 1)
        grouped = _compare_near(votes, positions[:, : tf.reduce_max(most)], where)
    has_center = tf.reduce_any(centers.valid, axis=1)
    return tf.where(has_center[:, tf.newaxis, tf.newaxis], grouped, 0)


def _compare_near(votes: tf.Tensor, positions: tf.Tensor, where: Optional[tf.Tensor]) -> tf.Tensor:
    """The center nearest to each vote: int32 [B, H, W], 1..K."""
    _, height, width, _ = votes.shape
    points = tf.reshape(votes, [-1, 2])
    pixels = tf.range(tf.shape(points)[0])
    if where is not None:
        pixels = tf.cast(tf.where(tf.reshape(where, [-1]))[:, 0], tf.int32)
    nearest = nearest_center.find_nearest(
        tf.gather(points, pixels),
        pixels // (height * width),
        positions,
        size=(height, width),
        values_at_once=_DISTANCES_AT_ONCE,
    )
    grouped = tf.scatter_nd(pixels[:, tf.newaxis], nearest + 1, tf.shape(points)[:1])
    return tf.reshape(grouped, [-1, height, width])


def _compare_all(votes: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
    """The same of every pixel, from static shapes."""
    _, height, width, _ = votes.shape
    rows = _rows_at_once(height, _DISTANCES_AT_ONCE // (width * positions.shape[1]))

    def nearest(block: tf.Tensor) -> tf.Tensor:  # [B, rows, W, 2] -> [B, rows, W]
        y = block[..., 0:1] - positions[:, tf.newaxis, tf.newaxis, :, 0]  # [B, rows, W, K]
        x = block[..., 1:2] - positions[:, tf.newaxis, tf.newaxis, :, 1]
        return tf.argmin(y * y + x * x, axis=-1, output_type=tf.int32) + 1

    if rows == height:
        return nearest(votes)
    blocks = tf.reshape(votes, [-1, height // rows, rows, width, 2])
    blocks = tf.transpose(blocks, [1, 0, 2, 3, 4])
    grouped = tf.map_fn(nearest, blocks, fn_output_signature=tf.int32, parallel_iterations=1)
    grouped = tf.transpose(grouped, [1, 0, 2, 3])  # [B, blocks, rows, W]
    return tf.reshape(grouped, [-1, height, width])


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


def _rows_at_once(height: int, most: int) -> int:
    """Largest divisor of the height that is at most `most`."""
    return max(rows for rows in range(1, height + 1) if height % rows == 0 and rows <= max(most, 1))

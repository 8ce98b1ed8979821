"""Losses on some points of a mask: bilinear samples, and points near its border.

PointRend (arXiv:1912.08193, section 3.1), as Mask2Former trains with it (arXiv:2112.01527, section
3.3). The points of an image are shared by its masks, so that cells are looked up once for all.
Points are (y, x) in 0..1 of a map of any size; its cells are read at their centers, and what is
outside the map is 0.
"""

from __future__ import annotations

from typing import List, NamedTuple

import tensorflow as tf

from panoptic_tf.losses.cross_entropy import largest_mask
from panoptic_tf.ops.deformable_conv2d import Corner, find_corners


class SegmentSamples(NamedTuple):
    """What the four pixels around each point belong to.

    Attributes:
      numbers: float32 [B, 4, P], whole numbers of segments.
      weights: float32 [B, 4, P], bilinear; 0 outside the map.
    """

    numbers: tf.Tensor
    weights: tf.Tensor

    def masks(self, numbers: tf.Tensor) -> tf.Tensor:
        """Samples of the binary masks of some segments: float32 [B, s] -> [B, s, P], 0..1."""
        shares = [
            tf.where(numbers[..., tf.newaxis] == own[:, tf.newaxis], weight[:, tf.newaxis], 0.0)
            for own, weight in zip(
                tf.unstack(self.numbers, axis=1), tf.unstack(self.weights, axis=1)
            )
        ]
        return tf.add_n(shares)


def draw_points(seeds: tf.Tensor, count: int) -> tf.Tensor:
    """Uniform points, float32 [B, count, 2], those of an image from its seed, int [B, 2]."""
    return tf.map_fn(
        lambda seed: tf.random.stateless_uniform([count, 2], seed),
        seeds,
        fn_output_signature=tf.TensorSpec([count, 2], tf.float32),
    )


def sample(maps: tf.Tensor, points: tf.Tensor) -> tf.Tensor:
    """Bilinear samples of all channels of maps at the points of their image.

    Args:
      maps: float32 [B, h, w, C].
      points: float32 [B, P, 2]; they get no gradient.

    Returns:
      float32 [B, P, C].
    """
    shape = tf.shape(maps)
    cells = tf.reshape(maps, [-1, maps.shape[-1] or shape[-1]])  # [B * h * w, C]
    samples = [
        weight[..., tf.newaxis] * tf.gather(cells, index)
        for index, weight in _corners(points, shape[1], shape[2])
    ]
    return tf.add_n(samples)


def sample_segments(segment_map: tf.Tensor, points: tf.Tensor) -> SegmentSamples:
    """Looks up segments around points, for samples of their masks.

    Args:
      segment_map: of any dtype [B, H, W], numbers of segments below 2^24.
      points: float32 [B, P, 2].
    """
    shape = tf.shape(segment_map)
    # TensorFlow computes int32 on the host.
    pixels = tf.reshape(tf.cast(segment_map, tf.float32), [-1])
    corners = _corners(points, shape[1], shape[2])
    return SegmentSamples(
        numbers=tf.stack([tf.gather(pixels, corner.index) for corner in corners], axis=1),
        weights=tf.stack([corner.weight for corner in corners], axis=1),
    )


def choose_uncertain(logits: tf.Tensor, count: int) -> tf.Tensor:
    """Marks the points of each mask whose logits are nearest to 0.

    Args:
      logits: float32 [..., P].
      count: how many of them, static.

    Returns:
      float32 [..., P], 1 on those and 0 on the others; points that are equally far from 0 share
      what is left. Without a gradient.
    """
    others = logits.shape[-1] - count
    if others <= 0:
        return tf.ones_like(logits)
    distances = tf.reshape(tf.abs(tf.stop_gradient(logits)), [-1, logits.shape[-1]])
    return 1.0 - tf.reshape(largest_mask(distances, tf.constant(others)), tf.shape(logits))


def _corners(points: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> List[Corner]:
    """Cells of all images' maps, one after the other, around points: four of [B, P]."""
    y, x = tf.unstack(tf.stop_gradient(points), axis=-1)
    y = y * tf.cast(height, tf.float32) - 0.5
    x = x * tf.cast(width, tf.float32) - 0.5

    def in_batch(corner: Corner) -> Corner:
        images = tf.range(tf.shape(points, corner.index.dtype)[0])
        first = images * tf.cast(height * width, corner.index.dtype)
        return Corner(corner.index + first[:, tf.newaxis], corner.weight)

    return [in_batch(corner) for corner in find_corners(y, x, height, width)]

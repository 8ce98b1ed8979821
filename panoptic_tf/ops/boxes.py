"""Boxes and their deltas from anchors or proposals: pure functions.

Boxes are float32 [..., 4] = [ymin, xmin, ymax, xmax] in pixels, far edges exclusive. Deltas are
(dy, dx, dh, dw) of the parametrisation of R-CNN (arXiv:1311.2524, appendix C), times weights:

    dy = wy * (center_y - anchor_center_y) / anchor_height,   dh = wh * log(height / anchor_height)
"""

from __future__ import annotations

import math
from typing import Sequence

import tensorflow as tf

_MAX_LOG_SCALE = math.log(1000.0 / 16)
_SMALLEST_SIZE = 1e-6


def box_areas(boxes: tf.Tensor) -> tf.Tensor:
    """Areas in square pixels: [..., 4] -> [...]."""
    sizes = boxes[..., 2:] - boxes[..., :2]
    return sizes[..., 0] * sizes[..., 1]


def valid_boxes(boxes: tf.Tensor) -> tf.Tensor:
    """Whether height and width are positive (false for NaN): [..., 4] -> bool [...]."""
    return tf.reduce_all(boxes[..., 2:] > boxes[..., :2], axis=-1)


def finite_boxes(boxes: tf.Tensor) -> tf.Tensor:
    """Whether no coordinate is NaN or infinite: [..., 4] -> bool [...]."""
    return tf.reduce_all(tf.abs(boxes) < tf.float32.max, axis=-1)


def pairwise_iou(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Intersection over union of every box of one set with every box of another.

    Args:
      a: float32 [..., N, 4].
      b: float32 [..., M, 4], of the same leading axes; M may be 0.

    Returns:
      float32 [..., N, M]; 0 where the boxes do not meet or one of them has no area.
    """
    ymin, xmin, ymax, xmax = (x[..., tf.newaxis] for x in tf.unstack(a, axis=-1))  # [..., N, 1]
    top, left, bottom, right = (x[..., tf.newaxis, :] for x in tf.unstack(b, axis=-1))
    height = tf.nn.relu(tf.minimum(ymax, bottom) - tf.maximum(ymin, top))  # [..., N, M]
    width = tf.nn.relu(tf.minimum(xmax, right) - tf.maximum(xmin, left))
    intersection = height * width
    union = box_areas(a)[..., tf.newaxis] + box_areas(b)[..., tf.newaxis, :] - intersection
    return tf.math.divide_no_nan(intersection, union)


def encode_boxes(boxes: tf.Tensor, anchors: tf.Tensor, *, weights: Sequence[float]) -> tf.Tensor:
    """Deltas that `decode_boxes` turns back into the boxes.

    Sizes below 1e-6 pixels count as 1e-6, so that a padded box gives finite deltas.

    Args:
      boxes: float32 [..., 4].
      anchors: float32 [..., 4], broadcast against the boxes.
      weights: (wy, wx, wh, ww).

    Returns:
      float32 [..., 4].
    """
    centers, sizes = _centers_and_sizes(boxes)
    anchor_centers, anchor_sizes = _centers_and_sizes(anchors)
    sizes = tf.maximum(sizes, _SMALLEST_SIZE)
    anchor_sizes = tf.maximum(anchor_sizes, _SMALLEST_SIZE)
    shifts = (centers - anchor_centers) / anchor_sizes
    scales = tf.math.log(sizes / anchor_sizes)
    return tf.concat([shifts, scales], axis=-1) * tf.constant(weights, tf.float32)


def decode_boxes(deltas: tf.Tensor, anchors: tf.Tensor, *, weights: Sequence[float]) -> tf.Tensor:
    """Moves and scales anchors by deltas; dh and dw are at most log(1000 / 16).

    Args:
      deltas: float32 [..., 4].
      anchors: float32 [..., 4], broadcast against the deltas: [..., N, 1, 4] for deltas of every
        category [..., N, T, 4].
      weights: (wy, wx, wh, ww).

    Returns:
      float32 [..., 4], not clipped; NaN or infinite where the deltas say so.
    """
    deltas = deltas / tf.constant(weights, tf.float32)
    anchor_centers, anchor_sizes = _centers_and_sizes(anchors)
    centers = deltas[..., :2] * anchor_sizes + anchor_centers
    half = 0.5 * tf.exp(_at_most(deltas[..., 2:], _MAX_LOG_SCALE)) * anchor_sizes
    return tf.concat([centers - half, centers + half], axis=-1)


def clip_boxes(boxes: tf.Tensor, image_size: tf.Tensor) -> tf.Tensor:
    """Moves coordinates outside the image to its edge.

    Args:
      boxes: float32 [B, ..., 4], finite.
      image_size: float32 [B, 2], (height, width) in pixels.

    Returns:
      float32 [B, ..., 4].
    """
    limits = tf.concat([image_size, image_size], axis=-1)  # [B, 4]
    limits = tf.reshape(limits, [-1] + [1] * (boxes.shape.rank - 2) + [4])
    return tf.minimum(tf.maximum(boxes, 0.0), limits)


def _centers_and_sizes(boxes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(y, x) of centers and (height, width): float32 [..., 2] each."""
    sizes = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * sizes, sizes


def _at_most(x: tf.Tensor, limit: float) -> tf.Tensor:
    """`minimum` that keeps NaN on every device."""
    return tf.where(x > limit, limit, x)


def centered_inside(boxes: tf.Tensor, image_size: tf.Tensor) -> tf.Tensor:
    """Whether the center of a box lies in the image: bool [..., N].

    Args:
      boxes: float32 [N, 4].
      image_size: float32 [..., 2], (height, width).
    """
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2.0  # [N, 2]
    return tf.reduce_all(centers < image_size[..., tf.newaxis, :], axis=-1)

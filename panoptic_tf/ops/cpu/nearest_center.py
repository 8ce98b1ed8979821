"""Which of K centers is nearest to each of many points, without K distances for each.

The image is cut into squares. From the middle of a square the distances to its nearest centers are
known; a center that is farther by more than the diagonal of the square than the nearest is the
nearest to no point in it. Most squares have one center left, most others a few.
"""

from __future__ import annotations

import math
from typing import Callable, Optional, Tuple

import tensorflow as tf

from panoptic_tf.ops import chunks, forms
from panoptic_tf.ops import nearest_center as reference

Size = Tuple[int, int]

_SQUARE = 8
_DIAGONAL = _SQUARE * math.sqrt(2.0) + 0.01  # rounding of positions below 2^16
_FEW = 8
_DISTANCES_AT_ONCE = 2**22


@forms.register(reference.nearest_center, forms.Form.CPU)
def nearest_center(
    points: tf.Tensor,
    centers: tf.Tensor,
    valid: tf.Tensor,
    where: Optional[tf.Tensor] = None,
) -> tf.Tensor:
    """See the reference; of the points that count and the centers that are valid in any image."""
    _, height, width, _ = points.shape
    most = tf.maximum(tf.reduce_max(tf.reduce_sum(tf.cast(valid, tf.int32), axis=1)), 1)
    centers = tf.where(valid[..., tf.newaxis], centers, reference.FAR)[:, :most]
    points = tf.reshape(points, [-1, 2])
    pixels = tf.range(tf.shape(points)[0])
    if where is not None:
        pixels = tf.cast(tf.where(tf.reshape(where, [-1]))[:, 0], tf.int32)
    image = pixels // (height * width)
    nearest = _find_nearest(tf.gather(points, pixels), image, centers, size=(height, width))
    number = tf.where(tf.gather(valid[:, 0], image), nearest + 1, 0)
    number = tf.scatter_nd(pixels[:, tf.newaxis], number, tf.shape(points)[:1])
    return tf.cast(tf.reshape(number, [-1, height, width]), tf.float32)


def _find_nearest(
    points: tf.Tensor, image: tf.Tensor, centers: tf.Tensor, *, size: Size
) -> tf.Tensor:
    """The center nearest to each point, the first of equals.

    Args:
      points: float32 [M, 2], (y, x), anywhere; fastest where they lie in the image.
      image: int32 [M], of the batch.
      centers: float32 [B, K, 2], K dynamic, at least 1; one that is far away is none.
      size: static (height, width) of the images.

    Returns:
      int32 [M], 0..K - 1.
    """
    shape = (-(-size[0] // _SQUARE), -(-size[1] // _SQUARE))
    few, is_one, is_few = _near_squares(centers, shape)
    cell = tf.cast(tf.floor(points / _SQUARE), tf.int32)
    limit = tf.constant(shape)
    is_inside = tf.reduce_all(tf.logical_and(cell >= 0, cell < limit), axis=1)
    cell = tf.clip_by_value(cell, 0, limit - 1)
    square = (image * shape[0] + cell[:, 0]) * shape[1] + cell[:, 1]
    found = tf.gather(few[:, 0], square)

    def refine(
        found: tf.Tensor, wanted: tf.Tensor, width: tf.Tensor, compare: Callable[..., tf.Tensor]
    ) -> tf.Tensor:
        index = tf.where(wanted)[:, 0]
        arrays = [tf.gather(array, index) for array in (points, image, square)]
        nearest = chunks.map_chunks(
            compare, arrays, at_once=_DISTANCES_AT_ONCE // width, dtype=tf.int32
        )
        return tf.tensor_scatter_nd_update(found, index[:, tf.newaxis], nearest)

    def of_few(points: tf.Tensor, image: tf.Tensor, square: tf.Tensor) -> tf.Tensor:
        rows = tf.gather(few, square)  # [m, k]
        positions = tf.gather(
            tf.reshape(centers, [-1, 2]), rows + image[:, tf.newaxis] * tf.shape(centers)[1]
        )
        best = _argmin(points[:, tf.newaxis] - positions)
        return tf.gather(rows, best[:, tf.newaxis], axis=1, batch_dims=1)[:, 0]

    def of_all(points: tf.Tensor, image: tf.Tensor, square: tf.Tensor) -> tf.Tensor:
        del square
        return _argmin(points[:, tf.newaxis] - tf.gather(centers, image))

    is_one = tf.logical_and(is_inside, tf.gather(is_one, square))
    is_few = tf.logical_and(is_inside, tf.gather(is_few, square))
    found = refine(found, tf.logical_and(is_few, tf.logical_not(is_one)), tf.shape(few)[1], of_few)
    return refine(found, tf.logical_not(is_few), tf.shape(centers)[1], of_all)


def _near_squares(centers: tf.Tensor, shape: Size) -> Tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The centers near each square.

    Args:
      centers: float32 [B, K, 2].
      shape: (rows, columns) of squares.

    Returns:
      few: int32 [B * rows * columns, k], rising, k at most `_FEW`; the nearest first where it is
        the only one.
      is_one: bool [B * rows * columns], no other can be the nearest.
      is_few: bool [B * rows * columns], none but `few` can be the nearest.
    """
    rows, columns = ((tf.range(count, dtype=tf.float32) + 0.5) * _SQUARE for count in shape)
    y = (rows[tf.newaxis, :, tf.newaxis] - centers[:, tf.newaxis, :, 0]) ** 2  # [B, rows, K]
    x = (columns[tf.newaxis, :, tf.newaxis] - centers[:, tf.newaxis, :, 1]) ** 2
    # [B, rows, columns, K], the only array of which no part at a time is made.
    squares = y[:, :, tf.newaxis] + x[:, tf.newaxis]
    count = tf.shape(centers)[1]
    squares = tf.reshape(squares, [-1, count])
    near, few = tf.math.top_k(-squares, k=tf.minimum(count, _FEW + 1))
    near = tf.sqrt(-near)
    is_far = near - near[:, :1] > _DIAGONAL  # rising: False..., True...
    is_one = tf.reduce_all(is_far[:, 1:], axis=1)
    is_few = tf.logical_or(is_far[:, -1], count <= _FEW)
    few = tf.where(is_one[:, tf.newaxis], few[:, :1], tf.sort(few[:, :_FEW], axis=1))
    return few, is_one, is_few


def _argmin(differences: tf.Tensor) -> tf.Tensor:
    """[M, K, 2] -> int32 [M], the first of the shortest."""
    squares = tf.square(differences[..., 0]) + tf.square(differences[..., 1])
    return tf.math.top_k(-squares, k=1).indices[:, 0]

"""What lies where on the pyramid's levels (Panoptic FCN, arXiv:2012.00720).

A level of h x w cells divides the frame of H x W pixels evenly: cell i begins at pixel i * H / h,
also where H is no multiple of the level's stride, as in recorded outputs of the authors'
implementation.
"""

from __future__ import annotations

from typing import Tuple

import numpy as np
import tensorflow as tf

from panoptic_tf.layers import resize

Size = Tuple[int, int]

_QUARTER = 0.25
_STUFF_POOLINGS = ("map", "region")


def check_stuff_pooling(stuff_pooling: str) -> None:
    """Refuses what `KernelSampler` and `KernelSelector` do not know.

    Raises:
      ValueError: an unknown pooling.
    """
    if stuff_pooling not in _STUFF_POOLINGS:
        raise ValueError(
            f"task.model.stuff_pooling must be one of {', '.join(_STUFF_POOLINGS)}, got "
            f"{stuff_pooling!r}."
        )


def level_size(network_size: Size, level: str) -> Size:
    """Cells of a level, (height, width): each level halves the one below and rounds up.

    Args:
      network_size: pixels, (height, width).
      level: base-2 logarithm of the stride.
    """
    stride = 2 ** int(level)
    return -(-network_size[0] // stride), -(-network_size[1] // stride)


def valid_cells(image_size: tf.Tensor, *, level_size: Size, network_size: Size) -> tf.Tensor:
    """Where a level shows the image and not the frame's padding.

    Args:
      image_size: int32 or float32 [..., 2], the part of the frame that the image fills.
      level_size: (h, w).
      network_size: pixels of the frame, (H, W).

    Returns:
      float32 [..., h, w], 1 where the first pixel of a cell lies in the image: at least one cell.
    """
    size = tf.cast(image_size, tf.float32)
    rows, columns = (
        np.arange(cells, dtype=np.float32) * pixels / cells
        for cells, pixels in zip(level_size, network_size)
    )
    inside_rows = tf.cast(rows < size[..., :1], tf.float32)  # [..., h]
    inside_columns = tf.cast(columns < size[..., 1:], tf.float32)  # [..., w]
    return inside_rows[..., :, tf.newaxis] * inside_columns[..., tf.newaxis, :]


def level_shares(shares: tf.Tensor, *, level_size: Size) -> tf.Tensor:
    """Masks at the size of a level, bilinear between the nearest four cells.

    Args:
      shares: float32 [..., h4, w4, N], 0..1, or uint8, 0..4: quarters.
      level_size: (h, w).

    Returns:
      float32 [..., h, w, N], 0..1.
    """
    static = shares.shape
    around = tf.shape(shares)
    maps = tf.reshape(shares, tf.concat([[-1], around[-3:]], axis=0))
    maps = tf.ensure_shape(maps, [None, *static[-3:]])
    if shares.dtype == tf.uint8:  # the resize reads integers and returns float32
        maps = tf.image.resize(maps, level_size, method="bilinear") * _QUARTER
    else:
        maps = resize.resize_bilinear(maps, level_size)
    maps = tf.reshape(maps, tf.concat([around[:-3], level_size, around[-1:]], axis=0))
    return tf.ensure_shape(maps, [*static[:-3], *level_size, static[-1]])


def stuff_scores(shares: tf.Tensor, *, level_size: Size) -> tf.Tensor:
    """Targets of stuff positions: `level_shares`, and 0 where less than half of a cell is covered.

    Args:
      shares: see `level_shares`.
      level_size: (h, w).
    """
    resized = level_shares(shares, level_size=level_size)
    return tf.where(resized >= 0.5, resized, 0.0)


def gaussian_radius(height: tf.Tensor, width: tf.Tensor, *, min_overlap: float = 0.7) -> tf.Tensor:
    """How far a center may move so that a box that grows or shrinks by as much still overlaps.

    r = (b + sqrt(b^2 - 4ac)) / 2 with a = 4o, b = -2o(h + w), c = (o - 1)hw, o the overlap. As in
    the code of CornerNet (arXiv:1808.01244), which divides by 2 and not by 2a. Its two other cases
    (one corner in and one out; both in) come to at least (h + w) / 2 there and this one to at most
    half of that, so the smallest of the three is always this.

    Args:
      height, width: float32, of boxes, in cells.
      min_overlap: o.

    Returns:
      float32 of the same shape.
    """
    b = -2.0 * min_overlap * (height + width)
    c = (min_overlap - 1.0) * width * height
    return (b + tf.sqrt(b**2 - 16.0 * min_overlap * c)) / 2.0


def gaussian_heatmap(
    centers: tf.Tensor,
    radius: tf.Tensor,
    classes: tf.Tensor,
    valid: tf.Tensor,
    *,
    size: Size,
    num_classes: int,
    sigma_factor: float = 3.0,
) -> tf.Tensor:
    """Maximum over instances of exp(-d^2 / (2 sigma^2)), sigma = (2 radius + 1) / sigma_factor.

    An instance's values end at a square window of `radius` cells around its center.

    Args:
      centers: int32 [M, 2], cells.
      radius: int32 [M], cells.
      classes: int32 [M], in [0, T).
      valid: bool [M], which instances to draw.
      size: (h, w).
      num_classes: T.
      sigma_factor: see above.

    Returns:
      float32 [h, w, T].
    """
    radius = tf.where(valid, radius, -1)[:, tf.newaxis]  # [M, 1]; a window without cells
    reach = tf.maximum(tf.reduce_max(radius), 0)
    span = tf.range(-reach, reach + 1)  # [S]
    sigma = (2.0 * tf.cast(radius, tf.float32) + 1.0) / sigma_factor
    values = tf.exp(-((tf.cast(span, tf.float32) / sigma) ** 2) / 2.0)
    in_window = tf.abs(span) <= radius  # [M, S]

    def along(axis: int) -> Tuple[tf.Tensor, tf.Tensor]:
        cells = centers[:, axis, tf.newaxis] + span
        in_frame = tf.logical_and(cells >= 0, cells < size[axis])
        kept = tf.where(tf.logical_and(in_window, in_frame), values, 0.0)
        return tf.clip_by_value(cells, 0, size[axis] - 1), kept

    (rows, row_values), (columns, column_values) = along(0), along(1)
    flat = rows[:, :, tf.newaxis] * size[1] + columns[:, tf.newaxis, :]  # [M, S, S]
    flat = flat * num_classes + classes[:, tf.newaxis, tf.newaxis]
    window = row_values[:, :, tf.newaxis] * column_values[:, tf.newaxis, :]
    heatmap = tf.tensor_scatter_nd_max(
        tf.zeros([size[0] * size[1] * num_classes]),
        tf.reshape(flat, [-1, 1]),
        tf.reshape(window, [-1]),
    )
    return tf.reshape(heatmap, [*size, num_classes])

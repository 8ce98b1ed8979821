"""Pasting the masks of boxes into the image, as Mask R-CNN does (arXiv:1703.06870).

Bilinear interpolation is separable: a pasted mask is a product of three matrices, weights of the
rows [H, m], the mask [m, m] and weights of the columns [m, W]. For a merge, which takes one mask
after the other, `binary_masks` computes no more of the product than the box of that mask.
"""

from __future__ import annotations

from typing import Callable, NamedTuple, Optional, Tuple, Union

import tensorflow as tf

Size = Tuple[int, int]

_NOWHERE = 1e9


class MaskWindow(NamedTuple):
    """A mask given where it may be true only.

    Attributes:
      mask: bool [B, h, w]; h and w dynamic, 0 is allowed.
      top, left: int32 [], where the window lies in [H, W]; it lies inside.
    """

    mask: tf.Tensor
    top: tf.Tensor
    left: tf.Tensor


# bool [B, H, W], or a window of that.
Mask = Union[tf.Tensor, MaskWindow]


def paste_masks(masks: tf.Tensor, boxes: tf.Tensor, *, output_size: Size) -> tf.Tensor:
    """Pastes masks into their boxes.

    Output pixel y, whose center is at y + 0.5, reads the mask at

        p = (y + 0.5 - ymin) / (ymax - ymin) * m - 0.5,

    cell j with weight max(0, 1 - |p - j|); the same along x. Zero lies around the mask. A box
    without extent reads nothing.

    Args:
      masks: float32 [B, K, m, m], probabilities.
      boxes: float32 [B, K, 4], pixels of the output.
      output_size: static (height, width).

    Returns:
      float32 [B, K, H, W]. All at once: for tests and small sizes.
    """
    height, width = output_size
    return _paste(masks, boxes, _centers(0, height), _centers(0, width))


def binary_masks(
    masks: tf.Tensor,
    boxes: tf.Tensor,
    *,
    output_size: Size,
    image_size: Optional[tf.Tensor] = None,
    threshold: float = 0.5,
) -> Callable[[tf.Tensor], MaskWindow]:
    """The masks k of all images, pasted and thresholded, as a function of k.

    It is for `score_order.merge_by_score`. Never more than one k is in memory, and only the window
    around the boxes k of the batch is computed, whose shape is dynamic.

    Args:
      masks: float32 [B, K, m, m], probabilities.
      boxes: float32 [B, K, 4], pixels of the output; those without extent have an empty mask.
      output_size: static (height, width).
      image_size: int32 [B, 2], the top-left part of the output that masks may cover; None is all.
      threshold: smallest probability inside a mask, positive.

    Returns:
      k, int32 [] -> `MaskWindow`.
    """
    height, width = output_size
    tops, bottoms = _reach(boxes[..., 0], boxes[..., 2], masks.shape[-1], height)
    lefts, rights = _reach(boxes[..., 1], boxes[..., 3], masks.shape[-1], width)

    def window(k: tf.Tensor) -> MaskWindow:
        rows, columns = _centers(tops[k], bottoms[k]), _centers(lefts[k], rights[k])
        pasted = _paste(tf.gather(masks, k, axis=1), tf.gather(boxes, k, axis=1), rows, columns)
        found = pasted >= threshold  # [B, h, w]
        if image_size is not None:
            limit = tf.cast(image_size, tf.float32)
            in_rows, in_columns = rows < limit[:, 0:1], columns < limit[:, 1:2]
            inside = tf.logical_and(in_rows[:, :, tf.newaxis], in_columns[:, tf.newaxis])
            found = tf.logical_and(found, inside)
        return MaskWindow(found, tops[k], lefts[k])

    return window


def _centers(start: Union[int, tf.Tensor], end: Union[int, tf.Tensor]) -> tf.Tensor:
    return tf.cast(tf.range(start, end), tf.float32) + 0.5


def _paste(masks: tf.Tensor, boxes: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Reads masks [..., m, m] in boxes [..., 4] at pixel centers [h] and [w]: [..., h, w]."""
    row_weights = _weights(boxes[..., 0], boxes[..., 2], masks.shape[-2], rows)  # [..., h, m]
    column_weights = _weights(boxes[..., 1], boxes[..., 3], masks.shape[-1], columns)
    return tf.matmul(tf.matmul(row_weights, masks), column_weights, transpose_b=True)


def _weights(low: tf.Tensor, high: tf.Tensor, cells: int, centers: tf.Tensor) -> tf.Tensor:
    """Weights of cells between low and high [...] for pixel centers [n]: [..., n, cells]."""
    extent = tf.where(high > low, high - low, 1.0)[..., tf.newaxis]
    low = tf.where(high > low, low, _NOWHERE)[..., tf.newaxis]
    position = (centers - low) * (float(cells) / extent) - 0.5  # [..., n]
    distance = tf.abs(position[..., tf.newaxis] - tf.range(cells, dtype=tf.float32))
    return tf.nn.relu(1.0 - distance)


def _reach(low: tf.Tensor, high: tf.Tensor, cells: int, length: int) -> Tuple[tf.Tensor, tf.Tensor]:
    """Pixels [start, end) that read any of the masks k along an axis: int32 [K] each."""
    # Half a cell beyond the box still reads the outermost cell.
    around = (high - low) / (2.0 * cells)  # [B, K]
    first = tf.where(high > low, tf.floor(low - around), _NOWHERE)
    last = tf.where(high > low, tf.math.ceil(high + around), -_NOWHERE)
    start = tf.clip_by_value(tf.reduce_min(first, axis=0), 0.0, float(length))
    end = tf.clip_by_value(tf.reduce_max(last, axis=0), start, float(length))
    return tf.cast(start, tf.int32), tf.cast(end, tf.int32)

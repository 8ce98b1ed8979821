"""Painting overlapping instances in the order of score.

The overlap rule of Panoptic Segmentation (arXiv:1801.00868, section 4.2), as Panoptic FPN
(arXiv:1901.02446) and Panoptic FCN (arXiv:2012.00720) have it. One mask exists at a time, whole.
"""

from __future__ import annotations

from typing import Any, Callable, List, NamedTuple, Optional, Tuple

import tensorflow as tf

_PLANE_BITS = 32
_BITS = 16  # at once: a float32 has 24, and planes of 32 bits consist of two groups
_BIT_VALUES = [float(1 << i) for i in range(_BITS)]


class Painted(NamedTuple):
    """Results.

    Attributes:
      owner: float32 [B, H, W], k + 1 where instance k is, 0 where free.
      bit_masks: int32 [B, H, W, ceil(K / 32)], bit k % 32 of plane k // 32 is the mask of instance
        k, whether or not it takes its pixels; None where not asked for.
      boxes: float32 [B, K, 4], tight around these masks, 0 where empty; None likewise.
    """

    owner: tf.Tensor
    bit_masks: Optional[tf.Tensor] = None
    boxes: Optional[tf.Tensor] = None


def paint(
    mask_of: Callable[[tf.Tensor], tf.Tensor],
    takes_part: tf.Tensor,
    *,
    size: Tuple[int, int],
    overlap_threshold: float,
    answered: Optional[tf.Tensor] = None,
) -> Painted:
    """Gives each pixel to the first instance on it that is not dropped.

    One after the other, an instance is dropped if its mask is empty or if more than
    `overlap_threshold` of it is taken; else it takes the free pixels of its mask.

    Args:
      mask_of: k, int32 [], -> bool [B, H, W], the mask of instance k of each image, by descending
        score. Called in a loop that ends at the last one that is needed.
      takes_part: bool [B, K], which may take pixels; K static, below 2^24.
      size: static (H, W), below 2^24 pixels.
      overlap_threshold: see above.
      answered: bool [B, K], whose masks and boxes to return; None is none.
    """
    needed = takes_part if answered is None else tf.logical_or(takes_part, answered)
    count = takes_part.shape[1]
    end = tf.reduce_max(tf.where(needed, tf.range(1, count + 1), 0))
    # Not known when the graph is built: else a TFLite file stores all that is blank.
    zero = tf.cast(tf.minimum(end, 0), tf.float32)
    blank = tf.fill([tf.shape(takes_part)[0], *size], zero)

    def paint_next(k: tf.Tensor, owner: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
        """The owner map, and the mask, float32 [B, H, W]."""
        mask = tf.cast(mask_of(k), tf.float32)
        visible = mask * tf.nn.relu(1.0 - owner)  # 1 on its free pixels
        # Sums of float32 ones are exact up to 2^24 pixels.
        area, visible_area = tf.reduce_sum(mask, [1, 2]), tf.reduce_sum(visible, [1, 2])  # [B]
        overlap = tf.math.divide_no_nan(area - visible_area, area)
        keep = tf.logical_and(overlap <= overlap_threshold, tf.gather(takes_part, k, axis=1))
        value = tf.where(keep, tf.cast(k + 1, tf.float32), 0.0)
        return owner + visible * value[:, tf.newaxis, tf.newaxis], mask

    if answered is None:
        (owner,) = _while_below(end, lambda k, owner: paint_next(k, owner)[:1], 0, [blank])
        return Painted(owner)

    def paint_and_answer(k: tf.Tensor, owner: tf.Tensor, bits: tf.Tensor, boxes: tf.Tensor):
        owner, mask = paint_next(k, owner)
        is_answered = tf.cast(tf.gather(answered, k, axis=1), tf.float32)[:, tf.newaxis]  # [B, 1]
        bit = tf.gather(tf.constant(_BIT_VALUES), k % _BITS) * is_answered
        # [K, 1] x [B, 1, 4] -> [B, K, 4]
        box = tf.one_hot(k, count)[:, tf.newaxis] * (_box(mask) * is_answered)[:, tf.newaxis]
        return owner, bits + mask * bit[:, tf.newaxis], boxes + box

    def paint_group(group: tf.Tensor, owner: tf.Tensor, planes: tf.Tensor, boxes: tf.Tensor):
        start = group * _BITS
        last = tf.minimum(start + _BITS, end)
        owner, bits, boxes = _while_below(last, paint_and_answer, start, [owner, blank, boxes])
        return owner, tf.concat([planes[1:], bits[tf.newaxis]], axis=0), boxes

    groups = -(-count // _PLANE_BITS) * (_PLANE_BITS // _BITS)
    batch = tf.shape(takes_part)[0]
    planes, boxes = tf.fill([groups, batch, *size], zero), tf.fill([batch, count, 4], zero)
    # Each group adds a plane and drops a blank one; without instances it costs no more than that.
    owner, planes, boxes = _while_below(groups, paint_group, 0, [blank, planes, boxes])
    return Painted(owner, _join_bits(planes), boxes)


def _while_below(end: Any, body: Callable[..., Any], start: Any, state: List) -> List:
    """The state after body(i, *state) for start <= i < end."""
    return tf.while_loop(
        lambda i, *_: i < end,
        lambda i, *state: [i + 1, *body(i, *state)],
        [tf.convert_to_tensor(start), *state],
        parallel_iterations=1,
    )[1:]


def _box(mask: tf.Tensor) -> tf.Tensor:
    """Of a mask of 0 and 1, float32 [B, H, W]: float32 [B, 4], 0 where it is empty."""
    (top, bottom), (left, right) = (_extent(tf.reduce_max(mask, axis)) for axis in (2, 1))
    return tf.stack([top, left, bottom, right], axis=-1)


def _extent(is_there: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
    """First and one past the last 1 of [B, n]: float32 [B] each, 0 if none."""
    count = is_there.shape[-1]
    index = tf.range(count, dtype=tf.float32)
    end = tf.reduce_max(is_there * (index + 1.0), axis=-1)
    start = count - tf.reduce_max(is_there * (count - index), axis=-1)
    return tf.minimum(start, end), end


def _join_bits(groups: tf.Tensor) -> tf.Tensor:
    """Masks of `_BITS` instances each, float32 [2 * P, B, H, W], to int32 [B, H, W, P]."""
    low, high = (tf.transpose(groups[i::2], [1, 2, 3, 0]) for i in range(2))
    high -= tf.where(high < 1 << (_BITS - 1), 0.0, 1 << _BITS)  # The last bit is the sign's.
    low, high = (tf.cast(x, tf.int64) for x in (low, high))
    return tf.cast(low + high * (1 << _BITS), tf.int32)

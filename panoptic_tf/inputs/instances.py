"""Instances of an id map: their table by segment reductions, and their masks for who needs them."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from panoptic_tf.structures import InstanceAnnotations


class InstanceTable(NamedTuple):
    """The instances of an id map; row i is the instance with id i + 1, M rows.

    Attributes:
      areas: int32 [M], pixels; 0 where the id does not occur.
      centers: float64 [M, 2], center of mass (y, x); 0 where the id does not occur.
      boxes: float32 [M, 4], [ymin, xmin, ymax, xmax], the far edges exclusive; 0 where absent.
      categories: int32 [M], category of the instance's pixels; 0 where absent.
      is_crowd: bool [M].
    """

    areas: tf.Tensor
    centers: tf.Tensor
    boxes: tf.Tensor
    categories: tf.Tensor
    is_crowd: tf.Tensor


def instance_table(
    instance_mask: tf.Tensor, category_mask: tf.Tensor, crowd_mask: tf.Tensor
) -> InstanceTable:
    """Measures every instance of a sample.

    Args:
      instance_mask: int32 [H, W], 0 is none.
      category_mask: int32 [H, W].
      crowd_mask: bool [H, W].

    Returns:
      An `InstanceTable` with as many rows as the highest id.
    """
    height, width = tf.shape(instance_mask)[0], tf.shape(instance_mask)[1]
    pixels = tf.where(instance_mask > 0)  # [P, 2]
    ids = tf.gather_nd(instance_mask, pixels) - 1  # [P]
    count = tf.maximum(tf.reduce_max(instance_mask), 0)
    yx = tf.cast(pixels, tf.float64)
    areas = tf.math.unsorted_segment_sum(tf.ones_like(ids), ids, count)
    total = tf.math.unsorted_segment_sum(yx, ids, count)
    present = areas > 0
    centers = tf.math.divide_no_nan(total, tf.cast(areas, tf.float64)[:, tf.newaxis])
    frame = tf.cast(tf.stack([height, width]), tf.float64)
    top_left = frame - tf.math.unsorted_segment_max(frame - yx, ids, count)
    bottom_right = tf.math.unsorted_segment_max(yx, ids, count) + 1.0
    boxes = tf.concat([top_left, bottom_right], axis=-1)
    boxes = tf.where(present[:, tf.newaxis], boxes, tf.zeros_like(boxes))
    categories = tf.math.unsorted_segment_max(tf.gather_nd(category_mask, pixels), ids, count)
    crowds = tf.cast(tf.gather_nd(crowd_mask, pixels), tf.int32)
    is_crowd = tf.math.unsorted_segment_max(crowds, ids, count) > 0
    return InstanceTable(
        areas=areas,
        centers=centers,
        boxes=tf.cast(boxes, tf.float32),
        categories=tf.where(present, categories, tf.zeros_like(categories)),
        is_crowd=is_crowd,
    )


def instances_of_id_map(
    instance_mask: tf.Tensor, categories: tf.Tensor, is_crowd: tf.Tensor
) -> InstanceAnnotations:
    """The instances that occur in an id map, as masks; they do not overlap.

    Args:
      instance_mask: int32 [H, W], ids below N, 0 is none.
      categories: int32 [N], category by id.
      is_crowd: bool [N], by id.

    Returns:
      K instances in the order of their ids.
    """
    count = tf.size(categories)
    areas = tf.math.bincount(tf.reshape(instance_mask, [-1]), minlength=count, maxlength=count)
    ids = tf.where(areas[1:] > 0)[:, 0] + 1  # [K]
    ids = tf.cast(ids, tf.int32)
    masks = instance_mask == ids[:, tf.newaxis, tf.newaxis]  # [K, H, W]
    return InstanceAnnotations(
        masks=tf.cast(masks, tf.uint8),
        categories=tf.gather(categories, ids),
        is_crowd=tf.gather(is_crowd, ids),
    )

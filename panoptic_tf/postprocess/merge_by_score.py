"""Merging painted instances with a semantic map.

The combination of Panoptic Segmentation (arXiv:1801.00868) that Panoptic FPN (arXiv:1901.02446)
and Panoptic FCN (arXiv:2012.00720) use: `painting` by score, then stuff on what is left. Recorded
behaviour: detectron2's Panoptic FPN. The majority vote of Panoptic-DeepLab is in `merge_by_vote`.
"""

from __future__ import annotations

from typing import Optional, Sequence

import tensorflow as tf

from panoptic_tf.ops.sum_by_row import sum_by_row
from panoptic_tf.postprocess.segments import Merged, Rows

_NEVER = float("inf")


def merge_by_score(
    owner: tf.Tensor,
    *,
    scores: tf.Tensor,
    categories: tf.Tensor,
    stuff_mask: tf.Tensor,
    stuff_probability: Optional[tf.Tensor],
    thing_ids: Sequence[int],
    num_categories: int,
    stuff_area: int = 4096,
) -> Merged:
    """Adds stuff to painted instances.

    What no instance took is stuff where the semantic map says so, except categories with less than
    `stuff_area` such pixels.

    Args:
      owner: float32 [B, H, W], see `painting.Painted`; H and W static.
      scores: float32 [B, K].
      categories: int32 [B, K], contiguous ids of things.
      stuff_mask: float32 [B, H, W], contiguous id of a stuff category or 0.
      stuff_probability: float32 [B, H, W], probability of `stuff_mask`, or None for 1.
      thing_ids: contiguous ids of the thing categories.
      num_categories: N.
      stuff_area: see above.

    Returns:
      K thing rows, area 0 where dropped, then N rows, row K + c - 1 of category c, of which only
      stuff can be valid. The score of stuff is the mean of `stuff_probability` over its pixels.
    """
    count, total = scores.shape[1], scores.shape[1] + num_categories
    stuff_row = tf.where(stuff_mask > 0.0, stuff_mask + (count - 1.0), float(total))
    row_map = tf.where(owner > 0.0, owner - 1.0, stuff_row)
    batch = tf.shape(scores)[0]
    stuff_scores = tf.ones([batch, num_categories])
    if stuff_probability is None:
        (areas,) = sum_by_row([None], row_map, total)
    else:
        areas, sums = sum_by_row([None, stuff_probability], row_map, total)
        stuff_scores = tf.math.divide_no_nan(sums, areas)[:, count:]
    # [K + N], the smallest area of each row
    smallest = [0.0] * count + [
        _NEVER if c in set(thing_ids) else float(stuff_area) for c in range(1, num_categories + 1)
    ]
    stuff_categories = tf.tile(tf.range(1, num_categories + 1)[tf.newaxis], [batch, 1])
    rows = Rows(
        category=tf.concat([categories, stuff_categories], axis=1),
        is_thing=tf.tile((tf.range(total) < count)[tf.newaxis], [batch, 1]),
        score=tf.concat([scores, stuff_scores], axis=1),
        area=tf.cast(tf.where(areas >= tf.constant(smallest), areas, 0.0), tf.int32),
    )
    return Merged(row_map, rows)

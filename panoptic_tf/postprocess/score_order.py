"""Merging overlapping instances with a semantic map in the order of score.

The combination of Panoptic Segmentation (arXiv:1801.00868) that Panoptic FPN (arXiv:1901.02446)
and Panoptic FCN (arXiv:2012.00720) use. Recorded behaviour: detectron2's Panoptic FPN. The majority
vote of Panoptic-DeepLab is in `merge`.
"""

from __future__ import annotations

from typing import Callable, Optional, Sequence, Tuple

import tensorflow as tf

from panoptic_tf.layers.operators import only_builtin_operators
from panoptic_tf.postprocess.merge import Merged
from panoptic_tf.postprocess.paste import Mask, MaskWindow
from panoptic_tf.postprocess.segments import Rows, sum_by_row


def merge_by_score(
    mask_of: Callable[[tf.Tensor], Mask],
    *,
    scores: tf.Tensor,
    categories: tf.Tensor,
    valid: tf.Tensor,
    stuff_mask: tf.Tensor,
    stuff_probability: Optional[tf.Tensor],
    thing_ids: Sequence[int],
    num_categories: int,
    score_threshold: float = 0.5,
    overlap_threshold: float = 0.5,
    stuff_area: int = 4096,
) -> Merged:
    """Gives each pixel to the best scored instance on it, then the rest to stuff.

    In the order of score an instance is dropped if its score is below `score_threshold`, if its
    mask is empty, or if more than `overlap_threshold` of its mask is taken; else it takes the free
    pixels of its mask. What remains is stuff where the semantic map says so, except categories with
    less than `stuff_area` remaining pixels.

    Args:
      mask_of: k, int32 [], -> bool [B, H, W], the whole mask of instance k of each image, or a
        `MaskWindow` of it, by which less is computed. Called in a loop that ends at the last
        instance above the threshold.
      scores: float32 [B, K], descending; K < 32768.
      categories: int32 [B, K], contiguous ids of things.
      valid: bool [B, K].
      stuff_mask: int32 [B, H, W], contiguous id of a stuff category or 0; H and W static.
      stuff_probability: float32 [B, H, W], probability of `stuff_mask`, or None for 1.
      thing_ids: contiguous ids of the thing categories.
      num_categories: N.
      score_threshold, overlap_threshold, stuff_area: see above; pixels.

    Returns:
      K thing rows, area 0 where dropped, then N rows, row K + c - 1 of category c, of which only
      stuff can be valid. The score of stuff is the mean of `stuff_probability` over its pixels.
    """
    candidate = tf.logical_and(valid, scores >= score_threshold)
    return merge_painted(
        _paint(mask_of, candidate, overlap_threshold, tuple(stuff_mask.shape[1:])),
        scores=scores,
        categories=categories,
        stuff_mask=stuff_mask,
        stuff_probability=stuff_probability,
        thing_ids=thing_ids,
        num_categories=num_categories,
        stuff_area=stuff_area,
    )


def merge_painted(
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
    """The second half of `merge_by_score`: stuff on the pixels that no instance took.

    Args:
      owner: int32 [B, H, W], the instance that takes each pixel, 0..K - 1; -1 where free.
      Others: see `merge_by_score`, as for what is returned.
    """
    count = scores.shape[1]
    stuff_row = tf.where(stuff_mask > 0, count + stuff_mask - 1, count + num_categories)
    row_map = tf.where(owner >= 0, owner, stuff_row)
    return Merged(
        row_map,
        _describe(
            row_map,
            scores=scores,
            categories=categories,
            probability=stuff_probability,
            may_be_valid=_stuff_rows(thing_ids, num_categories),
            stuff_area=stuff_area,
        ),
    )


def _paint(
    mask_of: Callable[[tf.Tensor], Mask],
    candidate: tf.Tensor,
    overlap_threshold: float,
    size: Tuple[int, int],
) -> tf.Tensor:
    """The instance that takes each pixel: int32 [B, H, W], 0..K - 1, -1 where free."""
    batch, count = tf.shape(candidate)[0], candidate.shape[1]
    end = tf.reduce_max(tf.where(candidate, tf.range(1, count + 1), 0))

    def paint(k: tf.Tensor, owner: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
        found = mask_of(k)
        mask = tf.cast(found.mask if isinstance(found, MaskWindow) else found, tf.float32)
        free = tf.cast(tf.equal(_read(owner, found), tf.zeros([], dtype)), tf.float32)  # [B, h, w]
        visible = mask * free
        # Sums of float32 ones are exact up to 2^24 pixels.
        area, visible_area = tf.reduce_sum(mask, [1, 2]), tf.reduce_sum(visible, [1, 2])  # [B]
        overlap = tf.math.divide_no_nan(area - visible_area, area)
        keep = tf.logical_and(overlap <= overlap_threshold, tf.gather(candidate, k, axis=1))
        value = tf.where(keep, tf.cast(k + 1, tf.float32), 0.0)
        painted = visible * value[:, tf.newaxis, tf.newaxis]
        return k + 1, _add(owner, found, tf.cast(painted, owner.dtype))

    # TFLite pads no int16.
    dtype = tf.float32 if only_builtin_operators() else tf.int16
    owner = tf.zeros([batch, *size], dtype)  # k + 1, 0 where free
    _, owner = tf.while_loop(
        lambda k, _: k < end,
        paint,
        [tf.constant(0), owner],
        shape_invariants=[tf.TensorShape([]), owner.shape],
        parallel_iterations=1,
    )
    return tf.cast(owner, tf.int32) - 1


def _read(owner: tf.Tensor, found: Mask) -> tf.Tensor:
    if not isinstance(found, MaskWindow):
        return owner
    height, width = tf.shape(found.mask)[1], tf.shape(found.mask)[2]
    return owner[:, found.top : found.top + height, found.left : found.left + width]


def _add(owner: tf.Tensor, found: Mask, painted: tf.Tensor) -> tf.Tensor:
    if not isinstance(found, MaskWindow):
        return owner + painted
    bottom = owner.shape[1] - found.top - tf.shape(painted)[1]
    right = owner.shape[2] - found.left - tf.shape(painted)[2]
    result = owner + tf.pad(painted, [[0, 0], [found.top, bottom], [found.left, right]])
    result.set_shape(owner.shape)
    return result


def _stuff_rows(thing_ids: Sequence[int], num_categories: int) -> tf.Tensor:
    things = set(thing_ids)
    return tf.constant([c not in things for c in range(1, num_categories + 1)])


def _describe(
    row_map: tf.Tensor,
    *,
    scores: tf.Tensor,
    categories: tf.Tensor,
    probability: Optional[tf.Tensor],
    may_be_valid: tf.Tensor,
    stuff_area: int,
) -> Rows:
    count, num_categories = scores.shape[1], may_be_valid.shape[0]
    total = count + num_categories
    batch = tf.shape(scores)[0]
    ones = tf.ones_like(row_map)
    if probability is None:
        (areas,) = sum_by_row([ones], row_map, total)
        stuff_scores = tf.ones([batch, num_categories])
    else:
        areas, sums = sum_by_row([ones, probability], row_map, total)
        stuff_scores = tf.math.divide_no_nan(sums, tf.cast(areas, tf.float32))[:, count:]
    stuff_areas = areas[:, count:]
    keep = tf.logical_and(may_be_valid, stuff_areas >= stuff_area)
    stuff_categories = tf.tile(tf.range(1, num_categories + 1)[tf.newaxis], [batch, 1])
    is_thing = tf.range(total) < count
    return Rows(
        category=tf.concat([categories, stuff_categories], axis=1),
        is_thing=tf.tile(is_thing[tf.newaxis], [batch, 1]),
        score=tf.concat([scores, stuff_scores], axis=1),
        area=tf.concat([areas[:, :count], tf.where(keep, stuff_areas, 0)], axis=1),
    )

"""Merging class-agnostic instances with a semantic map by majority vote (arXiv:1911.10194)."""

from __future__ import annotations

from typing import Callable, Sequence

import tensorflow as tf

from panoptic_tf.ops.sum_by_row import sum_by_row
from panoptic_tf.postprocess.segments import Merged, Rows


def merge_by_vote(
    semantic_mask: tf.Tensor,
    instance_ids: tf.Tensor,
    instance_scores: tf.Tensor,
    *,
    probability_of: Callable[[tf.Tensor], tf.Tensor],
    num_categories: int,
    thing_ids: Sequence[int],
    stuff_area: int,
) -> Merged:
    """Merges class-agnostic instances with a semantic map (arXiv:1911.10194, section 3.2).

    An instance takes the category that most of its pixels have (the smallest id of equals); its
    score is objectness times the mean probability of that category over its pixels, at most 1 (a
    regressed heat is not). Stuff keeps the pixels without instance where it has `stuff_area` of
    them; a thing pixel without instance is void.

    Args:
      semantic_mask: float32 [B, H, W], category ids; 0 where there is no image.
      instance_ids: float32 [B, H, W], 1..K, 0 is none; only pixels of things are read.
      instance_scores: float32 [B, K], objectness; K * N at most 2^22.
      probability_of: from a channel for each pixel, float32 [B, H, W], category minus 1, to its
        probability, float32 [B, H, W].
      num_categories: N.
      thing_ids: contiguous ids of the thing categories.
      stuff_area: smallest area of a stuff segment, pixels.

    Returns:
      K thing rows, then N rows of which only stuff categories can be valid.
    """
    count, categories = instance_scores.shape[1], num_categories
    in_thing = is_on_things(semantic_mask, thing_ids)
    on_instance = tf.logical_and(instance_ids > 0.0, in_thing)
    voted = _vote(semantic_mask, tf.where(on_instance, instance_ids, 0.0), count, thing_ids)

    is_stuff_pixel = tf.logical_and(semantic_mask > 0.0, tf.logical_not(in_thing))
    row_map = tf.where(is_stuff_pixel, semantic_mask + (count - 1.0), float(count + categories))
    row_map = tf.where(on_instance, instance_ids - 1.0, row_map)

    batch = tf.shape(semantic_mask)[0]
    stuff_categories = tf.tile(tf.range(1, categories + 1)[tf.newaxis], [batch, 1])
    probability = probability_of(_channels(semantic_mask, on_instance, instance_ids, voted))
    areas, total = sum_by_row([None, probability], row_map, count + categories)
    row_is_thing = tf.range(count + categories) < count  # [K + N]
    keep = tf.logical_or(row_is_thing, areas >= stuff_area)
    objectness = tf.concat([instance_scores, tf.ones([batch, categories])], axis=1)
    rows = Rows(
        category=tf.concat([tf.cast(voted, tf.int32), stuff_categories], axis=1),
        is_thing=tf.tile(row_is_thing[tf.newaxis], [batch, 1]),
        score=tf.minimum(objectness * tf.math.divide_no_nan(total, areas), 1.0),
        area=tf.cast(tf.where(keep, areas, 0.0), tf.int32),
    )
    return Merged(row_map, rows)


def is_on_things(semantic_mask: tf.Tensor, thing_ids: Sequence[int]) -> tf.Tensor:
    """Whether the category of each pixel, float32 [B, H, W], is one of things: bool."""
    is_thing = tf.constant([c in set(thing_ids) for c in range(max(thing_ids, default=0) + 2)])
    category = tf.minimum(semantic_mask, is_thing.shape[0] - 1.0)
    return tf.gather(is_thing, tf.cast(category, tf.int32))


def _vote(
    semantic_mask: tf.Tensor, instance_ids: tf.Tensor, count: int, thing_ids: Sequence[int]
) -> tf.Tensor:
    """Most frequent category of each instance's pixels, which are things': float32 [B, K]."""
    first, last = min(thing_ids, default=1), max(thing_ids, default=1)
    categories = last - first + 1
    cell = (instance_ids - 1.0) * categories + semantic_mask - first
    cell = tf.where(instance_ids > 0.0, cell, -1.0)
    (histogram,) = sum_by_row([None], cell, count * categories)
    histogram = tf.reshape(histogram, [-1, count, categories])
    return tf.cast(tf.argmax(histogram, axis=-1), tf.float32) + first


def _channels(
    semantic_mask: tf.Tensor, on_instance: tf.Tensor, instance_ids: tf.Tensor, voted: tf.Tensor
) -> tf.Tensor:
    """The channel of each pixel's segment, of what is void its own: float32 [B, H, W]."""
    row = tf.cast(tf.where(on_instance, instance_ids - 1.0, 0.0), tf.int32)
    category = tf.gather(voted, row, axis=1, batch_dims=1)  # [B, H, W]
    return tf.maximum(tf.where(on_instance, category, semantic_mask) - 1.0, 0.0)

"""Merging semantic and instance results into one panoptic map: pure functions on tensors."""

from __future__ import annotations

from typing import Callable, NamedTuple, Sequence

import tensorflow as tf

from panoptic_tf.postprocess.segments import Rows, sum_by_row


class Merged(NamedTuple):
    """Attributes: row_map int32 [B, H, W] (R on void) and its `Rows`; see `build_segments`."""

    row_map: tf.Tensor
    rows: Rows


def merge_by_majority_vote(
    semantic_mask: tf.Tensor,
    semantic_logits: tf.Tensor,
    instance_ids: tf.Tensor,
    instance_scores: tf.Tensor,
    *,
    thing_ids: Sequence[int],
    stuff_area: int,
) -> Merged:
    """`merge_by_vote` with the probabilities of logits at each pixel.

    Args:
      semantic_mask: int32 [B, H, W], category ids; 0 where there is no image.
      semantic_logits: float32 [B, H, W, N], channel c is category c + 1.
      instance_ids: int32 [B, H, W], 1..K, 0 is none.
      instance_scores: float32 [B, K], objectness.
      thing_ids: contiguous ids of the thing categories.
      stuff_area: smallest area of a stuff segment, pixels.
    """
    return merge_by_vote(
        semantic_mask,
        instance_ids,
        instance_scores,
        probability_of=lambda channel: probability_of_logits(semantic_logits, channel),
        num_categories=semantic_logits.shape[-1],
        thing_ids=thing_ids,
        stuff_area=stuff_area,
    )


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
      semantic_mask: int32 [B, H, W], category ids; 0 where there is no image.
      instance_ids: int32 [B, H, W], 1..K, 0 is none; only pixels of things are read.
      instance_scores: float32 [B, K], objectness.
      probability_of: from a channel for each pixel, int32 [B, H, W], category minus 1, to its
        probability, float32 [B, H, W].
      num_categories: N.
      thing_ids: contiguous ids of the thing categories.
      stuff_area: smallest area of a stuff segment, pixels.

    Returns:
      K thing rows, then N rows of which only stuff categories can be valid.
    """
    count, categories = instance_scores.shape[1], num_categories
    in_thing = is_on_things(semantic_mask, thing_ids)
    on_instance = tf.logical_and(instance_ids > 0, in_thing)
    voted = _vote(semantic_mask, tf.where(on_instance, instance_ids, 0), count, categories)

    is_stuff_pixel = tf.logical_and(semantic_mask > 0, tf.logical_not(in_thing))
    stuff_row = count + semantic_mask - 1
    void_row = count + categories
    row_map = tf.where(is_stuff_pixel, stuff_row, void_row)
    row_map = tf.where(on_instance, instance_ids - 1, row_map)

    batch = tf.shape(semantic_mask)[0]
    stuff_categories = tf.tile(tf.range(1, categories + 1)[tf.newaxis], [batch, 1])
    row_categories = tf.concat([voted, stuff_categories], axis=1)  # [B, K + N]
    probability = probability_of(_channels(semantic_mask, on_instance, instance_ids, voted))
    ones = tf.ones_like(row_map)
    areas, total = sum_by_row([ones, probability], row_map, count + categories)
    row_is_thing = tf.range(count + categories) < count  # [K + N]
    keep = tf.logical_or(row_is_thing, areas >= stuff_area)
    objectness = tf.concat([instance_scores, tf.ones([batch, categories])], axis=1)
    mean = tf.math.divide_no_nan(total, tf.cast(areas, tf.float32))
    rows = Rows(
        category=row_categories,
        is_thing=tf.tile(row_is_thing[tf.newaxis], [batch, 1]),
        score=tf.minimum(objectness * mean, 1.0),
        area=tf.where(keep, areas, 0),
    )
    return Merged(row_map, rows)


def is_on_things(semantic_mask: tf.Tensor, thing_ids: Sequence[int]) -> tf.Tensor:
    """Whether the category of each pixel is one of things: bool [B, H, W]."""
    is_thing = tf.constant([c in set(thing_ids) for c in range(max(thing_ids, default=0) + 2)])
    return tf.gather(is_thing, tf.minimum(semantic_mask, is_thing.shape[0] - 1))


def _vote(
    semantic_mask: tf.Tensor, instance_ids: tf.Tensor, count: int, categories: int
) -> tf.Tensor:
    """Most frequent category of each instance's pixels: int32 [B, K]."""
    cell = tf.where(instance_ids > 0, (instance_ids - 1) * categories + semantic_mask - 1, -1)
    (histogram,) = sum_by_row([tf.ones_like(cell)], cell, count * categories)
    histogram = tf.reshape(histogram, [-1, count, categories])
    return tf.argmax(histogram, axis=-1, output_type=tf.int32) + 1


def _channels(
    semantic_mask: tf.Tensor, on_instance: tf.Tensor, instance_ids: tf.Tensor, voted: tf.Tensor
) -> tf.Tensor:
    """The channel of each pixel's segment, of what is void its own: int32 [B, H, W]."""
    shape = tf.shape(instance_ids)
    row = tf.reshape(tf.where(on_instance, instance_ids - 1, 0), [shape[0], -1])  # [B, HW]
    category = tf.reshape(tf.gather(voted, row, axis=1, batch_dims=1), shape)
    return tf.maximum(tf.where(on_instance, category, semantic_mask) - 1, 0)


def probability_of_logits(logits: tf.Tensor, channel: tf.Tensor) -> tf.Tensor:
    """Softmax probability, at each pixel, of a channel: float32 [B, H, W]."""
    flat = tf.reshape(logits, [-1, logits.shape[-1]])  # [B * HW, N]
    chosen = tf.gather(flat, tf.reshape(channel, [-1, 1]), axis=1, batch_dims=1)  # [B * HW, 1]
    probability = tf.exp(tf.squeeze(chosen, axis=1) - tf.reduce_logsumexp(flat, axis=-1))
    return tf.reshape(probability, tf.shape(channel))

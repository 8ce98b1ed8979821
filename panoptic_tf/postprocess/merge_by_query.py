"""Merging the masks of queries that compete for pixels.

The panoptic inference of MaskFormer (arXiv:2107.06278) and Mask2Former (arXiv:2112.01527), as the
authors' implementations have it: every pixel belongs to the query of the largest score times
probability, and a query that won too little of its own mask is dropped. Nothing is painted in the
order of score, as for `merge_by_score`. One mask exists at a time, whole.
"""

from __future__ import annotations

from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple

import tensorflow as tf

from panoptic_tf.ops.sum_by_row import sum_by_row
from panoptic_tf.postprocess.segments import Merged, Rows, valid_first

_POSITIVE = 0.5  # a logit of 0


class Queries(NamedTuple):
    """What each query shows.

    Attributes:
      scores: float32 [B, Q], probability of its category, 0 where not kept.
      categories: int32 [B, Q], contiguous ids 1..N.
      kept: bool [B, Q], whether it competes.
    """

    scores: tf.Tensor
    categories: tf.Tensor
    kept: tf.Tensor


class Contest(NamedTuple):
    """Results.

    Attributes:
      owner: float32 [B, H, W], q + 1 where query q won, 0 where none did.
      inside: float32 [B, H, W], the same, but 0 also where the owner's own mask is not.
      areas: float32 [B, Q], pixels of the mask of each kept query.
      mean_probabilities: float32 [B, Q], over the pixels where the probability is above 0.5, 0
        where there are none; only of the queries that were asked for; None where none were.
    """

    owner: tf.Tensor
    inside: tf.Tensor
    areas: tf.Tensor
    mean_probabilities: Optional[tf.Tensor]


def choose_queries(probabilities: tf.Tensor, *, score_threshold: float) -> Queries:
    """The category of each query, and which compete.

    Args:
      probabilities: float32 [B, Q, N + 1], of category c + 1 in channel c, of no object last.
      score_threshold: largest probability of a category that does not compete.

    Returns:
      `Queries`; those kept have a category that is at least as probable as no object.
    """
    of_categories = probabilities[..., :-1]
    scores = tf.reduce_max(of_categories, axis=-1)
    is_object = scores >= probabilities[..., -1]
    kept = tf.logical_and(is_object, scores > score_threshold)
    return Queries(
        scores=tf.where(kept, scores, 0.0),
        categories=tf.argmax(of_categories, axis=-1, output_type=tf.int32) + 1,
        kept=kept,
    )


def compete(
    probability_of: Callable[[tf.Tensor], tf.Tensor],
    queries: Queries,
    *,
    size: Tuple[int, int],
    mask_threshold: float = 0.5,
    measured: Optional[tf.Tensor] = None,
) -> Contest:
    """Gives each pixel to the kept query of the largest score times probability.

    The first of equals wins. The mask of a query is where its probability is at least
    `mask_threshold`, even if another query owns the pixel.

    Args:
      probability_of: index of one query of each image, int32 [B], -> float32 [B, H, W], the
        probabilities of its mask, 0 beyond the image. Called in a loop over those that are needed.
      queries: Q of each image.
      size: static (H, W), at most 2^24 pixels: areas are sums of float32 ones.
      mask_threshold: smallest probability inside of a mask.
      measured: bool [B, Q], whose mean probabilities to return; None is none.
    """
    needed = queries.kept if measured is None else tf.logical_or(queries.kept, measured)
    batch, count = tf.shape(needed)[0], needed.shape[1]
    row = tf.range(1.0, count + 1.0)
    # [B, Q], q + 1 of the needed queries in their order, then 0.
    numbers = tf.reduce_sum(tf.cast(valid_first(needed), tf.float32) * row, axis=2)
    end = tf.reduce_max(tf.reduce_sum(tf.cast(needed, tf.int32), axis=1))
    # Not known when the graph is built: else a TFLite file stores all that is blank.
    zero = tf.cast(tf.minimum(end, 0), tf.float32)
    blank = tf.fill([batch, *size], zero)

    def enter_next(
        i: tf.Tensor, best: tf.Tensor, owner: tf.Tensor, inside: tf.Tensor, sums: tf.Tensor
    ) -> List[tf.Tensor]:
        number = tf.gather(numbers, i, axis=1)[:, tf.newaxis]  # [B, 1]
        is_query = tf.cast(tf.equal(row, number), tf.float32)  # [B, Q], all 0 past the last
        probability = probability_of(tf.cast(tf.nn.relu(number - 1.0)[:, 0], tf.int32))
        score = tf.reduce_sum(is_query * queries.scores, axis=1)[:, tf.newaxis, tf.newaxis]
        in_mask = tf.cast(probability >= mask_threshold, tf.float32)
        summed = [in_mask]
        if measured is not None:
            positive = probability > _POSITIVE
            summed += [tf.cast(positive, tf.float32), tf.where(positive, probability, 0.0)]
        totals = tf.stack([_sum_of_image(x) for x in summed], axis=1)  # [B, S]
        value = probability * score
        wins = value > best
        # Numbers rise, so the last that won is the largest of them.
        won = tf.cast(wins, tf.float32) * number[:, tf.newaxis]
        return [
            i + 1,
            tf.where(wins, value, best),
            tf.maximum(owner, won),
            tf.maximum(inside, won * in_mask),
            sums + totals[..., tf.newaxis] * is_query[:, tf.newaxis],
        ]

    blank_sums = tf.fill([batch, 1 if measured is None else 3, count], zero)
    _, _, owner, inside, sums = tf.while_loop(
        lambda i, *_: i < end,
        enter_next,
        [tf.constant(0), blank, blank, blank, blank_sums],
        parallel_iterations=1,
    )
    return Contest(
        owner=owner,
        # The last to win it with the pixel in its mask may have lost it to another since.
        inside=tf.where(tf.equal(inside, owner), owner, 0.0),
        areas=sums[:, 0],
        mean_probabilities=None
        if measured is None
        else tf.math.divide_no_nan(sums[:, 2], sums[:, 1]),
    )


def merge_by_query(
    contest: Contest,
    queries: Queries,
    *,
    thing_ids: Sequence[int],
    num_categories: int,
    overlap_threshold: float = 0.8,
    void_outside_masks: bool = True,
) -> Merged:
    """Makes segments of what queries won.

    A query is dropped if the number of pixels that it owns is less than `overlap_threshold` times
    that of its mask, if its mask is empty, or if no pixel would be its segment's. Pixels that it
    owns outside its mask count as owned. Every thing is a segment of its own; the queries of one
    category of stuff share one. The authors number both in the order of queries; here things come
    first.

    Args:
      contest: what `compete` returned.
      queries: Q of each image.
      thing_ids: contiguous ids of the thing categories.
      num_categories: N.
      overlap_threshold: see above.
      void_outside_masks: pixels that a query owns outside its mask are void (Mask2Former), else
        they belong to its segment (MaskFormer).

    Returns:
      Q thing rows, area 0 where dropped or not a thing, then N rows, row Q + c - 1 of category c,
      of which only stuff can be valid. The score of stuff is the mean over its pixels of their
      queries' scores.
    """
    count, total = queries.scores.shape[1], queries.scores.shape[1] + num_categories
    painted = contest.inside if void_outside_masks else contest.owner
    is_painted = tf.cast(painted > 0.0, tf.float32)
    owned, visible = sum_by_row([None, is_painted], contest.owner - 1.0, count)  # [B, Q]
    share = tf.math.divide_no_nan(owned, contest.areas)
    valid = tf.logical_and(share >= overlap_threshold, contest.areas * visible > 0.0)
    is_thing = tf.constant([c in set(thing_ids) for c in range(num_categories + 1)])
    is_thing = tf.gather(is_thing, queries.categories)
    areas = tf.where(valid, visible, 0.0)
    thing_areas = tf.where(is_thing, areas, 0.0)
    stuff_areas, stuff_scores = _join(queries, areas - thing_areas, num_categories)

    stuff_row = tf.cast(queries.categories, tf.float32) + (count - 1.0)
    row = tf.where(is_thing, tf.range(count, dtype=tf.float32), stuff_row)
    row = tf.where(valid, row, float(total))
    row = tf.pad(row, [[0, 0], [1, 0]], constant_values=float(total))  # [B, 1 + Q]
    row_map = tf.gather(row, tf.cast(painted, tf.int32), axis=1, batch_dims=1)
    batch = tf.shape(row)[0]
    stuff_categories = tf.tile(tf.range(1, num_categories + 1)[tf.newaxis], [batch, 1])
    rows = Rows(
        category=tf.concat([queries.categories, stuff_categories], axis=1),
        is_thing=tf.tile((tf.range(total) < count)[tf.newaxis], [batch, 1]),
        score=tf.concat([queries.scores, stuff_scores], axis=1),
        area=tf.cast(tf.concat([thing_areas, stuff_areas], axis=1), tf.int32),
    )
    return Merged(row_map, rows)


def _join(queries: Queries, areas: tf.Tensor, num_categories: int) -> Tuple[tf.Tensor, tf.Tensor]:
    """Areas [B, Q] of queries by category, and the means of scores over them: [B, N] each."""
    category = tf.range(1.0, num_categories + 1.0)[:, tf.newaxis]
    joins = tf.equal(tf.cast(queries.categories, tf.float32)[:, tf.newaxis], category)
    joined = tf.where(joins, areas[:, tf.newaxis], 0.0)  # [B, N, Q]
    # Not a product of matrices, which accelerators may round.
    total = tf.reduce_sum(joined, axis=2)
    weighted = tf.reduce_sum(joined * queries.scores[:, tf.newaxis], axis=2)
    return total, tf.math.divide_no_nan(weighted, total)


def _sum_of_image(values: tf.Tensor) -> tf.Tensor:
    """[B, H, W] -> [B]; rows first, which rounds less where a runtime adds one after the other."""
    return tf.reduce_sum(tf.reduce_sum(values, axis=2), axis=1)

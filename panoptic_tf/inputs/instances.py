"""Instances of a sample: measured, chosen for training, and as masks for who needs them."""

from __future__ import annotations

from typing import NamedTuple, Sequence, Tuple

import tensorflow as tf

from panoptic_tf.structures import InstanceAnnotations, PanopticSample

_BYTES = 4
_MOST_ROWS = 127  # of ones that a byte of a signed integer can hold


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


class ChosenInstances(NamedTuple):
    """The instances that a system learns from, the largest first, M at most.

    Attributes:
      rows: int32 [K], K <= M, of the sample's `instances`, or ids - 1 where it has none.
      classes: int32 [M], thing index; 0 in the padding, as all below.
      boxes: float32 [M, 4], pixels.
      valid: bool [M], K rows that are no padding, first.
    """

    rows: tf.Tensor
    classes: tf.Tensor
    boxes: tf.Tensor
    valid: tf.Tensor


def instance_table(
    instance_mask: tf.Tensor, category_mask: tf.Tensor, crowd_mask: tf.Tensor
) -> InstanceTable:
    """Measures every instance of a sample, by the runs of equal ids in its rows.

    Args:
      instance_mask: int32 [H, W], 0 is none.
      category_mask: int32 [H, W]; one category on all pixels of an id.
      crowd_mask: bool [H, W], likewise.

    Returns:
      An `InstanceTable` with as many rows as the highest id.
    """
    starts, lengths = runs(instance_mask)  # [R, 2], [R]
    ids = tf.gather_nd(instance_mask, starts) - 1  # segment operations drop what is negative
    count = tf.maximum(tf.reduce_max(instance_mask), 0)
    y, x = starts[:, 0], starts[:, 1]
    totals = tf.stack([lengths, y * lengths, x * lengths + lengths * (lengths - 1) // 2], axis=-1)
    totals = tf.math.unsorted_segment_sum(totals, ids, count)  # [M, 3]
    areas = totals[:, 0]
    centers = tf.math.divide_no_nan(
        tf.cast(totals[:, 1:], tf.float64), tf.cast(areas, tf.float64)[:, tf.newaxis]
    )
    top_left = tf.math.unsorted_segment_min(starts, ids, count)
    bottom_right = tf.stack([y + 1, x + lengths], axis=-1)
    bottom_right = tf.math.unsorted_segment_max(bottom_right, ids, count)
    boxes = tf.concat([top_left, bottom_right], axis=-1)
    boxes = tf.where(areas[:, tf.newaxis] > 0, boxes, 0)
    categories = tf.math.unsorted_segment_max(tf.gather_nd(category_mask, starts), ids, count)
    crowds = tf.cast(tf.gather_nd(crowd_mask, starts), tf.int32)
    return InstanceTable(
        areas=tf.cast(areas, tf.int32),
        centers=centers,
        boxes=tf.cast(boxes, tf.float32),
        categories=tf.where(areas > 0, categories, 0),
        is_crowd=tf.math.unsorted_segment_max(crowds, ids, count) > 0,
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


def choose_instances(
    sample: PanopticSample, *, thing_ids: Sequence[int], max_instances: int
) -> ChosenInstances:
    """Chooses the largest instances of things: of the record where it has them, else of the id map.

    Crowds are none, nor is what the frame does not show.

    Args:
      sample: any size.
      thing_ids: contiguous ids of the thing categories.
      max_instances: M.
    """
    categories, areas, extents, is_crowd = _measure(sample)
    things = tf.constant(tuple(thing_ids), tf.int32)
    is_thing = tf.reduce_any(categories[:, tf.newaxis] == things, axis=1)
    usable = tf.logical_and(is_thing, tf.logical_and(areas > 0, tf.logical_not(is_crowd)))
    order = tf.argsort(tf.where(usable, areas, 0), direction="DESCENDING", stable=True)
    chosen = order[: tf.reduce_sum(tf.cast(usable, tf.int32))][:max_instances]
    missing = max_instances - tf.size(chosen)
    classes = tf.argmax(tf.gather(categories, chosen)[:, tf.newaxis] == things, axis=1)

    def padded(values: tf.Tensor) -> tf.Tensor:
        values = tf.pad(values, [[0, missing]] + [[0, 0]] * (values.shape.rank - 1))
        return tf.ensure_shape(values, [max_instances, *values.shape[1:]])

    return ChosenInstances(
        rows=chosen,
        classes=padded(tf.cast(classes, tf.int32)),
        boxes=padded(tf.gather(extents, chosen)),
        valid=padded(tf.ones_like(chosen, tf.bool)),
    )


def row_of_id(instance_mask: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
    """Which of the chosen instances an id of the map is.

    Args:
      instance_mask: int32 [H, W], 0 is none.
      chosen: int32 [K], ids - 1.

    Returns:
      int32 [largest id + 1], position in `chosen`, -1 where it is not among them.
    """
    rows = tf.fill([tf.maximum(tf.reduce_max(instance_mask), 0) + 1], -1)
    return tf.tensor_scatter_nd_update(rows, chosen[:, tf.newaxis] + 1, tf.range(tf.size(chosen)))


def column_counts(masks: tf.Tensor) -> tf.Tensor:
    """Counts the pixels in each column of masks.

    Four columns at once, as the bytes of an integer, so block by block of rows.

    Args:
      masks: uint8 {0, 1} [K, H, W]; H, W static.

    Returns:
      int32 [K, W].
    """
    height, width = masks.shape[1:]
    words = -(-width // _BYTES)
    if width % _BYTES:
        masks = tf.pad(masks, [[0, 0], [0, 0], [0, words * _BYTES - width]])
    rows = max(n for n in range(1, _MOST_ROWS + 1) if height % n == 0)
    blocks = tf.reshape(masks, [-1, height // rows, rows, words, _BYTES])
    sums = tf.reduce_sum(tf.bitcast(blocks, tf.int32), axis=2)  # [K, H / rows, W / 4]
    sums = tf.reshape(tf.bitcast(sums, tf.uint8), [-1, height // rows, words * _BYTES])
    return tf.reduce_sum(tf.cast(sums, tf.int32), axis=1)[:, :width]


def runs(ids: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
    """Runs of equal ids in the rows of a map: what is measured of segments, in few entries.

    Args:
      ids: int32 [H, W].

    Returns:
      int64 [R, 2], (y, x) of the first pixel of each, row by row, and int64 [R], their lengths.
    """
    is_start = tf.pad(ids[:, 1:] != ids[:, :-1], [[0, 0], [1, 0]], constant_values=True)
    starts = tf.where(is_start)
    height, width = tf.unstack(tf.shape(ids, out_type=tf.int64))
    flat = starts[:, 0] * width + starts[:, 1]
    return starts, tf.concat([flat[1:], [height * width]], axis=0) - flat


def _extent(occupied: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
    """First occupied position and the one after the last, of bool [K, L]: float32 [K] each."""
    length = tf.shape(occupied)[1]
    positions = tf.range(length)[tf.newaxis]
    first = tf.reduce_min(tf.where(occupied, positions, length), axis=1)
    last = tf.reduce_max(tf.where(occupied, positions + 1, 0), axis=1)
    return tf.cast(first, tf.float32), tf.cast(last, tf.float32)


def _measure(sample: PanopticSample) -> Tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Categories [K], areas [K], boxes [K, 4] and crowd flags [K] of the instances."""
    if sample.instances is None:
        table = instance_table(sample.instance_mask, sample.category_mask, sample.crowd_mask)
        return table.categories, table.areas, table.boxes, table.is_crowd
    masks = sample.instances.masks  # uint8 [K, H, W]
    counts = column_counts(masks)
    first_row, last_row = _extent(tf.reduce_max(masks, axis=2) > 0)
    first_column, last_column = _extent(counts > 0)
    extents = tf.stack([first_row, first_column, last_row, last_column], axis=-1)
    areas = tf.reduce_sum(counts, axis=1)
    return sample.instances.categories, areas, extents, sample.instances.is_crowd

"""The truth of an image as segments, things and stuff alike: what mask classification learns from.

One segment for each thing and one for each category of stuff, as MaskFormer (arXiv:2107.06278) and
Mask2Former (arXiv:2112.01527) have them.
"""

from __future__ import annotations

from typing import NamedTuple, Tuple

import tensorflow as tf

from panoptic_tf.inputs import instances, lookup
from panoptic_tf.structures import PanopticSample


class Segments(NamedTuple):
    """The segments of an image, the largest first, M at most; row i is the id i + 1 of the map.

    Attributes:
      segment_map: int32 [H, W], 1..M; 0 on void, on crowds and on segments that have no row.
      categories: int32 [M], contiguous category ids; 0 in the padding.
      valid: bool [M], rows that are no padding, first.
      count: int32 [], how many these are.
    """

    segment_map: tf.Tensor
    categories: tf.Tensor
    valid: tf.Tensor
    count: tf.Tensor


def index_segments(sample: PanopticSample, max_segments: int) -> Segments:
    """Numbers the segments of a sample's id maps.

    Pixels with an instance id are of that thing; the others of a category together are one segment,
    in however many pieces. Crowds are none. The overlapping `instances` of a record are not looked
    at: these segments are those of the panoptic map.

    Rows are by descending area in this frame; of segments of one area those of stuff come first, by
    category id, then things by instance id. Of more than M the first stay.

    Args:
      sample: in the network's frame, for whose size XLA compiles once.
      max_segments: M, at least 1.
    """
    keys, areas, categories = _measure(sample)
    order = tf.argsort(areas, direction="DESCENDING", stable=True)
    chosen = order[: tf.math.count_nonzero(areas, dtype=tf.int32)][:max_segments]
    count = tf.size(chosen)
    rows = tf.scatter_nd(chosen[:, tf.newaxis], tf.range(1, count + 1), tf.shape(areas))
    padded = tf.pad(tf.gather(categories, chosen), [[0, max_segments - count]])
    return Segments(
        segment_map=_look_up(lookup.pad_table(rows), keys),
        categories=tf.ensure_shape(padded, [max_segments]),
        valid=tf.range(max_segments) < count,
        count=count,
    )


def _measure(sample: PanopticSample) -> Tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Keys of the pixels' segments, int32 [H, W]; areas and categories by key, int32 [N] each.

    The key 0 is none, of area 0; a segment of stuff has its category as key, things come after.
    """
    keys = _keys(sample.category_mask, sample.instance_mask, sample.crowd_mask)
    starts, lengths = instances.runs(keys)  # [R, 2], [R]
    keys_of_runs = tf.gather_nd(keys, starts)
    count = tf.reduce_max(keys_of_runs) + 1
    areas = tf.math.unsorted_segment_sum(lengths, keys_of_runs, count)
    categories = tf.gather_nd(sample.category_mask, starts)
    categories = tf.math.unsorted_segment_max(categories, keys_of_runs, count)
    return keys, tf.where(tf.range(count) > 0, tf.cast(areas, tf.int32), 0), categories


def _key_of_pixels(
    category_mask: tf.Tensor, instance_mask: tf.Tensor, crowd_mask: tf.Tensor
) -> tf.Tensor:
    things = tf.reduce_max(category_mask) + instance_mask
    keys = tf.where(instance_mask > 0, things, category_mask)
    return tf.where(tf.logical_or(crowd_mask, category_mask == 0), 0, keys)


_keys = lookup.compiled(_key_of_pixels)
_look_up = lookup.compiled(tf.gather)

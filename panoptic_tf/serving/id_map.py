"""Panoptic predictions as COCO-style PNGs of segment ids, inside the graph."""

from __future__ import annotations

from typing import Tuple

import tensorflow as tf

from panoptic_tf.structures import Prediction, Tensors


def encode_id_maps(prediction: Tensors, original_sizes: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
    """Encodes each image's segments as an RGB PNG of the image's own size.

    The id of a segment is its row in the segment table + 1, id = R + 256 G + 65536 B, 0 is void.
    Where the image is larger than the output size, ids are resized to it (nearest).

    Args:
      prediction: the panoptic keys of `structures.Prediction`.
      original_sizes: int32 [B, 2].

    Returns:
      png_bytes: string [B].
      areas: int32 [B, N], pixels in the PNG.
    """

    def encode(row: Tuple[Tensors, tf.Tensor]) -> Tuple[tf.Tensor, tf.Tensor]:
        one, original_size = row
        answered = one[Prediction.IMAGE_SIZE]
        # Cut first: of a strip of one pixel's width, whole rows would be millions of pixels.
        ids = _segment_ids(one)[: answered[0], : answered[1]]
        rows = _nearest(original_size[0], answered[0])
        columns = _nearest(original_size[1], answered[1])
        rgb = tf.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1)
        rgb = tf.cast(rgb, tf.uint8)  # bytes before they become many
        rgb = tf.gather(tf.gather(rgb, rows, axis=0), columns, axis=1)
        count = one[Prediction.SEGMENT_CATEGORY].shape[0] + 1
        areas = _areas(ids, rows, columns, count)
        return tf.io.encode_png(rgb), areas[1:]

    panoptic = {key: prediction[key] for key in Prediction.PANOPTIC_KEYS}
    segments = prediction[Prediction.SEGMENT_CATEGORY].shape[1]
    signature = (tf.TensorSpec([], tf.string), tf.TensorSpec([segments], tf.int32))
    # One at a time: the pixels of one image are in memory, not those of the batch.
    return tf.map_fn(
        encode,
        (panoptic, original_sizes),
        fn_output_signature=signature,
        parallel_iterations=1,
    )


def _areas(ids: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor, count: int) -> tf.Tensor:
    """Pixels of each id after the resize, counted before it: int32 [count].

    Args:
      ids: int32 [H, W].
      rows, columns: source row and column of every pixel, int64.
      count: number of ids.
    """
    height, width = tf.shape(ids)[0], tf.shape(ids)[1]
    row_copies = tf.math.bincount(tf.cast(rows, tf.int32), minlength=height)
    column_copies = tf.math.bincount(tf.cast(columns, tf.int32), minlength=width)
    copies = tf.reshape(row_copies[:, tf.newaxis] * column_copies, [-1])
    return tf.math.bincount(tf.reshape(ids, [-1]), copies, minlength=count, maxlength=count)


def _segment_ids(prediction: Tensors) -> tf.Tensor:
    """Row + 1 of each pixel's segment, of one image: int32 [H, W]."""
    category, instance = prediction[Prediction.CATEGORY_MASK], prediction[Prediction.INSTANCE_MASK]
    row_category = prediction[Prediction.SEGMENT_CATEGORY]  # [N]
    row_instance = prediction[Prediction.SEGMENT_INSTANCE]
    # One key per segment: instances as they are, stuff behind them by category.
    first_stuff = 1 + tf.maximum(tf.reduce_max(instance), tf.reduce_max(row_instance))
    last_category = tf.maximum(tf.reduce_max(category), tf.reduce_max(row_category))
    row_key = tf.where(row_instance > 0, row_instance, first_stuff + row_category)
    pixel_key = tf.where(instance > 0, instance, first_stuff + category)
    ids = tf.range(1, row_category.shape[0] + 1)
    ids = tf.where(row_category > 0, ids, 0)  # rows past num_segments have category 0
    id_of_key = tf.scatter_nd(row_key[:, tf.newaxis], ids, [first_stuff + last_category + 1])
    return tf.gather(id_of_key, pixel_key)


def _nearest(length: tf.Tensor, source_length: tf.Tensor) -> tf.Tensor:
    """Source index of every output pixel, half-pixel centers: int64 [length].

    In integers, as `metrics.original_size` counts, for equality on ties.
    """
    length, source_length = tf.cast(length, tf.int64), tf.cast(source_length, tf.int64)
    return (2 * tf.range(length) + 1) * source_length // (2 * length)

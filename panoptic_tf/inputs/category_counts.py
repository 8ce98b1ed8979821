"""How many images and pixels of the records each category has; no image is decoded for it."""

from __future__ import annotations

import time
from typing import NamedTuple, Sequence, Tuple

import numpy as np
import tensorflow as tf
from absl import logging

from panoptic_tf.datasets import record

_BATCH = 256  # counts that are handed to Python at a time


class CategoryCounts(NamedTuple):
    """What `doctor` counts, too.

    Attributes:
      num_images: images.
      images: int64 [N + 1], images with a segment of the category, crowds among them; entry 0 is 0.
      pixels: int64 [N + 1], their pixels.
    """

    num_images: int
    images: np.ndarray
    pixels: np.ndarray


def count_categories(
    paths: Sequence[str],
    *,
    num_categories: int,
    max_examples: int = 0,
    skip_bad_records: bool = False,
) -> CategoryCounts:
    """Counts what the segment tables of records say, in one pass.

    Args:
      paths: the files.
      num_categories: N; a segment of another category is not counted, decoding its record will
        complain of it.
      max_examples: only the first so many records; 0 is all.
      skip_bad_records: leave out those that cannot be parsed.

    Raises:
      tf.errors.OpError: a record cannot be read or parsed; see `failures.explain_failure`.
    """
    started = time.monotonic()
    logging.info("counting the categories of records; files: %d.", len(paths))
    records = tf.data.TFRecordDataset(list(paths)).take(max_examples or -1)
    # Records hold images, too: a batch is of counts, so that few records are in memory.
    tables = records.map(
        lambda serialized: _count(serialized, num_categories), num_parallel_calls=tf.data.AUTOTUNE
    )
    if skip_bad_records:
        tables = tables.ignore_errors()
    num_images = 0
    images, pixels = np.zeros([2, num_categories + 1], np.int64)
    for images_of_batch, pixels_of_batch in tables.batch(_BATCH).as_numpy_iterator():
        num_images += len(images_of_batch)
        images += images_of_batch.sum(axis=0)
        pixels += pixels_of_batch.sum(axis=0)
    seconds = time.monotonic() - started
    logging.info("counted the categories of %d records in %.1f s.", num_images, seconds)
    return CategoryCounts(num_images, images, pixels)


def _count(serialized: tf.Tensor, num_categories: int) -> Tuple[tf.Tensor, tf.Tensor]:
    """Which categories a record has, 0 or 1, and their pixels: int64 [N + 1] each."""
    categories, areas = record.parse_fields(
        serialized, record.Field.SEGMENT_CATEGORIES, record.Field.SEGMENT_AREAS
    )
    is_known = (categories > 0) & (categories <= num_categories)
    # Of a negative id nothing is added.
    rows = tf.where(is_known, categories, -1)
    pixels = tf.math.unsorted_segment_sum(areas, rows, num_categories + 1)
    segments = tf.math.unsorted_segment_sum(tf.ones_like(areas), rows, num_categories + 1)
    return tf.cast(segments > 0, tf.int64), pixels

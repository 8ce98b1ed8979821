"""How many images and pixels of the records each category has; no image is decoded for it."""

from __future__ import annotations

from typing import NamedTuple, Sequence

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from panoptic_tf.datasets import record

_BATCH = 256


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
    """Counts what the segment tables of records say, in one pass with a progress bar.

    Args:
      paths: the files.
      num_categories: N; a segment of another category is not counted, decoding its record will
        complain of it.
      max_examples: only the first so many records; 0 is all.
      skip_bad_records: leave out those that cannot be parsed, which takes longer.

    Raises:
      tf.errors.OpError: a record cannot be read or parsed; see `failures.explain_failure`.
    """
    records = tf.data.TFRecordDataset(list(paths)).take(max_examples or -1)
    tables = records.batch(1 if skip_bad_records else _BATCH).map(
        lambda serialized: _tables(serialized, num_categories), num_parallel_calls=tf.data.AUTOTUNE
    )
    if skip_bad_records:
        tables = tables.ignore_errors()
    num_images = 0
    images, pixels = np.zeros([2, num_categories + 1], np.int64)
    with tqdm(desc="count categories", unit="record") as bar:
        for count, images_of_batch, pixels_of_batch in tables.as_numpy_iterator():
            num_images += int(count)
            images += images_of_batch
            pixels += pixels_of_batch
            bar.update(int(count))
    return CategoryCounts(num_images, images, pixels)


def segment_categories(serialized: tf.Tensor) -> tf.Tensor:
    """The categories of a record's segments, nothing else of it is decoded.

    Args:
      serialized: string [], a record.

    Returns:
      int64 [S].
    """
    column = {record.Field.SEGMENT_CATEGORIES: tf.io.VarLenFeature(tf.int64)}
    return tf.io.parse_single_example(serialized, column)[record.Field.SEGMENT_CATEGORIES].values


def _tables(serialized: tf.Tensor, num_categories: int):
    """Number of records of a batch, images int64 [N + 1] and pixels int64 [N + 1]."""
    names = (record.Field.SEGMENT_CATEGORIES, record.Field.SEGMENT_AREAS)
    column = tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64)
    parsed = tf.io.parse_example(serialized, {name: column for name in names})
    categories, areas = (parsed[name] for name in names)
    rows = categories.value_rowids()
    ids = categories.flat_values
    ids = tf.where((ids > 0) & (ids <= num_categories), ids, 0)
    pixels = tf.math.unsorted_segment_sum(areas.flat_values, ids, num_categories + 1)
    count = tf.shape(serialized, tf.int64)[0]
    cells = tf.unique(rows * (num_categories + 1) + ids).y
    images = tf.math.bincount(
        tf.cast(cells % (num_categories + 1), tf.int32), minlength=num_categories + 1
    )
    present = tf.concat([[0], tf.ones([num_categories], tf.int64)], axis=0)
    return count, tf.cast(images, tf.int64) * present, pixels * present

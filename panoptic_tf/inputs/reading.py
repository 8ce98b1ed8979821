"""Files of records in; records out, serialized with where they come from, or decoded."""

from __future__ import annotations

from typing import Optional, Sequence

import tensorflow as tf

from panoptic_tf.datasets import record
from panoptic_tf.datasets.size_limit import SizeLimit


def read_records(
    paths: Sequence[str],
    *,
    max_examples: int = 0,
    shuffle_files: bool = False,
    seed: Optional[int] = None,
    input_context: Optional[tf.distribute.InputContext] = None,
) -> tf.data.Dataset:
    """One pass over the records.

    Args:
      paths: the files.
      max_examples: only the first so many; 0 is all.
      shuffle_files: read several files at a time, in random order.
      seed: of that order.
      input_context: this worker's share: some of the files, or every so many records.

    Returns:
      Dataset of (position int64 [2], serialized record string []); a position is (index of the
      file, number of the record in it).
    """
    workers, worker = 1, 0
    if input_context is not None:
        workers, worker = input_context.num_input_pipelines, input_context.input_pipeline_id
    files = tf.data.Dataset.from_tensor_slices(list(paths)).enumerate()
    if max_examples or len(paths) < workers or not shuffle_files:
        records = files.flat_map(_records_of_file)
        records = records.take(max_examples) if max_examples else records
        return records.shard(workers, worker)
    return (
        files.shard(workers, worker)
        .shuffle(len(paths), seed=seed)
        .interleave(
            _records_of_file,
            cycle_length=min(8, len(paths)),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=seed is not None,
        )
    )


def read_examples(
    paths: Sequence[str], *, max_examples: int = 0, size_limit: Optional[SizeLimit] = None
) -> tf.data.Dataset:
    """The decoded records of files, in order; see `record.decode_example`.

    Args:
      paths: the files.
      max_examples: only the first so many; 0 is all.
      size_limit: leaves out larger images, undecoded, and counts them.
    """
    records = tf.data.TFRecordDataset(list(paths)).take(max_examples or -1)
    if size_limit is not None:
        records = size_limit.filter(records)
    return records.map(record.decode_example)


def number_records(
    dataset: tf.data.Dataset,
    *,
    batch_size: int,
    input_context: Optional[tf.distribute.InputContext] = None,
) -> tf.data.Dataset:
    """Numbers elements: (...) -> (..., number int64 []).

    Args:
      dataset: the elements.
      batch_size: images of one replica's batch.
      input_context: leaves out what is of other workers.
    """
    numbered = dataset.enumerate()
    if input_context is not None and input_context.num_input_pipelines > 1:
        workers, worker = input_context.num_input_pipelines, input_context.input_pipeline_id
        rows = batch_size * input_context.num_replicas_in_sync // workers
        numbered = numbered.filter(lambda number, element: number // rows % workers == worker)
    return numbered.map(lambda number, element: (*element, number))


def _records_of_file(index: tf.Tensor, path: tf.Tensor) -> tf.data.Dataset:
    records = tf.data.TFRecordDataset(path).enumerate()
    return records.map(lambda number, serialized: (tf.stack([index, number]), serialized))

"""Which file or record made reading fail, looked for once it has."""

from __future__ import annotations

from typing import Optional

import tensorflow as tf

from panoptic_tf.inputs import reading, samples
from panoptic_tf.inputs.bad_records import find_bad_record, reported_by
from panoptic_tf.inputs.shards import find_damaged_record, find_shards

_OF_DATASET = "IteratorGetNext"


def explain_failure(
    error: Exception,
    *,
    input_path: str,
    num_categories: Optional[int] = None,
    with_instances: bool = False,
    max_examples: int = 0,
    allow_partial: bool = False,
    max_bad_records: int = 0,
    settings: str = "",
) -> Optional[str]:
    """Which record, or which file, made a dataset of `pipeline` fail, or None.

    Reads records until it is found, which takes as long as a pass at most.

    Args:
      error: what came of the iteration, or of decoding an element in Python.
      input_path, num_categories, with_instances, max_examples, allow_partial, max_bad_records,
        settings: what the dataset was built with.
    """
    is_of_graph = isinstance(error, tf.errors.OpError)
    reported = reported_by(error) if is_of_graph else None
    if reported:
        return reported
    try:
        paths = find_shards(
            input_path, name=f"{settings}input_path", allow_partial=allow_partial
        ).paths
    except ValueError as changed:
        return str(changed)
    if isinstance(error, tf.errors.DataLossError):
        return find_damaged_record(paths)
    if max_bad_records or is_of_graph and _OF_DATASET not in str(error):
        return None  # Where bad records may be skipped, the error itself names them.
    return find_bad_record(
        reading.read_records(paths, max_examples=max_examples),
        samples.build_decoder(num_categories=num_categories, check_rles=with_instances),
        paths,
        name=f"{settings}max_bad_records",
    )

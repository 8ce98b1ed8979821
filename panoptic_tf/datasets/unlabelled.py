"""Pixels without a label: void, or a stuff category of their own; and images without a label.

Void is neither trained on nor scored. If only objects are labelled, a model that predicts
objects everywhere would have a perfect score, so there the rest is background.
"""

from __future__ import annotations

import dataclasses
from typing import Sequence, Tuple

import numpy as np
from absl import logging

from panoptic_tf.datasets import segments
from panoptic_tf.datasets.annotations import Segment
from panoptic_tf.datasets.dataset_info import Category, DatasetInfo

SKIP = "skip"
POLICIES = ("auto", "background", "void", SKIP)
_COLOR = (128, 128, 128)


def resolve(policy: str, dataset_info: DatasetInfo) -> DatasetInfo:
    """The categories of the records, `unlabelled_id` set where unlabelled pixels have one.

    Args:
      policy: `background`, `void`, or `auto`: background where no category is stuff. `skip`, by
        which images without any label are left out, is as `auto` of the others.
      dataset_info: the categories of the annotations.

    Raises:
      ValueError: an unknown policy.
    """
    if policy not in POLICIES:
        raise ValueError(f"unlabelled must be one of {', '.join(POLICIES)}, got {policy!r}.")
    if policy == "void" or policy in ("auto", SKIP) and dataset_info.stuff_ids:
        return dataset_info
    category = Category(
        id=dataset_info.num_categories + 1,
        dataset_id=max(dataset_info.dataset_ids) + 1,
        name=_free_name(dataset_info),
        is_thing=False,
        color=_COLOR,
    )
    if policy in ("auto", SKIP):
        logging.warning(
            "No category is stuff: unlabelled pixels become the stuff category %r (id %d). "
            "--unlabelled=void leaves them void, neither trained nor scored.",
            category.name,
            category.dataset_id,
        )
    return dataclasses.replace(
        dataset_info,
        categories=(*dataset_info.categories, category),
        unlabelled_id=category.dataset_id,
    )


def fill(
    rows: np.ndarray, segment_table: Sequence[Segment], category_id: int
) -> Tuple[np.ndarray, Sequence[Segment]]:
    """Makes void pixels one more segment.

    Args:
      rows: int32 [H, W], row of the segment + 1, 0 is void.
      segment_table: S segments.
      category_id: the data set's own id of their category.

    Returns:
      Rows and segments; the same where no pixel is void.
    """
    is_void = rows == 0
    if not is_void.any():
        return rows, segment_table
    used = {segment.id for segment in segment_table}
    free_id = next(i for i in range(1, len(used) + 2) if i not in used)
    filled = np.where(is_void, len(segment_table) + 1, rows).astype(rows.dtype)
    areas, boxes = segments.areas_and_boxes(filled, len(segment_table) + 1)
    segment = Segment(free_id, category_id, False, int(areas[-1]), tuple(boxes[-1].tolist()))
    return filled, (*segment_table, segment)


def _free_name(dataset_info: DatasetInfo) -> str:
    return next(
        name
        for name in ("background", "unlabelled", "unlabelled pixels")
        if name not in dataset_info.names
    )

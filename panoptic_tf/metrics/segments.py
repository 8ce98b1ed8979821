"""Segments of an image as small consecutive labels, and the pixels two such maps share.

Everything the metrics need to know about one image is the table of shared pixels: it is small
(segments x segments) and costs one histogram over the pixels, without sorting them.
"""

from __future__ import annotations

from typing import NamedTuple, Optional, Sequence, Tuple

import numpy as np

MAX_SEGMENT_ID = 256**3 - 1
"""Largest id a COCO panoptic PNG holds."""

_MAX_INSTANCE_ID = 2**16
"""Up to here a table over all (category, instance) pairs is cheaper than sorting the pixels."""


class LabelMap(NamedTuple):
    """The S segments of one image under labels 1..S; label 0 is void.

    Attributes:
      labels: int64 [H * W], 0..S.
      size: (H, W).
      categories: int64 [S + 1], category id by label; entry 0 is 0.
      is_crowd: bool [S + 1]; entry 0 is False.
    """

    labels: np.ndarray
    size: Tuple[int, ...]
    categories: np.ndarray
    is_crowd: np.ndarray


class Overlaps(NamedTuple):
    """Pixels shared by each of G ground-truth and P predicted segments; row and column 0 are void.

    Attributes:
      pixels: int64 [G + 1, P + 1].
      gt_categories: int64 [G + 1].
      gt_is_crowd: bool [G + 1].
      categories: int64 [P + 1].
    """

    pixels: np.ndarray
    gt_categories: np.ndarray
    gt_is_crowd: np.ndarray
    categories: np.ndarray


def label_masks(
    category_mask: np.ndarray,
    instance_mask: np.ndarray,
    crowd_mask: Optional[np.ndarray] = None,
) -> LabelMap:
    """Labels each distinct (category, instance, crowd) triple, in that order; category 0 is void.

    Args:
      category_mask: integers [H, W], 0..N.
      instance_mask: integers [H, W], at least 0.
      crowd_mask: bool [H, W], or None: no crowd.

    Raises:
      ValueError: the masks differ in size, or hold a negative number.
    """
    _check_masks(category_mask, instance_mask, crowd_mask)
    instances = instance_mask.reshape(-1)
    if instances.max(initial=0) > _MAX_INSTANCE_ID:
        instances = np.unique(instances, return_inverse=True)[1].reshape(-1)
    num_instances = int(instances.max(initial=0)) + 1
    has_crowd = crowd_mask is not None and bool(np.any(crowd_mask))
    keys = category_mask.reshape(-1).astype(np.int64)
    keys *= num_instances
    keys += instances
    if has_crowd:
        keys *= 2
        keys += np.asarray(crowd_mask, bool).reshape(-1)
    keys_per_category = num_instances * (1 + has_crowd)
    present = np.zeros(int(keys.max(initial=0)) + 1, bool)
    present[keys] = True
    present[:keys_per_category] = False
    found = np.flatnonzero(present)
    label_of_key = np.zeros(present.size, np.int64)
    label_of_key[found] = np.arange(1, found.size + 1)
    return LabelMap(
        labels=label_of_key[keys],
        size=category_mask.shape,
        categories=np.append(0, found // keys_per_category),
        is_crowd=np.append(False, found % 2 == 1 if has_crowd else np.zeros(found.size, bool)),
    )


def label_id_map(
    id_map: np.ndarray,
    *,
    ids: Sequence[int],
    categories: Sequence[int],
    is_crowd: Optional[Sequence[bool]] = None,
    source: str = "the id map",
) -> LabelMap:
    """Labels the segments of an id map in the order of their table; id 0 is void.

    Args:
      id_map: integers [H, W], 0..MAX_SEGMENT_ID.
      ids: [S] distinct segment ids, at least 1.
      categories: [S] category ids.
      is_crowd: [S], or None: no crowd.
      source: file and image, for error messages.

    Raises:
      ValueError: the id map and the table do not hold the same segments.
    """
    table = np.asarray(ids, np.int64).reshape(-1)
    values = id_map.reshape(-1).astype(np.int64)
    _check_table(table, values, source)
    # 0 is unknown, 1 void, 2 the first segment. Only pages of the table in use cost memory.
    label_of_id = np.zeros(MAX_SEGMENT_ID + 1, np.int32)
    label_of_id[0] = 1
    label_of_id[table] = np.arange(2, table.size + 2)
    labels = label_of_id[values].astype(np.int64)
    areas = np.bincount(labels, minlength=table.size + 2)
    if areas[0]:
        unknown = int(values[np.argmin(labels)])
        raise ValueError(
            f"{source}: segment {unknown} has pixels in the PNG and no entry in segments_info."
        )
    if not areas[2:].all():
        missing = int(table[np.argmin(areas[2:])])
        raise ValueError(
            f"{source}: segment {missing} is in segments_info and has no pixel in the PNG."
        )
    labels -= 1
    crowds = np.asarray([False] * table.size if is_crowd is None else is_crowd, bool)
    return LabelMap(
        labels=labels,
        size=id_map.shape,
        categories=np.append(0, np.asarray(categories, np.int64)),
        is_crowd=np.append(False, crowds),
    )


def count_overlaps(ground_truth: LabelMap, prediction: LabelMap) -> Overlaps:
    """Counts the pixels of every pair of segments.

    Raises:
      ValueError: the two maps differ in size.
    """
    if tuple(ground_truth.size) != tuple(prediction.size):
        raise ValueError(
            f"the prediction must have the ground truth's size {tuple(ground_truth.size)}, "
            f"got {tuple(prediction.size)}."
        )
    shape = (ground_truth.categories.size, prediction.categories.size)
    pairs = ground_truth.labels * shape[1]
    pairs += prediction.labels
    pixels = np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape)
    return Overlaps(pixels, ground_truth.categories, ground_truth.is_crowd, prediction.categories)


def _check_masks(
    category_mask: np.ndarray, instance_mask: np.ndarray, crowd_mask: Optional[np.ndarray]
) -> None:
    sizes = {"category_mask": category_mask.shape, "instance_mask": instance_mask.shape}
    if crowd_mask is not None:
        sizes["crowd_mask"] = crowd_mask.shape
    if len(set(sizes.values())) > 1 or category_mask.ndim != 2:
        raise ValueError(f"masks must be [H, W] and of one size, got {sizes}.")
    for name, mask in (("category_mask", category_mask), ("instance_mask", instance_mask)):
        if mask.min(initial=0) < 0:
            raise ValueError(f"{name} must not be negative, got {int(mask.min())}.")


def _check_table(ids: np.ndarray, values: np.ndarray, source: str) -> None:
    if ids.size and not 1 <= ids.min() <= ids.max() <= MAX_SEGMENT_ID:
        wrong = int(ids.min()) if ids.min() < 1 else int(ids.max())
        raise ValueError(f"{source}: segment ids must be 1..{MAX_SEGMENT_ID}, got {wrong}.")
    distinct, counts = np.unique(ids, return_counts=True)
    if distinct.size < ids.size:
        repeated = int(distinct[np.argmax(counts)])
        raise ValueError(f"{source}: segment {repeated} has more than one entry.")
    if not 0 <= values.min(initial=0) <= values.max(initial=0) <= MAX_SEGMENT_ID:
        raise ValueError(f"{source}: pixels must hold ids 0..{MAX_SEGMENT_ID}.")

"""Maps of segments: colours to ids, ids to rows of a table, rows to areas, boxes and masks.

A row map is int32 [H, W]: the row number of the pixel's segment + 1, 0 is void.
"""

from __future__ import annotations

from typing import Any, Sequence, Tuple

import numpy as np

MAX_SEGMENT_ID = 256**3 - 1
"""The largest id that three colour bytes hold."""

_INT64_RANGE = 2.0**63


def as_integers(name: str, values: Any) -> np.ndarray:
    """An array of whole numbers as integers; nothing is rounded or wrapped.

    Args:
      name: of the array, for the error message.
      values: integers of any width, bool, or floats that are whole.

    Raises:
      ValueError: other values, NaN and infinity among them.
    """
    values = np.asarray(values)
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    if values.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            is_integer = (np.floor(values) == values) & (np.abs(values) < _INT64_RANGE)
        if not is_integer.all():
            raise ValueError(f"{name} must hold integers, got {values[~is_integer][0]}.")
        return values.astype(np.int64)
    if values.dtype.kind not in "iu":
        raise ValueError(f"{name} must hold integers, got an array of {values.dtype}.")
    return values


def rgb_to_id(rgb: np.ndarray) -> np.ndarray:
    """Colours of a panoptic PNG to ids: R + 256 G + 65536 B.

    Args:
      rgb: uint8 [H, W, 3].

    Returns:
      uint32 [H, W].

    Raises:
      ValueError: of another type.
    """
    if rgb.dtype != np.uint8:
        raise ValueError(f"rgb must be uint8, got {rgb.dtype}.")
    ids = np.zeros((*rgb.shape[:-1], 4), np.uint8)
    ids[..., :3] = rgb
    return ids.view("<u4")[..., 0].astype(np.uint32, copy=False)


def id_to_rgb(ids: np.ndarray) -> np.ndarray:
    """Ids to the colours of a panoptic PNG, the inverse of `rgb_to_id`.

    Args:
      ids: integers [H, W], 0..2^24 - 1.

    Returns:
      uint8 [H, W, 3].

    Raises:
      ValueError: an id is out of this range or no integer.
    """
    ids = as_integers("ids", ids)
    if ids.size and (ids.min() < 0 or ids.max() > MAX_SEGMENT_ID):
        raise ValueError(f"ids must lie in 0..{MAX_SEGMENT_ID}, got {ids.min()}..{ids.max()}.")
    ids = ids.astype(np.uint32)
    return np.stack([ids >> shift & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)


def ids_to_rows(id_map: np.ndarray, segment_ids: Sequence[int]) -> Tuple[np.ndarray, np.ndarray]:
    """Ids to row numbers of the segment table.

    Args:
      id_map: uint32 [H, W], 0 is void.
      segment_ids: S ids, all different and positive, in the order of the table.

    Returns:
      rows: int32 [H, W], row + 1; 0 where the id is 0 or not in the table.
      unknown_ids: the ids of the map that the table lacks, ascending.
    """
    table = np.concatenate([[0], np.asarray(segment_ids, np.int64).reshape(-1)])
    order = np.argsort(table)
    id_map = id_map.astype(np.int64)
    position = np.searchsorted(table[order], id_map).clip(max=len(table) - 1)
    rows = order[position].astype(np.int32)
    is_unknown = table[rows] != id_map
    return np.where(is_unknown, np.int32(0), rows), np.unique(id_map[is_unknown])


def areas_and_boxes(rows: np.ndarray, num_segments: int) -> Tuple[np.ndarray, np.ndarray]:
    """Measures every segment of a row map.

    Args:
      rows: int32 [H, W], row + 1, 0 is void.
      num_segments: S.

    Returns:
      areas: int64 [S], pixels.
      boxes: int32 [S, 4], [x, y, width, height] as COCO has them; zeros where the area is 0.
    """
    areas = np.bincount(rows.reshape(-1), minlength=num_segments + 1)[1:]
    ys, xs = np.arange(rows.shape[0])[:, np.newaxis], np.arange(rows.shape[1])[np.newaxis]
    y, height = _extents(rows, ys, num_segments)
    x, width = _extents(rows, xs, num_segments)
    boxes = np.stack([x, y, width, height], axis=-1).astype(np.int32)
    return areas.astype(np.int64), boxes * (areas > 0)[:, None].astype(np.int32)


def rows_to_masks(
    rows: np.ndarray,
    *,
    categories: Sequence[int],
    is_crowd: Sequence[bool],
    thing_ids: Sequence[int],
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The masks of `structures.GroundTruth` from a row map.

    Args:
      rows: int32 [H, W], row + 1, 0 is void.
      categories: contiguous category id per row.
      is_crowd: crowd flag per row.
      thing_ids: contiguous ids of the thing categories.

    Returns:
      category_mask: int32 [H, W]; instance_mask: int32 [H, W], row + 1 on things and crowds of
      things, 0 elsewhere; crowd_mask: bool [H, W].
    """
    category_of_row = np.concatenate([[0], np.asarray(categories, np.int32)]).astype(np.int32)
    crowd_of_row = np.concatenate([[False], np.asarray(is_crowd, bool)]).astype(bool)
    is_thing = np.isin(category_of_row, np.asarray(thing_ids, np.int32))
    instance_of_row = np.where(is_thing, np.arange(len(is_thing)), 0).astype(np.int32)
    return category_of_row[rows], instance_of_row[rows], crowd_of_row[rows]


def masks_to_rows(
    category_mask: np.ndarray, instance_mask: np.ndarray
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Splits masks into segments, one per pair of category and instance.

    Args:
      category_mask: integers [H, W], contiguous category ids, 0 is void whatever the instance.
      instance_mask: integers [H, W] of any width, at least 0, which is that of stuff.

    Returns:
      rows: int32 [H, W]; categories: int32 [S]; instances: integers [S] of the mask's width. Rows
      ascend by category, then instance.

    Raises:
      ValueError: a mask holds a negative number or no integers.
    """
    category_of_pixel = _at_least_0("category_mask", category_mask).reshape(-1)
    instance_of_pixel = _at_least_0("instance_mask", instance_mask).reshape(-1)
    is_start = np.ones(category_of_pixel.size, bool)
    is_start[1:] = category_of_pixel[1:] != category_of_pixel[:-1]
    is_start[1:] |= instance_of_pixel[1:] != instance_of_pixel[:-1]
    starts = np.flatnonzero(is_start)  # [runs] of pixels of one segment
    categories, instances = category_of_pixel[starts], instance_of_pixel[starts]
    order = np.lexsort((instances, categories))
    categories, instances = categories[order], instances[order]
    is_first = np.ones(len(starts), bool)
    is_first[1:] = categories[1:] != categories[:-1]
    is_first[1:] |= instances[1:] != instances[:-1]
    is_first &= categories > 0
    row_of_run = np.empty(len(starts), np.int32)
    row_of_run[order] = np.where(categories > 0, np.cumsum(is_first), 0)
    lengths = np.diff(starts, append=category_of_pixel.size)
    rows = np.repeat(row_of_run, lengths).reshape(np.shape(category_mask))
    return rows, categories[is_first].astype(np.int32), instances[is_first]


def _at_least_0(name: str, values: np.ndarray) -> np.ndarray:
    integers = as_integers(name, values)
    if integers.size and integers.min() < 0:
        raise ValueError(f"{name} must hold integers of at least 0, got {integers.min()}.")
    return integers


def _extents(
    rows: np.ndarray, coordinates: np.ndarray, num_segments: int
) -> Tuple[np.ndarray, np.ndarray]:
    """First coordinate and length of every segment along one axis."""
    length = coordinates.size
    hit = np.zeros((num_segments + 1, max(length, 1)), bool)
    hit[rows, coordinates] = True
    hit = hit[1:]
    first = hit.argmax(axis=1)
    last = hit.shape[1] - 1 - hit[:, ::-1].argmax(axis=1)
    return first, last - first + 1

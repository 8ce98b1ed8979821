"""Reads masks of class ids or colours, and splits them into segments."""

from __future__ import annotations

from typing import Mapping

import numpy as np

from panoptic_tf.datasets import files, png, record, segments
from panoptic_tf.datasets.annotations import Segment
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.datasets.importers import label_png
from panoptic_tf.datasets.importers.legend import Legend
from panoptic_tf.datasets.importers.source import SegmentMap, Size

KINDS = (label_png.GREY_8, label_png.GREY_16, label_png.PALETTE, label_png.RGB)

THINGS_APART = (
    "categories are things whose instances are not distinguished; their pixels are crowds, which "
    "the evaluation does not count"
)
"""A kind of `Notes`."""

_EXPECTED = "a PNG of class ids or colours"


def read(path: str, size: Size, legend: Legend) -> np.ndarray:
    """Reads a mask of classes.

    Args:
      path: PNG of ids (grey, or the indices of a palette) or of colours (RGB).
      size: (height, width) that it must have.
      legend: what its pixels mean.

    Returns:
      int32 [H, W], contiguous categories, 0 is void.

    Raises:
      ValueError: damaged, of another size, or a pixel has an id or a colour that is not listed.
    """
    pixels = label_png.read(path, size, KINDS, expected=_EXPECTED)
    if pixels.ndim == 2:
        _check_palette(path, pixels, legend)
        return _look_up(path, pixels, legend.by_id, legend)
    if legend.color_problem is not None:
        raise ValueError(f"{path}: is RGB, for which {legend.color_problem}")
    return _look_up(path, as_ids(pixels), legend.by_color, legend, is_color=True)


def as_ids(pixels: np.ndarray) -> np.ndarray:
    """One number a pixel, int64 [H, W]: R + 256 G + 65536 B of colours [H, W, 3]."""
    return segments.rgb_to_id(pixels.astype(np.uint8)) if pixels.ndim == 3 else pixels


def segment_map(
    path: str, categories: np.ndarray, instances: np.ndarray, dataset_info: DatasetInfo
) -> SegmentMap:
    """One segment for each instance of a thing, one for each category of stuff.

    Args:
      path: of the mask, for error messages.
      categories: int32 [H, W], contiguous, 0 is void.
      instances: integers [H, W] of at least 0, not read on stuff; things of 0 are one crowd for
        each category.
      dataset_info: the categories.

    Raises:
      ValueError: more segments than a record holds.
    """
    things = dataset_info.thing_ids
    numbers = np.where(np.isin(categories, things), instances, 0)
    rows, categories_of_rows, numbers_of_rows = segments.masks_to_rows(categories, numbers)
    if len(categories_of_rows) > record.MAX_SEGMENTS:
        raise ValueError(
            f"{path}: has {len(categories_of_rows)} segments; a record holds at most "
            f"{record.MAX_SEGMENTS}."
        )
    pairs = zip(categories_of_rows.tolist(), numbers_of_rows.tolist())
    table = [
        Segment(row, dataset_info.dataset_ids[category], category in things and not number)
        for row, (category, number) in enumerate(pairs, start=1)
    ]
    return SegmentMap(rows, table)


def _look_up(
    path: str,
    values: np.ndarray,
    known: Mapping[int, int],
    legend: Legend,
    *,
    is_color: bool = False,
) -> np.ndarray:
    # Rows of a table begin at 1, and 0 is a value as any other.
    rows, unknown = segments.ids_to_rows(values.astype(np.int64) + 1, [i + 1 for i in known])
    if len(unknown):
        is_unknown = rows == 0
        value = int(values[is_unknown][0])
        shown = f"colour {list(value.to_bytes(3, 'little'))}" if is_color else f"id {value}"
        raise ValueError(
            f"{path}: {shown} at {label_png.first_pixel(is_unknown)} is not that of a category in "
            f"{legend.source}, nor among --void_ids."
        )
    return np.asarray([0, *known.values()], np.int32)[rows]


def _check_palette(path: str, indices: np.ndarray, legend: Legend) -> None:
    """Refuses a palette whose colours name categories as well, and others than its indices.

    Programs that make files smaller turn RGB into a palette; its indices then mean nothing.
    """
    content = files.read_bytes(path, expected=_EXPECTED) if legend.by_color else b""
    palette = next((chunk.data for chunk in png.chunks(content) if chunk.kind == b"PLTE"), b"")
    differs = ""
    for index in np.unique(indices).tolist():
        color = palette[3 * index : 3 * index + 3]
        by_color = legend.by_color.get(int.from_bytes(color, "little"))
        if len(color) < 3 or by_color is None or index not in legend.by_id:
            return
        if by_color != legend.by_id[index]:
            differs = f"index {index} has the colour {list(color)} of another category"
    if differs:
        raise ValueError(
            f"{path}: its palette names categories in {legend.source} by its indices and by its "
            f"colours, and not the same: {differs}. Save it as RGB, or leave out the colours of "
            "the categories."
        )

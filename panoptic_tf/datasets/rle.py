"""Masks as COCO's compressed run-length text (`counts` of a COCO `segmentation`)."""

from __future__ import annotations

from typing import Sequence

import numpy as np
from pycocotools import mask as mask_api

_MAX_CHARACTERS = 7  # Five bits each: 35 bits hold the length of any run.


def encode_rle(mask: np.ndarray) -> bytes:
    """Encodes one mask.

    Args:
      mask: bool or integer [H, W], non-zero on the instance.

    Returns:
      COCO's compressed `counts`.
    """
    return mask_api.encode(np.asfortranarray(mask != 0, dtype=np.uint8))["counts"]


def decode_rle(counts: bytes, height: int, width: int) -> np.ndarray:
    """Decodes one mask from run-length text that was checked: bool [height, width]."""
    return mask_api.decode({"size": [height, width], "counts": counts}).astype(bool)


def unite(masks: Sequence[bytes], height: int, width: int) -> bytes:
    """The union of one or more masks, from run-length text that was checked."""
    return mask_api.merge([{"size": [height, width], "counts": counts} for counts in masks])[
        "counts"
    ]


def check_rle(counts: bytes, height: int, width: int) -> None:
    """Checks a text, as pycocotools does not.

    Args:
      counts: COCO's compressed `counts`.
      height: rows.
      width: columns.

    Raises:
      ValueError: not run-length text, or it does not fill a mask of this size exactly.
    """
    _check_runs(_runs(counts), height, width)


def area(counts: bytes, height: int, width: int) -> int:
    """Pixels of a mask, from run-length text that was checked."""
    return int(mask_api.area({"size": [height, width], "counts": counts}))


def encode_runs(runs: Sequence[int], height: int, width: int) -> bytes:
    """Encodes the lengths of runs, column by column, the first of zeros (uncompressed `counts`).

    Args:
      runs: integers.
      height: rows.
      width: columns.

    Returns:
      COCO's compressed `counts`.

    Raises:
      ValueError: the runs do not fill the mask exactly.
    """
    _check_runs(np.asarray(runs, np.int64), height, width)
    return mask_api.frPyObjects({"size": [height, width], "counts": list(runs)}, height, width)[
        "counts"
    ]


def encode_polygons(polygons: Sequence[Sequence[float]], height: int, width: int) -> bytes:
    """Encodes the union of polygons as pycocotools draws them.

    Args:
      polygons: one or more of x, y, x, y, ... in pixels, at least three points each.
      height: rows.
      width: columns.

    Returns:
      COCO's compressed `counts`.
    """
    return mask_api.merge(mask_api.frPyObjects(list(polygons), height, width))["counts"]


def _check_runs(runs: np.ndarray, height: int, width: int) -> None:
    if (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(
            f"run lengths must fill {height} x {width} = {height * width} pixels, "
            f"got {runs.sum()} in {len(runs)} runs."
        )


def _runs(counts: bytes) -> np.ndarray:
    """Lengths of the runs, the first is of zeros.

    A number is a group of characters, least significant first; a character holds five bits, bit 5
    says that another follows, bit 4 of the last is the sign. From the fourth on, numbers are
    differences to the run two before.
    """
    codes = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    is_last = codes & 32 == 0
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or not is_last[-1]:
        raise ValueError(f"not COCO run-length text: {counts[:40]!r}.")
    ends = np.flatnonzero(is_last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _MAX_CHARACTERS:
        raise ValueError(f"not COCO run-length text, a number is too long: {counts[:40]!r}.")
    places = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    numbers = np.add.reduceat((codes & 31) << places, starts)
    is_negative = codes[ends] & 16 > 0
    runs = numbers - np.where(is_negative, np.int64(1) << 5 * lengths, 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs

"""Masks of what annotation tools draw: polygons, ellipses, and shapes that are one instance.

Points are (x, y) in pixels; a pixel in column i covers i..i + 1.
"""

from __future__ import annotations

import math
from typing import Dict, Hashable, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from panoptic_tf.datasets import files, rle
from panoptic_tf.datasets.importers.source import Mask, Size


class Shape(NamedTuple):
    """One shape of an image.

    Attributes:
      category_id: the data set's own.
      group: shapes of one category and group are one instance; None stands alone.
      rle: COCO's compressed run lengths, of the image's size.
    """

    category_id: int
    group: Optional[Hashable]
    rle: bytes


def join_groups(shapes: Iterable[Shape], size: Size) -> List[Mask]:
    """One mask for each instance; one of several shapes lies where the last of them does.

    Args:
      shapes: later ones lie on top.
      size: (height, width) of the image.
    """
    groups: Dict[Hashable, List[Shape]] = {}
    for number, shape in enumerate(shapes):
        key = number if shape.group is None else (shape.category_id, shape.group)
        parts = groups.pop(key, [])
        parts.append(shape)
        groups[key] = parts
    return [
        Mask(parts[0].category_id, rle.unite([part.rle for part in parts], *size))
        for parts in groups.values()
    ]


def encode_polygon(field: str, points: Sequence[Tuple[float, float]], size: Size) -> bytes:
    """Encodes a polygon as pycocotools draws it.

    Args:
      field: what to call it in an error message.
      points: the corners.
      size: (height, width) of the image.

    Returns:
      COCO's compressed `counts`.

    Raises:
      ValueError: fewer than 3 points, or one is far outside of the image.
    """
    if len(points) < 3:
        raise ValueError(f"{field} must be at least 3 points, got {len(points)}.")
    coordinates = [float(value) for point in points for value in point]
    check_near(field, coordinates, size)
    return rle.encode_polygons([coordinates], *size)


def check_near(field: str, coordinates: Iterable[float], size: Size) -> None:
    """Refuses what is far outside of the image, or no number.

    Far points would be drawn as long lines outside of the image, which takes memory and time.
    """
    longest = max(size)
    for value in coordinates:
        if not -longest <= value <= 2 * longest:
            raise ValueError(
                f"{field}: coordinates must lie in or near the image, within "
                f"{-longest}..{2 * longest} pixels, got {files.shown(value)}."
            )


def rectangle(
    left: float, top: float, right: float, bottom: float, degrees: float = 0.0
) -> List[Tuple[float, float]]:
    """Corners of a rectangle, turned about its centre, clockwise as seen."""
    x, y = (left + right) / 2, (top + bottom) / 2
    corners = ((left, top), (right, top), (right, bottom), (left, bottom))
    if not degrees:
        return list(corners)
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    return [
        (
            x + (corner_x - x) * cosine - (corner_y - y) * sine,
            y + (corner_x - x) * sine + (corner_y - y) * cosine,
        )
        for corner_x, corner_y in corners
    ]


def encode_ellipse(
    field: str,
    center: Tuple[float, float],
    radii: Tuple[float, float],
    size: Size,
    degrees: float = 0.0,
) -> bytes:
    """Encodes the pixels whose centre lies in an ellipse.

    Args:
      field: what to call it in an error message.
      center: (x, y).
      radii: along x and y before it is turned.
      size: (height, width) of the image.
      degrees: angle that it is turned by, clockwise as seen.

    Returns:
      COCO's compressed `counts`.

    Raises:
      ValueError: far outside of the image, or a radius is not positive.
    """
    check_near(field, (*center, *radii), size)
    if min(radii) <= 0:
        raise ValueError(f"{field}: radii must be positive, got {files.shown(radii)}.")
    (x, y), reach, (height, width) = center, max(radii), size
    top, left = (max(0, math.floor(v - reach)) for v in (y, x))
    bottom, right = max(top, math.ceil(y + reach)), max(left, math.ceil(x + reach))
    rows = np.arange(top, min(bottom, height))[:, np.newaxis] + 0.5 - y
    columns = np.arange(left, min(right, width)) + 0.5 - x
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    along = (columns * cosine + rows * sine) / radii[0]
    across = (rows * cosine - columns * sine) / radii[1]
    return encode_part(along**2 + across**2 <= 1, top, left, size)


def encode_part(part: np.ndarray, top: int, left: int, size: Size) -> bytes:
    """Encodes a mask of a part of the image, which must lie inside.

    Args:
      part: bool [h, w].
      top: row of its first row.
      left: column of its first column.
      size: (height, width) of the image.

    Returns:
      COCO's compressed `counts`.
    """
    mask = np.zeros(size, bool)
    mask[top : top + part.shape[0], left : left + part.shape[1]] = part
    return rle.encode_rle(mask)

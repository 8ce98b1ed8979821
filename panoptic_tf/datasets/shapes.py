"""Shapes: a synthetic panoptic data set in which things differ by their outline only.

Every image is a pure function of (seed, index, size): images can be made in any order and by any
number of processes, and the first 2,000 of 8,000 images are the same images. An image holds:

- Background: 2 or 3 of 4 stuff categories in horizontal bands with wavy borders, each with its own
  base colour (jittered) and its own kind of texture.
- 1 to 8 things of 6 categories, one drawn over another, at uniform position, rotation and colour;
  the diameter of the circumscribed circle is log-uniform. In a fifth of the images the last two
  things are of one category and touch.
- Noise on all pixels. A thing with too few visible pixels is void; one image in ten has a void
  rectangle; one in ten marks its largest thing as crowd.

Lengths are pixels of a 128x128 image and scale with `size / 128`, areas with its square. Colours
are in 0..1 until the end. `shapes_writer` writes data sets of such images.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

import numpy as np

SIZE = 128
"""Height and width of the images that the published numbers are about."""

THING_NAMES = ("disc", "square", "triangle", "star", "ring", "cross")
STUFF_NAMES = ("stripes", "checks", "grain", "plain")
"""Category ids are 1..6 for things and 7..10 for stuff, in this order."""

_STUFF_COLORS = ((0.45, 0.62, 0.85), (0.38, 0.62, 0.34), (0.80, 0.68, 0.48), (0.52, 0.44, 0.50))
_TEXTURE_AMPLITUDE = 0.1
_STUFF_COLOR_DEVIATION = 0.1
_THING_GRAIN_DEVIATION = 0.05
_NOISE_DEVIATION = 0.03
_MAX_THINGS = 8
_DIAMETERS = (12.0, 64.0)
_MIN_VISIBLE_PIXELS = 40
_TOUCHING_SHARE = 0.2
_VOID_RECTANGLE_SHARE = 0.1
_CROWD_SHARE = 0.1


class ShapesImage(NamedTuple):
    """One image and its annotation.

    Attributes:
      image: uint8 [size, size, 3], RGB.
      id_map: int32 [size, size], segment ids from 1, 0 is void.
      segments: the `segments_info` of the COCO panoptic format, one object per segment: `id`,
        `category_id`, `iscrowd`, `area` and `bbox` ([x, y, width, height]).
    """

    image: np.ndarray
    id_map: np.ndarray
    segments: List[Dict[str, Any]]


class _Thing(NamedTuple):
    kind: int  # row of THING_NAMES
    center: np.ndarray  # float64 [2], (y, x) in pixels
    radius: float  # of the circumscribed circle, in pixels
    angle: float


def generate_image(seed: int, index: int, size: int = SIZE) -> ShapesImage:
    """Generates one image.

    Args:
      seed: seed of the split; 0 is training, 1 is validation.
      index: number of the image in its split, from 0.
      size: height and width in pixels.

    Returns:
      The image, its id map and its segments in the order of their ids.
    """
    rng = np.random.default_rng([seed, index])
    image, id_map, category_ids = _draw_background(rng, size)
    for thing, mask in _place_things(rng, size):
        grain = rng.normal(0.0, _THING_GRAIN_DEVIATION, (np.count_nonzero(mask), 3))
        image[mask] = rng.uniform(size=3) + grain
        category_ids.append(thing.kind + 1)
        id_map[mask] = len(category_ids)
    image += rng.normal(0.0, _NOISE_DEVIATION, image.shape)
    image = np.round(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)

    if rng.random() < _VOID_RECTANGLE_SHARE:
        _paint_void_rectangle(rng, id_map)
    _drop_small_things(id_map, category_ids)
    has_crowd = rng.random() < _CROWD_SHARE
    return ShapesImage(image, id_map, _describe_segments(id_map, category_ids, has_crowd))


# Background


def _draw_background(
    rng: np.random.Generator, size: int
) -> Tuple[np.ndarray, np.ndarray, List[int]]:
    """Returns the painted bands, the id map (bands are segments 1, 2, ...) and their categories."""
    num_bands = int(rng.integers(2, 4))
    kinds = rng.permutation(len(STUFF_NAMES))[:num_bands]
    rows, columns = np.mgrid[:size, :size] / size  # [size, size], 0..1
    id_map = np.ones((size, size), np.int32)
    for border in range(1, num_bands):
        # Borders stay apart: 1/3 - 2 * (0.08 + 0.06) > 0.
        middle = border / num_bands + rng.uniform(-0.08, 0.08)
        amplitude, waves = rng.uniform(0.02, 0.06), rng.uniform(0.7, 3.0)
        phase = rng.uniform(0.0, 2.0 * math.pi)
        id_map += rows > middle + amplitude * np.sin(2.0 * math.pi * waves * columns + phase)

    image = np.empty((size, size, 3))
    for band, kind in enumerate(kinds, start=1):
        color = np.array(_STUFF_COLORS[kind]) + rng.normal(0.0, _STUFF_COLOR_DEVIATION, 3)
        texture = _TEXTURES[kind](rng, size)  # [size, size], about -1..1
        mask = id_map == band
        image[mask] = color + _TEXTURE_AMPLITUDE * texture[mask][:, np.newaxis]
    return image, id_map, [len(THING_NAMES) + 1 + int(kind) for kind in kinds]


def _stripes(rng: np.random.Generator, size: int) -> np.ndarray:
    angle, period, phase = rng.uniform(0.0, math.pi), rng.uniform(6.0, 12.0), rng.random()
    rows, columns = np.mgrid[:size, :size] * (SIZE / size)
    position = (rows * math.cos(angle) + columns * math.sin(angle)) / period + phase
    return np.where(position % 1.0 < 0.5, 1.0, -1.0)


def _checks(rng: np.random.Generator, size: int) -> np.ndarray:
    cell, shift = rng.uniform(4.0, 8.0), rng.uniform(0.0, 8.0, size=2)
    rows, columns = np.mgrid[:size, :size] * (SIZE / size)
    squares = np.floor((rows + shift[0]) / cell) + np.floor((columns + shift[1]) / cell)
    return np.where(squares % 2.0 < 1.0, 1.0, -1.0)


def _grain(rng: np.random.Generator, size: int) -> np.ndarray:
    grain_size = max(1, round(2 * size / SIZE))
    num_grains = -(-size // grain_size)
    grains = rng.normal(0.0, 1.0, (num_grains, num_grains))
    return np.kron(grains, np.ones((grain_size, grain_size)))[:size, :size]


def _plain(rng: np.random.Generator, size: int) -> np.ndarray:
    del rng
    return np.zeros((size, size))


_TEXTURES: Tuple[Callable[[np.random.Generator, int], np.ndarray], ...] = (
    _stripes,
    _checks,
    _grain,
    _plain,
)


# Things


def _place_things(rng: np.random.Generator, size: int) -> List[Tuple[_Thing, np.ndarray]]:
    """Returns the things in drawing order with their masks, bool [size, size]."""
    has_touching_pair = rng.random() < _TOUCHING_SHARE
    num_things = int(rng.integers(2 if has_touching_pair else 1, _MAX_THINGS + 1))
    things = [_random_thing(rng, size) for _ in range(num_things)]
    placed = [(thing, _rasterize(thing, size)) for thing in things]
    if has_touching_pair:
        first, first_mask = placed[-2]
        twin = things[-1]._replace(kind=first.kind)
        placed[-1] = _move_until_touching(rng, twin, first, first_mask)
    return placed


def _random_thing(rng: np.random.Generator, size: int) -> _Thing:
    diameter = math.exp(rng.uniform(*np.log(_DIAMETERS))) * size / SIZE
    return _Thing(
        kind=int(rng.integers(len(THING_NAMES))),
        center=rng.uniform(0.0, size, 2),
        radius=diameter / 2.0,
        angle=rng.uniform(0.0, 2.0 * math.pi),
    )


def _move_until_touching(
    rng: np.random.Generator, twin: _Thing, first: _Thing, first_mask: np.ndarray
) -> Tuple[_Thing, np.ndarray]:
    """Slides `twin` towards `first`, from the side of a random point, until their pixels adjoin."""
    size = first_mask.shape[0]
    toward = rng.uniform(0.0, size, 2) - first.center
    direction = toward / max(np.linalg.norm(toward), 1e-6)
    border = _grow(first_mask)
    for distance in np.arange(first.radius + twin.radius + 1.0, 0.0, -0.5):
        twin = twin._replace(center=first.center + distance * direction)
        mask = _rasterize(twin, size)
        if np.any(mask & border):
            break
    return twin, mask


def _grow(mask: np.ndarray) -> np.ndarray:
    """Adds the four neighbours of every pixel of a bool mask [H, W]."""
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    return grown


def _rasterize(thing: _Thing, size: int) -> np.ndarray:
    """Returns the pixels whose centers lie in a thing, bool [size, size]."""
    y, x = np.mgrid[:size, :size] + 0.5 - thing.center[:, np.newaxis, np.newaxis]
    cos, sin = math.cos(thing.angle) / thing.radius, math.sin(thing.angle) / thing.radius
    return _OUTLINES[thing.kind](x * cos + y * sin, y * cos - x * sin)


def _is_in_star(u: np.ndarray, v: np.ndarray, num_points: int, inner_radius: float) -> np.ndarray:
    """Inside of the star with its tips on the unit circle and its notches at `inner_radius`.

    By symmetry a point is folded into the wedge between a tip (1, 0) and the notch beside it at
    the angle a = pi / num_points: x is its largest projection on the directions of the tips, y the
    rest. There it is compared with the line through both. With inner_radius = cos(a) the star is
    the regular polygon.
    """
    tips = 2.0 * math.pi * np.arange(num_points) / num_points
    x = functools.reduce(np.maximum, [u * math.cos(tip) + v * math.sin(tip) for tip in tips])
    y = np.sqrt(np.maximum(u * u + v * v - x * x, 0.0))
    wedge = math.pi / num_points
    notch_x, notch_y = inner_radius * math.cos(wedge), inner_radius * math.sin(wedge)
    return (x - 1.0) * notch_y + y * (1.0 - notch_x) <= 0.0


def _is_in_cross(u: np.ndarray, v: np.ndarray, half_width: float = 1.0 / 3.0) -> np.ndarray:
    across, along = np.minimum(np.abs(u), np.abs(v)), np.maximum(np.abs(u), np.abs(v))
    return (across <= half_width) & (along <= math.sqrt(1.0 - half_width**2))


# Insides of the unit outlines, in the order of THING_NAMES. None is below the visible limit at the
# smallest diameter: a star with the notches of a pentagram (0.38) would be.
_OUTLINES: Tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], ...] = (
    lambda u, v: u * u + v * v <= 1.0,
    lambda u, v: _is_in_star(u, v, 4, math.cos(math.pi / 4.0)),
    lambda u, v: _is_in_star(u, v, 3, math.cos(math.pi / 3.0)),
    lambda u, v: _is_in_star(u, v, 5, 0.45),
    lambda u, v: np.abs(u * u + v * v - 0.625) <= 0.375,  # radius 0.5 to 1
    _is_in_cross,
)


# Annotation


def _paint_void_rectangle(rng: np.random.Generator, id_map: np.ndarray) -> None:
    size = id_map.shape[0]
    height, width = (int(side) for side in rng.integers(size // 8, size // 2 + 1, 2))
    top, left = int(rng.integers(size - height + 1)), int(rng.integers(size - width + 1))
    id_map[top : top + height, left : left + width] = 0


def _drop_small_things(id_map: np.ndarray, category_ids: List[int]) -> None:
    min_pixels = _MIN_VISIBLE_PIXELS * (id_map.shape[0] / SIZE) ** 2
    areas = np.bincount(id_map.ravel(), minlength=len(category_ids) + 1)
    for segment_id, category_id in enumerate(category_ids, start=1):
        if category_id <= len(THING_NAMES) and areas[segment_id] < min_pixels:
            id_map[id_map == segment_id] = 0


def _describe_segments(
    id_map: np.ndarray, category_ids: List[int], has_crowd: bool
) -> List[Dict[str, Any]]:
    """Returns `segments_info`; ids without pixels have no segment."""
    segments: List[Dict[str, Any]] = []
    for segment_id, category_id in enumerate(category_ids, start=1):
        rows, columns = np.nonzero(id_map == segment_id)
        if not rows.size:
            continue
        top, left = int(rows.min()), int(columns.min())
        segments.append(
            {
                "id": segment_id,
                "category_id": category_id,
                "iscrowd": 0,
                "area": int(rows.size),
                "bbox": [left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1],
            }
        )
    things = [s for s in segments if s["category_id"] <= len(THING_NAMES)]
    if has_crowd and things:
        max(things, key=lambda s: s["area"])["iscrowd"] = 1
    return segments

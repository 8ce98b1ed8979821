"""A panoptic segmentation painted over its image.

A segment has its category's colour. Instances of one category vary it; the variation follows their
order from top to bottom, so that an instance looks the same in ground truth and in a prediction
that finds the same instances. Crowds are hatched. Void keeps its pixels, grey and dimmed.
"""

from __future__ import annotations

import colorsys
from typing import NamedTuple, Optional, Sequence, Tuple

import numpy as np

from panoptic_tf.structures import VOID
from panoptic_tf.visualization import images, labels

Color = Tuple[int, int, int]

_VOID_BRIGHTNESS = 0.45
_CROWD_BRIGHTNESS = 0.6
_BORDER_OPACITY = 0.85
_GRAYING = 0.7  # The image's own colours would be taken for a category's.
_ROWS = 64  # painted at a time, which bounds the memory
# Fractions whose multiples spread evenly over 0..1, different ones for hue and lightness.
_HUE_STEP, _LIGHTNESS_STEP = 0.6180, 0.7549
_HUE_RANGE, _LIGHTNESS_RANGE = 0.07, 0.16


class _Segments(NamedTuple):
    numbers: np.ndarray  # int [H, W], row of the segment
    categories: np.ndarray  # int [S]
    ranks: np.ndarray  # int [S], order among the instances of the category, 0 for the first
    is_crowd: np.ndarray  # bool [S]


def draw_overlay(
    image: np.ndarray,
    category_mask: np.ndarray,
    instance_mask: np.ndarray,
    *,
    colors: Sequence[Color],
    names: Optional[Sequence[str]] = None,
    crowd_mask: Optional[np.ndarray] = None,
    alpha: float = 0.6,
) -> np.ndarray:
    """Paints the segments over the image.

    Args:
      image: uint8 [H, W, 3], RGB.
      category_mask: int [H, W], 0 is void.
      instance_mask: int [H, W], 0 is none.
      colors: (red, green, blue) by category id; entry 0 belongs to void and is not used.
      names: by category id; given, segments are labelled where the text has room.
      crowd_mask: bool [H, W], True on crowds.
      alpha: opacity of the paint, 0..1.

    Returns:
      uint8 [H, W, 3].

    Raises:
      ValueError: shapes differ, or a category id has no colour or no name.
    """
    _check_shapes(image, category_mask, instance_mask, crowd_mask)
    segments = _find_segments(category_mask, instance_mask, crowd_mask)
    _check_categories(segments.categories, colors, names)
    painted = _paint(image, segments, crowd_mask, _segment_colors(segments, colors), alpha)
    if names is None:
        return painted
    texts = [_label(c, crowd, names) for c, crowd in zip(segments.categories, segments.is_crowd)]
    return labels.draw_labels(painted, segments.numbers, texts)


def instance_color(color: Color, rank: int) -> Color:
    """Varies a category's colour for its `rank`-th instance; rank 0 has the colour itself."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*(channel / 255.0 for channel in color))
    hue += _HUE_RANGE * _spread(rank, _HUE_STEP)
    if rank:
        lightness += _LIGHTNESS_RANGE * _spread(rank, _LIGHTNESS_STEP)
        lightness = min(max(lightness, 0.25), 0.8)
    channels = colorsys.hls_to_rgb(hue % 1.0, lightness, saturation)
    red, green, blue = (round(255.0 * channel) for channel in channels)
    return red, green, blue


def _spread(rank: int, step: float) -> float:
    """Returns a number in -1..1, 0 for rank 0."""
    return (rank * step + 0.5) % 1.0 * 2.0 - 1.0


def _check_shapes(image, category_mask, instance_mask, crowd_mask) -> None:
    images.check_image(image)
    masks = {
        "category_mask": category_mask,
        "instance_mask": instance_mask,
        "crowd_mask": crowd_mask,
    }
    for key, mask in masks.items():
        if mask is not None and mask.shape != image.shape[:2]:
            raise ValueError(
                f"{key} must have the image's size {list(image.shape[:2])}, got {list(mask.shape)}."
            )


def _check_categories(categories: np.ndarray, colors, names) -> None:
    lowest, highest = int(categories.min(initial=0)), int(categories.max(initial=0))
    for key, entries in (("colors", colors), ("names", names)):
        if entries is not None and not 0 <= lowest <= highest < len(entries):
            raise ValueError(
                f"category_mask holds ids {lowest}..{highest}, but {key} has entries for "
                f"0..{len(entries) - 1}."
            )


def _find_segments(
    category_mask: np.ndarray, instance_mask: np.ndarray, crowd_mask: Optional[np.ndarray]
) -> _Segments:
    # Runs of pixels of one segment are far fewer than pixels.
    category_of_pixel, instance_of_pixel = category_mask.ravel(), instance_mask.ravel()
    is_start = np.ones(category_of_pixel.size, bool)
    is_start[1:] = category_of_pixel[1:] != category_of_pixel[:-1]
    is_start[1:] |= instance_of_pixel[1:] != instance_of_pixel[:-1]
    starts = np.flatnonzero(is_start)  # [runs]
    category_of_run = category_of_pixel[starts].astype(np.int64)
    instance_of_run = instance_of_pixel[starts].astype(np.int64)
    pairs = category_of_run << 32 | np.where(category_of_run == VOID, 0, instance_of_run)
    ids, first_runs, row_of_run = np.unique(pairs, return_index=True, return_inverse=True)
    lengths = np.diff(starts, append=category_of_pixel.size)
    numbers = np.repeat(row_of_run.astype(np.int32), lengths).reshape(category_mask.shape)
    first_pixels = starts[first_runs]
    categories = ids >> 32
    # Instances of one category by their topmost, then leftmost pixel.
    order = np.lexsort((first_pixels, categories))
    starts_of_category = np.searchsorted(categories, categories)  # [S], first row of the category
    ranks = np.empty_like(order)
    ranks[order] = np.arange(len(order)) - starts_of_category[order]
    is_crowd = np.zeros(len(ids), bool)
    if crowd_mask is not None:
        is_crowd = crowd_mask.ravel()[first_pixels].astype(bool)
    return _Segments(numbers, categories, ranks, is_crowd)


def _segment_colors(segments: _Segments, colors: Sequence[Color]) -> np.ndarray:
    """Returns float32 [S, 3]."""
    rows = [instance_color(colors[c], int(r)) for c, r in zip(segments.categories, segments.ranks)]
    return np.array(rows, np.float32).reshape(-1, 3)


def _paint(
    image: np.ndarray,
    segments: _Segments,
    crowd_mask: Optional[np.ndarray],
    paint: np.ndarray,
    alpha: float,
) -> np.ndarray:
    """Returns the image under the paint of its segments (float32 [S, 3]), uint8 [H, W, 3]."""
    border = _find_borders(segments.numbers)
    hatching = _hatching(crowd_mask)
    is_void = segments.categories == VOID  # [S]
    painted = np.empty_like(image)
    for start in range(0, len(image), _ROWS):
        rows = slice(start, start + _ROWS)
        numbers = segments.numbers[rows]
        gray = images.to_gray(image[rows])  # [rows, W, 1]
        color = paint[numbers]
        if hatching is not None:
            color[hatching[rows]] *= _CROWD_BRIGHTNESS
        mixed = image[rows].astype(np.float32) * ((1.0 - _GRAYING) * (1.0 - alpha))
        mixed += gray * (_GRAYING * (1.0 - alpha))
        mixed += color * alpha
        void = is_void[numbers]
        mixed[void] = gray[void] * _VOID_BRIGHTNESS
        edge = border[rows]
        mixed[edge] = mixed[edge] * (1.0 - _BORDER_OPACITY) + 255.0 * _BORDER_OPACITY
        painted[rows] = np.rint(mixed)
    return painted


def _hatching(crowd_mask: Optional[np.ndarray]) -> Optional[np.ndarray]:
    """Returns the dark stripes of crowds, bool [H, W], or None where there are none."""
    if crowd_mask is None or not crowd_mask.any():
        return None
    period = max(4, max(crowd_mask.shape) // 48)
    rows, columns = np.ogrid[: crowd_mask.shape[0], : crowd_mask.shape[1]]
    return (crowd_mask != 0) & ((rows + columns) % period < period // 2)


def _find_borders(numbers: np.ndarray) -> np.ndarray:
    """Returns the pixels close behind another segment's, to the right or below, bool [H, W]."""
    width = max(1, round(max(numbers.shape) / 500))
    horizontal, vertical = np.zeros(numbers.shape, bool), np.zeros(numbers.shape, bool)
    horizontal[:, 1:] = numbers[:, 1:] != numbers[:, :-1]
    vertical[1:] = numbers[1:] != numbers[:-1]
    done = 1
    while done < width:  # Each round widens by as much as there is.
        step = min(done, width - done)
        horizontal[:, step:] |= horizontal[:, :-step].copy()
        vertical[step:] |= vertical[:-step].copy()
        done += step
    return horizontal | vertical


def _label(category: int, is_crowd: bool, names: Sequence[str]) -> str:
    if category == VOID:
        return ""
    return names[category] + (" (crowd)" if is_crowd else "")

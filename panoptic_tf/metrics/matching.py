"""Which predicted segments of an image match which annotated ones (arXiv:1801.00868).

A predicted and a ground-truth segment of one category match when their IoU exceeds 0.5; the
predicted segment's void pixels are taken out of the union. Crowd segments neither match nor count
as missed. An unmatched prediction is forgiven when more than half of it lies on void or on crowd of
its own category.
"""

from __future__ import annotations

from typing import NamedTuple, Tuple

import numpy as np

from panoptic_tf.metrics import segments

CROWD_RULES = ("all", "last")


class Matches(NamedTuple):
    """The outcome of G ground-truth and P predicted segments; entry 0 of each is void and False.

    Attributes:
      ious: float64 [K], of the pairs of `Overlaps`, whatever their categories; 0 where one of the
        pair is void or a crowd.
      is_same: bool [K], both are of one category.
      is_match: bool [K].
      is_counted: bool [G + 1], neither void nor a crowd.
      is_missed: bool [G + 1], counted and without a match: a false negative.
      is_wrong: bool [P + 1], without a match and not forgiven: a false positive.
      is_forgiven: bool [P + 1], without a match, more than half on void or crowd.
    """

    ious: np.ndarray
    is_same: np.ndarray
    is_match: np.ndarray
    is_counted: np.ndarray
    is_missed: np.ndarray
    is_wrong: np.ndarray
    is_forgiven: np.ndarray


def match_segments(
    overlaps: segments.Overlaps,
    *,
    num_categories: int,
    crowd_rule: str = "all",
    use_boundaries: bool = False,
) -> Matches:
    """Matches the segments of one image.

    Args:
      overlaps: pixels shared by each pair of segments.
      num_categories: N.
      crowd_rule: `all` or `last`, see `PanopticQuality`.
      use_boundaries: whether the IoU of a pair is the smaller one of its masks and its boundaries
        (Boundary PQ, arXiv:2103.16562), which needs `overlaps.boundary_pixels`.

    Raises:
      ValueError: a category is not in 0..N, or boundaries were not counted.
    """
    rows, columns, pixels, gt_categories, gt_is_crowd, categories = overlaps[:6]
    _check_categories(gt_categories, "ground-truth", num_categories)
    _check_categories(categories, "predicted", num_categories)
    num_found = len(categories)
    is_same = gt_categories[rows] == categories[columns]  # [K]
    is_counted = (gt_categories > 0) & ~gt_is_crowd  # [G + 1]
    is_pair = is_counted[rows] & (categories[columns] > 0)
    ious, areas, void_areas = _intersections_over_unions(overlaps, pixels, pixels, pixels)
    if use_boundaries:
        if overlaps.boundary_pixels is None:
            raise ValueError("boundaries need overlaps that were counted with a boundary_ratio.")
        boundary_ious, _, _ = _intersections_over_unions(overlaps, *overlaps.boundary_pixels.T)
        ious = np.minimum(ious, boundary_ious)
    ious = np.where(is_pair, ious, 0.0)
    is_match = is_same & (ious > 0.5)

    is_missed = is_counted.copy()
    is_missed[rows[is_match]] = False
    on_crowd = is_same & _forgiving_crowds(gt_categories, gt_is_crowd, crowd_rule)[rows]
    forgiven_areas = void_areas + _sum_pixels(columns[on_crowd], pixels[on_crowd], num_found)
    is_unmatched = categories > 0
    is_unmatched[columns[is_match]] = False
    is_forgiven = 2 * forgiven_areas > areas
    return Matches(
        ious,
        is_same,
        is_match,
        is_counted,
        is_missed,
        is_unmatched & ~is_forgiven,
        is_unmatched & is_forgiven,
    )


def _intersections_over_unions(
    overlaps: segments.Overlaps, shared: np.ndarray, truth: np.ndarray, found: np.ndarray
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """IoU of each pair of segments without the void pixels of the predicted one.

    Args:
      overlaps: the pairs.
      shared, truth, found: int64 [K], pixels of both, of the ground-truth and of the predicted
        segment within the region that each pair shares.

    Returns:
      IoU, float64 [K], and the area and the void area of the predicted segments, int64 [P + 1].
    """
    rows, columns = overlaps.rows, overlaps.columns
    is_void = rows == 0
    gt_areas = _sum_pixels(rows, truth, len(overlaps.gt_categories))
    areas = _sum_pixels(columns, found, len(overlaps.categories))
    void_areas = _sum_pixels(columns[is_void], found[is_void], len(overlaps.categories))
    unions = gt_areas[rows] + (areas - void_areas)[columns] - shared
    return shared / np.maximum(unions, 1), areas, void_areas


def _forgiving_crowds(
    gt_categories: np.ndarray, gt_is_crowd: np.ndarray, crowd_rule: str
) -> np.ndarray:
    """The crowd segments on which predictions are forgiven, bool [G + 1]."""
    if crowd_rule == "all":
        return gt_is_crowd
    rows = np.flatnonzero(gt_is_crowd)
    last_row = dict(zip(gt_categories[rows].tolist(), rows.tolist()))
    is_last = np.zeros_like(gt_is_crowd)
    is_last[list(last_row.values())] = True
    return is_last


def _sum_pixels(labels: np.ndarray, pixels: np.ndarray, length: int) -> np.ndarray:
    """Sums pixels [K] by label [K]: int64 [length]."""
    return np.bincount(labels, pixels, minlength=length).astype(np.int64)


def _check_categories(categories: np.ndarray, kind: str, num_categories: int) -> None:
    if categories.min() < 0 or categories.max() > num_categories:
        wrong = sorted({int(c) for c in categories if not 0 <= c <= num_categories})
        raise ValueError(f"{kind} categories must be 0..{num_categories}, got {wrong}.")

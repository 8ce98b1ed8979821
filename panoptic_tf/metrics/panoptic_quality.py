"""Panoptic quality (arXiv:1801.00868), with the COCO rules for void and crowd.

Per category, over all images:

  SQ = sum of the IoU of matched pairs / TP      RQ = TP / (TP + FP / 2 + FN / 2)      PQ = SQ * RQ

A predicted and a ground-truth segment of one category match when their IoU exceeds 0.5; the
predicted segment's void pixels are taken out of the union. Crowd segments neither match nor count
as missed. An unmatched prediction is forgiven when more than half of it lies on void or on crowd of
its own category. Averages run over the categories with TP + FP + FN > 0; an average over none is
None, never a division by zero.
"""

from __future__ import annotations

from typing import Any, Dict, Optional, Sequence

import numpy as np

from panoptic_tf.metrics import segments

CROWD_RULES = ("all", "last")
IOU, TP, FP, FN = range(4)
"""Columns of a state."""


class PanopticQuality:
    """Streaming panoptic quality of one split.

    Args:
      num_categories: N; category ids are 1..N, 0 is void.
      thing_ids: ids of the thing categories; the others are stuff.
      crowd_rule: crowds of its category that forgive an unmatched prediction: `all` of the image,
        or only the `last` one, which is what the COCO panoptic tools do. Equal where no category
        has two crowds in one image.
    """

    def __init__(self, *, num_categories: int, thing_ids: Sequence[int], crowd_rule: str = "all"):
        if crowd_rule not in CROWD_RULES:
            raise ValueError(f"crowd_rule must be one of {CROWD_RULES}, got {crowd_rule!r}.")
        wrong = [i for i in thing_ids if not 1 <= i <= num_categories]
        if wrong:
            raise ValueError(f"thing_ids must be 1..{num_categories}, got {wrong}.")
        self._is_thing = np.zeros(num_categories + 1, bool)
        self._is_thing[list(thing_ids)] = True
        self._crowd_rule = crowd_rule
        self._state = np.zeros((num_categories + 1, 4))

    def update(
        self,
        gt_category_mask: np.ndarray,
        gt_instance_mask: np.ndarray,
        gt_crowd_mask: Optional[np.ndarray],
        category_mask: np.ndarray,
        instance_mask: np.ndarray,
    ) -> np.ndarray:
        """Adds one image; all masks [H, W] in the image's own frame.

        A segment is a distinct (category, instance) pair; of the crowds of one category, the one
        with the highest instance id is the last.

        Args:
          gt_category_mask: integers, 0 is void.
          gt_instance_mask: integers, unique in the image, 0 is none.
          gt_crowd_mask: bool, or None: no crowd.
          category_mask: integers, 0 is void.
          instance_mask: integers, 0 is none.

        Returns:
          float64 [N + 1, 4], the state of this image alone.
        """
        ground_truth = segments.label_masks(gt_category_mask, gt_instance_mask, gt_crowd_mask)
        prediction = segments.label_masks(category_mask, instance_mask)
        return self.update_overlaps(segments.count_overlaps(ground_truth, prediction))

    def update_overlaps(self, overlaps: segments.Overlaps) -> np.ndarray:
        """Adds one image by the pixels its segments share; returns its state, [N + 1, 4]."""
        image_state = match_segments(
            overlaps, num_categories=len(self._state) - 1, crowd_rule=self._crowd_rule
        )
        self._state += image_state
        return image_state

    def state(self) -> np.ndarray:
        """float64 [N + 1, 4] by category id: sum of IoU, TP, FP, FN. States of replicas add up."""
        return self._state.copy()

    def add_state(self, state: np.ndarray) -> None:
        """Adds the state of another split, float64 [N + 1, 4]."""
        if np.shape(state) != self._state.shape:
            raise ValueError(
                f"state must have shape {self._state.shape}, got {np.shape(state)}: both sides "
                "must count the same categories."
            )
        self._state += state

    def merge(self, other: PanopticQuality) -> None:
        """Adds what another instance has counted."""
        self.add_state(other.state())

    def result(self) -> Dict[str, Any]:
        """Percentages, None where nothing was counted.

        Returns:
          `PQ SQ RQ`, the same with `_things` and `_stuff`, and `per_category`: N dicts in id order
          with `id PQ SQ RQ tp fp fn`.
        """
        metrics: Dict[str, Any] = {}
        for suffix, rows in (("", None), ("_things", self._is_thing), ("_stuff", ~self._is_thing)):
            averages = average_quality(self._state if rows is None else self._state[rows])
            metrics.update({name + suffix: value for name, value in averages.items()})
        metrics["per_category"] = [
            {
                "id": i,
                **average_quality(self._state[i : i + 1]),
                "tp": int(self._state[i, TP]),
                "fp": int(self._state[i, FP]),
                "fn": int(self._state[i, FN]),
            }
            for i in range(1, len(self._state))
        ]
        return metrics


def match_segments(
    overlaps: segments.Overlaps, *, num_categories: int, crowd_rule: str = "all"
) -> np.ndarray:
    """Matches the segments of one image and counts the outcome.

    Args:
      overlaps: pixels shared by each pair of segments.
      num_categories: N.
      crowd_rule: `all` or `last`, see `PanopticQuality`.

    Returns:
      float64 [N + 1, 4] by category: sum of IoU, TP, FP, FN.

    Raises:
      ValueError: a category is not in 0..N.
    """
    rows, columns, pixels, gt_categories, gt_is_crowd, categories = overlaps
    _check_categories(gt_categories, "ground-truth", num_categories)
    _check_categories(categories, "predicted", num_categories)
    num_truths, num_found = len(gt_categories), len(categories)
    is_void = rows == 0
    gt_areas = _sum_pixels(rows, pixels, num_truths)
    areas = _sum_pixels(columns, pixels, num_found)
    void_areas = _sum_pixels(columns[is_void], pixels[is_void], num_found)
    same_category = gt_categories[rows] == categories[columns]  # [K]
    is_counted = (gt_categories > 0) & ~gt_is_crowd  # [G + 1]
    unions = gt_areas[rows] + areas[columns] - pixels - void_areas[columns]
    ious = np.where(same_category & is_counted[rows], pixels / np.maximum(unions, 1), 0.0)
    is_match = ious > 0.5
    gt_rows, columns_matched = rows[is_match], columns[is_match]

    crowds = _forgiving_crowds(gt_categories, gt_is_crowd, crowd_rule)
    is_forgiven = same_category & crowds[rows]
    forgiven = void_areas + _sum_pixels(columns[is_forgiven], pixels[is_forgiven], num_found)
    is_missed = is_counted.copy()
    is_missed[gt_rows] = False
    is_wrong = (categories > 0) & (2 * forgiven <= areas)
    is_wrong[columns_matched] = False

    state = np.zeros((num_categories + 1, 4))
    np.add.at(state[:, IOU], gt_categories[gt_rows], ious[is_match])
    np.add.at(state[:, TP], gt_categories[gt_rows], 1)
    np.add.at(state[:, FP], categories[is_wrong], 1)
    np.add.at(state[:, FN], gt_categories[is_missed], 1)
    return state


def average_quality(state: np.ndarray) -> Dict[str, Optional[float]]:
    """PQ, SQ and RQ in percent, averaged over the rows that counted anything, else None.

    Args:
      state: float64 [C, 4]: sum of IoU, TP, FP, FN of C categories.
    """
    counted = state[state[:, TP:].sum(axis=1) > 0]
    if not len(counted):
        return {"PQ": None, "SQ": None, "RQ": None}
    denominators = counted[:, TP] + 0.5 * counted[:, FP] + 0.5 * counted[:, FN]
    return {
        "PQ": 100 * float(np.mean(counted[:, IOU] / denominators)),
        "SQ": 100 * float(np.mean(counted[:, IOU] / np.maximum(counted[:, TP], 1))),
        "RQ": 100 * float(np.mean(counted[:, TP] / denominators)),
    }


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

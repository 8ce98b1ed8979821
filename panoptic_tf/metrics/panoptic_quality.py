"""Panoptic quality (arXiv:1801.00868), with the COCO rules for void and crowd.

Per category, over all images:

  SQ = sum of the IoU of matched pairs / TP      RQ = TP / (TP + FP / 2 + FN / 2)      PQ = SQ * RQ

What matches is told in `matching`. Averages run over the categories with TP + FP + FN > 0; an
average over none is None, never a division by zero.
"""

from __future__ import annotations

from typing import Any, Dict, Optional, Sequence

import numpy as np

from panoptic_tf.metrics import matching, segments
from panoptic_tf.metrics.matching import CROWD_RULES

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
        matches = matching.match_segments(
            overlaps, num_categories=len(self._state) - 1, crowd_rule=self._crowd_rule
        )
        return self.update_matches(overlaps, matches)

    def update_matches(self, overlaps: segments.Overlaps, matches: matching.Matches) -> np.ndarray:
        """Adds one image whose segments are matched already; returns its state, [N + 1, 4]."""
        image_state = count_matches(overlaps, matches, num_categories=len(self._state) - 1)
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


def count_matches(
    overlaps: segments.Overlaps, matches: matching.Matches, *, num_categories: int
) -> np.ndarray:
    """Counts the outcome of one image: float64 [N + 1, 4] by category: sum of IoU, TP, FP, FN."""
    matched = overlaps.gt_categories[overlaps.rows[matches.is_match]]
    state = np.zeros((num_categories + 1, 4))
    np.add.at(state[:, IOU], matched, matches.ious[matches.is_match])
    np.add.at(state[:, TP], matched, 1)
    np.add.at(state[:, FP], overlaps.categories[matches.is_wrong], 1)
    np.add.at(state[:, FN], overlaps.gt_categories[matches.is_missed], 1)
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

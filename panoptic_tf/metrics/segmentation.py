"""Semantic segmentation: mean and frequency-weighted intersection over union.

Ground-truth void pixels are left out. A pixel predicted void is missed by its category and counts
against no other.
"""

from __future__ import annotations

from typing import Any, Dict, Optional

import numpy as np

from panoptic_tf.metrics import segments


class SegmentationMetrics:
    """Streaming confusion matrix with mIoU and fIoU.

      IoU_c = n_cc / (sum_j n_cj + sum_i n_ic - n_cc)      n_ij: pixels of category i predicted as j
      mIoU = mean of IoU_c over the categories that were annotated or predicted
      fIoU = sum_c IoU_c * sum_j n_cj / sum_ij n_ij

    Args:
      num_categories: N; category ids are 1..N, 0 is void.
    """

    def __init__(self, *, num_categories: int):
        self._confusion = np.zeros((num_categories + 1, num_categories + 1), np.int64)

    def update(self, gt_category_mask: np.ndarray, category_mask: np.ndarray) -> None:
        """Adds one image; integer masks [H, W], 0..N.

        Raises:
          ValueError: the masks differ in size, or hold a category that is not 0..N.
        """
        if gt_category_mask.shape != category_mask.shape:
            raise ValueError(
                f"the prediction must have the ground truth's size {gt_category_mask.shape}, "
                f"got {category_mask.shape}."
            )
        num_ids = len(self._confusion)
        starts = np.flatnonzero(segments.find_runs(gt_category_mask, category_mask))
        rows, columns = (
            mask.reshape(-1).take(starts) for mask in (gt_category_mask, category_mask)
        )
        for kind, found in (("ground-truth", rows), ("predicted", columns)):
            if found.min(initial=0) < 0 or found.max(initial=0) >= num_ids:
                raise ValueError(
                    f"{kind} categories must be 0..{num_ids - 1}, "
                    f"got {int(found.min())}..{int(found.max())}."
                )
        pairs = rows.astype(np.int64) * num_ids + columns
        pairs, pixels = segments.count_pixels(pairs, starts=starts, end=category_mask.size)
        self._confusion[np.divmod(pairs, num_ids)] += pixels

    def update_overlaps(self, overlaps: segments.Overlaps) -> None:
        """Adds one image by the pixels its segments share."""
        truths = overlaps.gt_categories[overlaps.rows]
        np.add.at(self._confusion, (truths, overlaps.categories[overlaps.columns]), overlaps.pixels)

    def state(self) -> np.ndarray:
        """int64 [N + 1, N + 1], pixels by ground-truth (row) and predicted category (column)."""
        return self._confusion.copy()

    def add_state(self, state: np.ndarray) -> None:
        """Adds the confusion matrix of another split."""
        if np.shape(state) != self._confusion.shape:
            raise ValueError(
                f"state must have shape {self._confusion.shape}, got {np.shape(state)}: both "
                "sides must count the same categories."
            )
        self._confusion += state

    def merge(self, other: SegmentationMetrics) -> None:
        """Adds what another instance has counted."""
        self.add_state(other.state())

    def result(self) -> Dict[str, Any]:
        """`mIoU` and `fIoU` in percent or None, and `IoU`: N percentages or None, in id order."""
        annotated = self._confusion[1:]  # [N, N + 1], without ground-truth void
        hits = np.diagonal(annotated[:, 1:])
        gt_pixels = annotated.sum(axis=1)
        unions = gt_pixels + annotated[:, 1:].sum(axis=0) - hits
        is_seen = unions > 0
        ious = 100 * hits / np.maximum(unions, 1)  # [N]
        total = gt_pixels.sum()
        return {
            "mIoU": _float_if(is_seen.any(), np.mean(ious[is_seen]) if is_seen.any() else 0),
            "fIoU": _float_if(total > 0, ious @ gt_pixels / max(total, 1)),
            "IoU": [_float_if(seen, iou) for seen, iou in zip(is_seen, ious)],
        }


def _float_if(condition: bool, value: float) -> Optional[float]:
    return float(value) if condition else None

"""Whether the scores of predicted segments are the share of them that is right.

Expected calibration error (arXiv:1706.04599) over bins of equal width:

  ECE = sum over bins b of n_b / n * |precision of b - mean score of b|

A segment is right if it matches (IoU above 0.5 with an annotated segment of its category); one that
is forgiven on void or crowd is left out, as it is of PQ.
"""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from panoptic_tf.metrics import matching, segments

METRIC_NAMES = ("ECE", "ECE_things", "ECE_stuff")
NUM_BINS = 15
"""As the authors take."""

_COUNT, _SCORE, _RIGHT = range(3)


class SegmentCalibration:
    """Streaming sums of segments by bin of their score.

    Args:
      num_categories: N; category ids are 1..N, 0 is void.
      thing_ids: ids of the thing categories; the others are stuff.
    """

    def __init__(self, *, num_categories: int, thing_ids: Sequence[int]):
        self._is_thing = np.zeros(num_categories + 1, np.int64)
        self._is_thing[list(thing_ids)] = 1
        self._state = np.zeros((2, NUM_BINS, 3))  # stuff and things; segments, scores, right ones

    def update(
        self, overlaps: segments.Overlaps, matches: matching.Matches, scores: np.ndarray
    ) -> None:
        """Adds one image.

        Args:
          overlaps, matches: of the image.
          scores: float [P + 1] of the predicted segments, 0..1; NaN: this one has none.
        """
        is_right = np.zeros(len(scores), bool)
        is_right[overlaps.columns[matches.is_match]] = True
        is_used = (is_right | matches.is_wrong) & np.isfinite(scores)
        used = scores[is_used].astype(np.float64)
        bins = np.clip(used * NUM_BINS, 0, NUM_BINS - 1).astype(np.int64)
        rows = np.stack([np.ones_like(used), used, is_right[is_used]], axis=1)
        np.add.at(self._state, (self._is_thing[overlaps.categories[is_used]], bins), rows)

    def merge(self, other: SegmentCalibration) -> None:
        """Adds what another instance has counted."""
        self._state += other._state

    def result(self) -> Dict[str, Any]:
        """`METRIC_NAMES` in percent, None without any score, and `calibration`.

        `calibration` has a dict for each bin that holds segments: `score_min`, `score_max`,
        `mean_score`, `precision` (all 0..1) and `segments`, of things and stuff together.
        """
        total = self._state.sum(axis=0)
        splits = zip(METRIC_NAMES, (total, self._state[1], self._state[0]))
        values: Dict[str, Any] = {name: _calibration_error(state) for name, state in splits}
        rows: List[Dict[str, Any]] = []
        for i, (count, score, right) in enumerate(total):
            if count:
                rows.append(
                    {
                        "score_min": i / NUM_BINS,
                        "score_max": (i + 1) / NUM_BINS,
                        "mean_score": float(score / count),
                        "precision": float(right / count),
                        "segments": int(count),
                    }
                )
        return {**values, "calibration": rows}


def _calibration_error(state: np.ndarray) -> Optional[float]:
    """Percent; state [bins, 3]."""
    count = state[:, _COUNT].sum()
    if not count:
        return None
    return 100 * float(np.abs(state[:, _RIGHT] - state[:, _SCORE]).sum() / count)

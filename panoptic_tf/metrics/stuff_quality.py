"""PQ-dagger: panoptic quality whose stuff needs no IoU of one half (arXiv:1905.01220).

A stuff segment is all that an image has of its category, so that a poor one is not "missed":

  stuff:   PQ-dagger_c = sum of the IoU of all pairs of c / number of annotated segments of c
  things:  PQ-dagger_c = PQ_c

Pairs are an annotated and a predicted segment of one image; IoU leaves void out and crowds do not
count, as in `matching`. A prediction where nothing of its category is annotated costs nothing, and
a stuff category that is annotated nowhere has no value.
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Sequence

import numpy as np

from panoptic_tf.metrics import matching, segments

METRIC_NAMES = ("PQ_dagger", "PQ_dagger_stuff")


class StuffQuality:
    """Streaming PQ-dagger of one split.

    Args:
      num_categories: N; category ids are 1..N, 0 is void.
    """

    def __init__(self, *, num_categories: int):
        self._state = np.zeros((num_categories + 1, 2))  # sum of IoU, annotated segments

    def update(self, overlaps: segments.Overlaps, matches: matching.Matches) -> None:
        """Adds one image."""
        is_same = matches.is_same
        pair_categories = overlaps.gt_categories[overlaps.rows[is_same]]
        np.add.at(self._state[:, 0], pair_categories, matches.ious[is_same])
        np.add.at(self._state[:, 1], overlaps.gt_categories[matches.is_counted], 1)

    def merge(self, other: StuffQuality) -> None:
        """Adds what another instance has counted."""
        self._state += other._state

    def result(self, per_category: Sequence[Mapping[str, Any]], thing_ids: Sequence[int]) -> Dict:
        """Percentages, None where nothing was annotated.

        Args:
          per_category: of `PanopticQuality.result`.
          thing_ids: ids of the thing categories.

        Returns:
          `METRIC_NAMES` and `per_category`: N values in id order.
        """
        values: List[Optional[float]] = []
        for row, (ious, count) in zip(per_category, self._state[1:]):
            stuff = 100 * float(ious / count) if count else None
            values.append(row["PQ"] if row["id"] in thing_ids else stuff)
        stuff_values = [v for i, v in enumerate(values, start=1) if i not in thing_ids]
        return {
            "PQ_dagger": _mean(values),
            "PQ_dagger_stuff": _mean(stuff_values),
            "per_category": values,
        }


def _mean(values: Sequence[Optional[float]]) -> Optional[float]:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None

"""The outcome of every segment, and the cost in PQ of each kind of error.

The kinds follow TIDE (arXiv:2008.08115, with its thresholds 0.5 and 0.1), as far as they
apply to segments that do not overlap. Of an annotated segment (crowds left out) the first
that holds:

  correct         it has a match
  wrong_category  a prediction of another category has an IoU above 0.5 with it
  wrong_border    an unmatched prediction of its category has an IoU of at least 0.1 with it
  missed          none of these

Of a predicted segment:

  correct         it has a match
  on_void         more than half of it lies on void or a crowd of its category: forgiven, no error
  wrong_category, wrong_border   as above, the other way round
  duplicate       more than half of it, void left out, lies on one annotated segment of its category
                  that it does not match: a part of it, or a second detection
  spurious        none of these: nothing annotated there is what it says

With D = TP + FP / 2 + FN / 2 of a category

  1 - PQ = [(TP - sum of IoU) + FP / 2 + FN / 2] / D

Every false positive and false negative is of one kind, so that the points of PQ which the kinds
cost, averaged over categories as PQ is, add up to 100 - PQ; `correct` costs TP - sum of IoU: the
borders of what matches.
"""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from panoptic_tf.metrics import matching, segments

KINDS = (
    "correct",
    "wrong_category",
    "wrong_border",
    "missed",
    "duplicate",
    "spurious",
    "on_void",
)
_CORRECT, _CATEGORY, _BORDER, _MISSED, _DUPLICATE, _SPURIOUS, _ON_VOID = range(len(KINDS))
_ANNOTATED, _PREDICTED = range(2)
_ANY_OVERLAP = 0.1


class SegmentErrors:
    """Streaming counts of segments by kind of error.

    Args:
      num_categories: N; category ids are 1..N, 0 is void.
      thing_ids: ids of the thing categories; the others are stuff.
    """

    def __init__(self, *, num_categories: int, thing_ids: Sequence[int]):
        self._is_thing = np.zeros(num_categories + 1, bool)
        self._is_thing[list(thing_ids)] = True
        self._counts = np.zeros((2, num_categories + 1, len(KINDS)), np.int64)
        self._ious = np.zeros(num_categories + 1)  # of matches

    def update(self, overlaps: segments.Overlaps, matches: matching.Matches) -> None:
        """Adds one image."""
        truth, found = classify(overlaps, matches)
        gt_categories, categories = overlaps.gt_categories, overlaps.categories
        is_counted, is_found = matches.is_counted, categories > 0
        for counts, ids, kinds in (
            (self._counts[_ANNOTATED], gt_categories[is_counted], truth[is_counted]),
            (self._counts[_PREDICTED], categories[is_found], found[is_found]),
        ):
            np.add.at(counts, (ids, kinds), 1)
        matched = gt_categories[overlaps.rows[matches.is_match]]
        np.add.at(self._ious, matched, matches.ious[matches.is_match])

    def merge(self, other: SegmentErrors) -> None:
        """Adds what another instance has counted."""
        self._counts += other._counts
        self._ious += other._ious

    def result(self) -> List[Dict[str, Any]]:
        """One row for each of `KINDS`.

        Returns:
          dicts of `kind`; `annotated_things`, `predicted_things`, `annotated_stuff` and
          `predicted_stuff`: numbers of segments, None where a side does not have the kind;
          `PQ_lost`, `PQ_lost_things` and `PQ_lost_stuff`: points of a percentage, whose sums are
          100 minus the PQ of the same name, or None where there is no PQ.
        """
        lost = self._lost()
        splits = {"": lost, "_things": lost[self._is_thing], "_stuff": lost[~self._is_thing]}
        averages = {f"PQ_lost{suffix}": _average_rows(rows) for suffix, rows in splits.items()}
        rows: List[Dict[str, Any]] = []
        for i, kind in enumerate(KINDS):
            row: Dict[str, Any] = {"kind": kind}
            for suffix, is_in in (("things", self._is_thing), ("stuff", ~self._is_thing)):
                numbers = self._counts[:, is_in, i].sum(axis=1)
                has_kind = (i < _DUPLICATE, i != _MISSED)
                for side, number, has in zip(("annotated", "predicted"), numbers, has_kind):
                    row[f"{side}_{suffix}"] = int(number) if has else None
            row.update({n: None if v is None else float(v[i]) for n, v in averages.items()})
            rows.append(row)
        return rows

    def _lost(self) -> np.ndarray:
        """Points of PQ by category and kind, [N + 1, kinds]; NaN where nothing was counted."""
        errors = self._counts.sum(axis=0) / 2.0
        errors[:, _ON_VOID] = 0.0
        matched = self._counts[_ANNOTATED, :, _CORRECT]
        errors[:, _CORRECT] = 0.0
        wholes = matched + errors.sum(axis=1)
        errors[:, _CORRECT] = matched - self._ious
        return 100 * errors / np.where(wholes > 0, wholes, np.nan)[:, np.newaxis]


def classify(overlaps: segments.Overlaps, matches: matching.Matches) -> Sequence[np.ndarray]:
    """The kinds of the segments of one image, as positions in `KINDS`.

    Returns:
      int [G + 1] of the ground-truth and int [P + 1] of the predicted segments; entries of void and
      crowds mean nothing.
    """
    rows, columns, pixels = overlaps.rows, overlaps.columns, overlaps.pixels
    truth = np.full(len(overlaps.gt_categories), _MISSED)
    found = np.full(len(overlaps.categories), _SPURIOUS)
    is_free = np.ones(len(found), bool)
    is_free[columns[matches.is_match]] = False
    annotated = np.bincount(columns, pixels * (rows > 0), minlength=len(found))
    on_one = matches.is_same & matches.is_counted[rows] & (2 * pixels > annotated[columns])
    near = (
        matches.is_same
        & (matches.ious >= _ANY_OVERLAP)
        & matches.is_missed[rows]
        & is_free[columns]
    )
    other = ~matches.is_same & (matches.ious > 0.5)
    # The later of two kinds stays.
    found[columns[on_one]] = _DUPLICATE
    for is_kind, kind in ((near, _BORDER), (other, _CATEGORY)):
        truth[rows[is_kind]] = kind
        found[columns[is_kind]] = kind
    truth[rows[matches.is_match]] = _CORRECT
    found[matches.is_forgiven] = _ON_VOID
    found[columns[matches.is_match]] = _CORRECT
    return truth, found


def _average_rows(rows: np.ndarray) -> Optional[np.ndarray]:
    """The mean of the rows [C, kinds] that are no NaN, or None if all are."""
    counted = rows[~np.isnan(rows[:, 0])]
    return counted.mean(axis=0) if len(counted) else None

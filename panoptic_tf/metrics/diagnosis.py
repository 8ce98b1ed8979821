"""Why panoptic quality is low: what is predicted instead, and how large the segments are."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from panoptic_tf.metrics import segments

AREA_NAMES = (
    "true_thing_area",
    "predicted_thing_area",
    "true_stuff_area",
    "predicted_stuff_area",
)
NAMES = ("confusions", *AREA_NAMES, "small_stuff_share")
"""Keys of every `metrics.json`, see `Diagnosis.result`."""

_NUM_CONFUSIONS = 10
_NUM_TOLD = 3
_NOTICED = 0.25
_SPLITS = ("things", "stuff")


class Diagnosis:
    """Streaming pixels by category and predicted category, and areas of segments.

    Args:
      num_categories: N; category ids are 1..N, 0 is void.
      thing_ids: ids of the thing categories; the others are stuff.
      stuff_area: from which area on the post-processor keeps a stuff segment, pixels of the
        prediction; 0: not known.
    """

    def __init__(self, *, num_categories: int, thing_ids: Sequence[int], stuff_area: int = 0):
        self._is_thing = np.isin(np.arange(num_categories + 1), thing_ids)
        self._pixels = np.zeros([num_categories + 1] * 2, np.int64)  # true, predicted category
        self._areas: Dict[str, List[np.ndarray]] = {name: [] for name in AREA_NAMES}
        self._stuff_area = stuff_area
        self._num_small, self._num_stuff = 0, 0

    def update_overlaps(self, overlaps: segments.Overlaps, *, scale: float = 1.0) -> None:
        """Adds one image by the pixels its segments share.

        Args:
          overlaps: crowds count as pixels, not as segments.
          scale: pixels of the prediction for a pixel of the image.
        """
        truths, found = overlaps.gt_categories, overlaps.categories
        pairs = truths[overlaps.rows], found[overlaps.columns]
        np.add.at(self._pixels, pairs, overlaps.pixels)
        sides = (
            ("true", overlaps.rows, truths, (truths > 0) & ~overlaps.gt_is_crowd),
            ("predicted", overlaps.columns, found, found > 0),
        )
        for side, index, categories, counts in sides:
            areas = np.bincount(index, overlaps.pixels, minlength=len(categories))
            is_thing = self._is_thing[categories]
            self._areas[f"{side}_thing_area"].append(areas[counts & is_thing])
            self._areas[f"{side}_stuff_area"].append(areas[counts & ~is_thing])
        stuff = self._areas["true_stuff_area"][-1]
        self._num_small += int(np.count_nonzero(stuff * scale < self._stuff_area))
        self._num_stuff += len(stuff)

    def merge(self, other: Diagnosis) -> None:
        """Adds what another instance has counted."""
        self._pixels += other._pixels
        for name, areas in other._areas.items():
            self._areas[name].extend(areas)
        self._num_small += other._num_small
        self._num_stuff += other._num_stuff

    def result(self, names: Sequence[str]) -> Dict[str, Any]:
        """Values of `NAMES`.

        Args:
          names: N + 1 names by category id.

        Returns:
          `confusions`: at most ten, most pixels first: `category`, `predicted` (another, or void),
          `pixels`, and `share` of the pixels of the category, 0..1; void is no category.
          `true_thing_area` and so on: median area of the segments in pixels of the image, crowds
          left out; None where there are none.
          `small_stuff_share`: of the annotated stuff segments, those that even a perfect prediction
          would lose to `stuff_area`, 0..1; None where that is not known.
        """
        known = self._stuff_area and self._num_stuff
        return {
            "confusions": self._confusions(names),
            **{name: _median(areas) for name, areas in self._areas.items()},
            "small_stuff_share": self._num_small / self._num_stuff if known else None,
        }

    def _confusions(self, names: Sequence[str]) -> List[Dict[str, Any]]:
        wrong = self._pixels.copy()
        wrong[0] = 0
        np.fill_diagonal(wrong, 0)
        largest = np.argsort(-wrong, axis=None, kind="stable")[:_NUM_CONFUSIONS]
        totals = self._pixels.sum(axis=1)
        return [
            {
                "category": names[row],
                "predicted": names[column],
                "pixels": int(wrong[row, column]),
                "share": float(wrong[row, column] / totals[row]),
            }
            for row, column in zip(*np.unravel_index(largest, wrong.shape))
            if wrong[row, column]
        ]


def warnings_of(metrics: Mapping[str, Any]) -> List[str]:
    """What is the matter where nothing is found, of all or of things or stuff: one line each.

    Args:
      metrics: the content of a `metrics.json`; what is not in it is not told.
    """
    if metrics.get("true_segments") is None:
        return []
    if not metrics["true_segments"]:
        return [
            "PQ has no value: no segment is annotated in these images, all is void. "
            "`panoptic-tf doctor` shows what the records hold."
        ]
    texts = [_explain(metrics, split) for split in _SPLITS if metrics.get(f"PQ_{split}") == 0.0]
    small = metrics.get("small_stuff_share")
    if small is not None and small > _NOTICED:
        texts.append(
            f"{small:.0%} of the annotated stuff segments are smaller than stuff_area of "
            "task.model.postprocessor (in pixels of the output), which drops what is predicted of "
            "them. Lower it."
        )
    confusions = metrics.get("confusions") or []
    if texts and confusions:
        told = [
            f"{c['share']:.0%} of {c['category']} is predicted {c['predicted']}"
            for c in confusions[:_NUM_TOLD]
        ]
        texts.append(f"most frequent confusions, by pixels: {', '.join(told)}.")
    return texts


def _explain(metrics: Mapping[str, Any], split: str) -> str:
    """Why no segment of things or of stuff has a match."""
    true, predicted = (
        _counts(metrics, side)[_SPLITS.index(split)] for side in ("true", "predicted")
    )
    if not predicted:
        return (
            f"PQ_{split} is 0: {_plural(true, 'segment')} of {split} annotated, none predicted. "
            "Either the training is not far enough, or thresholds of task.model.postprocessor drop "
            "all."
        )
    if not true:
        return (
            f"PQ_{split} is 0: no {split} annotated in these images, "
            f"{_plural(predicted, 'segment')} of {split} predicted."
        )
    kind = split.replace("things", "thing")
    sizes = (metrics.get(f"{side}_{kind}_area") for side in ("true", "predicted"))
    areas = [f" (median area {_plural(round(size), 'pixel')})" if size else "" for size in sizes]
    return (
        f"PQ_{split} is 0: {_plural(true, 'segment')} of {split} annotated{areas[0]}, {predicted} "
        f"predicted{areas[1]}, and no pair of one category has an IoU above 0.5."
    )


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _counts(metrics: Mapping[str, Any], side: str) -> Tuple[int, int]:
    """(things, stuff) of the annotated or predicted segments."""
    things = metrics[f"{side}_things"]
    return things, metrics[f"{side}_segments"] - things


def _median(areas: Sequence[np.ndarray]) -> Optional[float]:
    joined = np.concatenate([np.zeros(0), *areas])
    return float(np.median(joined)) if len(joined) else None

"""What panoptic quality does not see: how much is void, and what is predicted there.

Void is not scored. Where objects are all that is labelled, a model that predicts objects everywhere
has an excellent PQ; the shares of the pixels and the numbers of segments show it.
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Sequence

import numpy as np

from panoptic_tf.metrics import diagnosis, segments

SHARE_NAMES = (
    "void_share",
    "true_thing_share",
    "predicted_thing_share",
    "void_predicted_as_things",
)
COUNT_NAMES = ("true_segments", "predicted_segments", "true_things", "predicted_things")
NAMES = (*SHARE_NAMES, *COUNT_NAMES)
"""Keys of every `metrics.json`: shares are 0..1, not percent; what was not counted is None."""

_VOID, _THING, _STUFF = range(3)
_TRUE, _PREDICTED = range(2)

_LARGE = 0.5
_TINY = 0.01
_NOTICED = 0.05


class Coverage:
    """Streaming counts of pixels and segments by kind: void, things, stuff.

    Args:
      num_categories: N; category ids are 1..N, 0 is void.
      thing_ids: ids of the thing categories; the others are stuff.
    """

    def __init__(self, *, num_categories: int, thing_ids: Sequence[int]):
        self._kinds = np.full(num_categories + 1, _STUFF)
        self._kinds[list(thing_ids)] = _THING
        self._kinds[0] = _VOID
        self._pixels = np.zeros((3, 3), np.int64)  # true kind, predicted kind
        self._segments = np.zeros((2, 3), np.int64)
        self._has_segments = False

    def update_overlaps(self, overlaps: segments.Overlaps) -> None:
        """Adds one image by the pixels its segments share; crowds are no true segments."""
        truths, found = (self._kinds[c] for c in (overlaps.gt_categories, overlaps.categories))
        np.add.at(self._pixels, (truths[overlaps.rows], found[overlaps.columns]), overlaps.pixels)
        self._segments[_TRUE] += np.bincount(truths[~overlaps.gt_is_crowd], minlength=3)
        self._segments[_PREDICTED] += np.bincount(found, minlength=3)
        self._has_segments = True

    def update_masks(self, gt_category_mask: np.ndarray, category_mask: np.ndarray) -> None:
        """Adds the pixels of one image whose prediction has no segments; masks [H, W], 0..N."""
        keys = 3 * self._kinds[gt_category_mask] + self._kinds[category_mask]
        self._pixels += np.bincount(keys.reshape(-1), minlength=9).reshape(3, 3)

    def merge(self, other: Coverage) -> None:
        """Adds what another instance has counted."""
        self._pixels += other._pixels
        self._segments += other._segments
        self._has_segments |= other._has_segments

    def result(self) -> Dict[str, Any]:
        """Values of `NAMES`.

        Returns:
          `void_share`, `true_thing_share` and `predicted_thing_share` of all pixels, and
          `void_predicted_as_things` of the true void; segments but for void, crowds left out.
        """
        truths, found = self._pixels.sum(axis=1), self._pixels.sum(axis=0)
        parts = (truths[_VOID], truths[_THING], found[_THING], self._pixels[_VOID, _THING])
        wholes = (*[truths.sum()] * 3, truths[_VOID])
        shares = (_share(part, whole) for part, whole in zip(parts, wholes))
        values: Dict[str, Any] = {**dict.fromkeys(NAMES), **dict(zip(SHARE_NAMES, shares))}
        if self._has_segments:
            totals = self._segments[:, _THING:].sum(axis=1)
            counts = [*totals, *self._segments[:, _THING]]
            values.update(zip(COUNT_NAMES, map(int, counts)))
        return values


def warnings_of_data(report: Mapping[str, Any]) -> List[str]:
    """What is to be known of records before training on them.

    Args:
      report: of `datasets.doctor`.
    """
    things = sum(c["pixel_share"] for c in report["per_category"] if c["is_thing"])
    return warnings_of({"void_share": report["void_share"], "true_thing_share": things})


def warnings_of(metrics: Mapping[str, Any]) -> List[str]:
    """What is to be read with the metrics: sentences, each one line.

    Why they may look better than the model is, and where nothing is found, what is the matter
    (`diagnosis.warnings_of`).

    Args:
      metrics: the content of a `metrics.json`; of annotations alone, `void_share` and
        `true_thing_share` will do.
    """
    return [*_warnings_of_void(metrics), *diagnosis.warnings_of(metrics)]


def _warnings_of_void(metrics: Mapping[str, Any]) -> List[str]:
    void, things = metrics.get("void_share"), metrics.get("true_thing_share")
    if void is None or things is None or void <= _LARGE or 1 - void - things >= _TINY:
        return []
    text = f"{void:.1%} of the pixels are void, and almost nothing but things is labelled"
    advice = "`convert --unlabelled=background` makes the rest stuff."
    if "void_predicted_as_things" not in metrics:
        return [f"{text}: what is predicted on void is neither trained nor scored. {advice}"]
    on_void = metrics["void_predicted_as_things"]
    if on_void is None or on_void <= _NOTICED:
        return []
    text = f"PQ ignores the void: {text}. The model predicts things on {on_void:.1%} of the void"
    if metrics.get("true_things") is not None:
        text += f", {metrics['predicted_things']} things for {metrics['true_things']} annotated"
    return [f"{text}. {advice}"]


def _share(part: int, whole: int) -> Optional[float]:
    return float(part / whole) if whole else None

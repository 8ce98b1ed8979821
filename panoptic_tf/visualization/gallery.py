"""Keeps the best and the worst images of an evaluation while it streams by."""

from __future__ import annotations

import heapq
import io
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from panoptic_tf.structures import GroundTruth, Prediction
from panoptic_tf.visualization import overlay, panel

_TRUTH_MASKS = (GroundTruth.CATEGORY_MASK, GroundTruth.INSTANCE_MASK, GroundTruth.CROWD_MASK)
_PREDICTED_MASKS = (Prediction.CATEGORY_MASK, Prediction.INSTANCE_MASK)


class _Entry(NamedTuple):
    """Ordered by key, then by the order of arrival, so that masks are never compared."""

    key: float
    number: int
    image_id: str
    pq: float
    masks: bytes


class Gallery:
    """The images of highest and of lowest panoptic quality, masks compressed."""

    def __init__(self, size: int):
        """See the class.

        Args:
          size: images kept of each kind; an image without PQ is not kept.
        """
        self._size = size
        self._number = 0
        self._best: List[_Entry] = []
        self._worst: List[_Entry] = []

    def add(
        self,
        image_id: str,
        pq: Optional[float],
        ground_truth: Mapping[str, np.ndarray],
        prediction: Mapping[str, np.ndarray],
    ) -> None:
        """Offers an image.

        Args:
          image_id: JSON text of the id.
          pq: of this image alone, percent.
          ground_truth: `category_mask`, `instance_mask`, `crowd_mask`, each [H, W].
          prediction: `category_mask`, `instance_mask`, each [H, W].
        """
        if pq is None or not self._size:
            return
        self._number += 1
        masks = None
        for heap, key in ((self._best, pq), (self._worst, -pq)):
            if len(heap) == self._size and key <= heap[0].key:
                continue
            masks = masks or _compress(ground_truth, prediction)
            heapq.heappush(heap, _Entry(key, self._number, image_id, pq, masks))
            if len(heap) > self._size:
                heapq.heappop(heap)

    @property
    def image_ids(self) -> Tuple[str, ...]:
        """Ids of the kept images."""
        return tuple({entry.image_id: None for entry in (*self._best, *self._worst)})

    def draw(
        self,
        images: Mapping[str, np.ndarray],
        *,
        colors: Sequence[overlay.Color],
        names: Optional[Sequence[str]] = None,
        tile_size: int = 384,
    ) -> List[Dict[str, Any]]:
        """Draws the gallery of a report: the best first, then the worst first.

        Args:
          images: uint8 [H, W, 3] by image id; an image that is missing is left out.
          colors, names: by category id, entry 0 is void.
          tile_size: longer side of each tile, pixels.

        Returns:
          Items of `report.render_report`. An image stands once, among the best if it is in both.
        """
        best = sorted(self._best, reverse=True)
        shown = {entry.number for entry in best}
        worst = [e for e in sorted(self._worst, reverse=True) if e.number not in shown]
        items = []
        for group, entries in (("best", best), ("worst", worst)):
            for entry in entries:
                if entry.image_id not in images:
                    continue
                ground_truth, prediction = _expand(entry.masks)
                drawn = panel.draw_panel(
                    images[entry.image_id],
                    ground_truth,
                    prediction,
                    colors=colors,
                    names=names,
                    show_difference=True,
                    tile_size=tile_size,
                )
                items.append(
                    {"image_id": entry.image_id, "pq": entry.pq, "panel": drawn, "group": group}
                )
        return items


def _compress(
    ground_truth: Mapping[str, np.ndarray], prediction: Mapping[str, np.ndarray]
) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        **{f"truth_{key}": ground_truth[key] for key in _TRUTH_MASKS},
        **{f"predicted_{key}": prediction[key] for key in _PREDICTED_MASKS},
    )
    return buffer.getvalue()


def _expand(masks: bytes) -> Tuple[Dict[str, np.ndarray], Dict[str, np.ndarray]]:
    with np.load(io.BytesIO(masks), allow_pickle=False) as arrays:
        return (
            {key: arrays[f"truth_{key}"] for key in _TRUTH_MASKS},
            {key: arrays[f"predicted_{key}"] for key in _PREDICTED_MASKS},
        )

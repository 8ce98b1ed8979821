"""Keeps the images of a data set that are worth a look, and a sample, while `doctor` reads it."""

from __future__ import annotations

import collections
import heapq
import os
from typing import Any, Counter, Dict, List, Mapping, NamedTuple, Optional, Tuple

import numpy as np
import tensorflow as tf

from panoptic_tf.datasets import files
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.datasets.suspicions import SeenImage, Suspicions, Thresholds
from panoptic_tf.structures import GroundTruth
from panoptic_tf.visualization import data_page, images, panel

_GRAY = 110


class _Kept(NamedTuple):
    """Ordered by weight, then by the order of arrival, so that pictures are never compared."""

    weight: float
    number: int
    item: Mapping[str, Any]


class DataPage:
    """Looks at images one by one, as `doctor.Look`; memory does not grow with the data set but by
    a checksum for each image.

    Args:
      num_images: suspicious images that are kept, and images of the sample.
      tile_size: longer side of a picture, pixels.
      seed: of the sample.
      thresholds: from where on something is suspicious.

    Attributes:
      num_suspicious: images with a reason to look at them, shown or not.
    """

    def __init__(
        self,
        *,
        num_images: int = 24,
        tile_size: int = 384,
        seed: int = 0,
        thresholds: Optional[Thresholds] = None,
    ):
        self._num_images = num_images
        self._tile_size = tile_size
        self._thresholds = thresholds
        self._random = np.random.default_rng(seed)
        self._kinds: Counter[str] = collections.Counter()
        self._suspicious: List[_Kept] = []
        self._sample: Dict[int, Mapping[str, Any]] = {}
        self._number = 0
        self.num_suspicious = 0
        self._suspicions: Optional[Suspicions] = None
        self._info: Optional[DatasetInfo] = None

    def add(self, seen: SeenImage, dataset_info: DatasetInfo) -> None:
        """Looks at one image; draws it if it is kept.

        Args:
          seen: the image.
          dataset_info: the categories, the same for all images.
        """
        if self._suspicions is None:
            self._info = dataset_info
            self._suspicions = Suspicions(dataset_info, self._thresholds)
        found = self._suspicions.find(seen)
        self._kinds.update({suspicion.kind for suspicion in found})
        self.num_suspicious += bool(found)
        if not self._num_images:
            return
        number, self._number = self._number, self._number + 1
        # Reservoir sampling: every image is kept with the same chance.
        place = number if number < self._num_images else int(self._random.integers(number + 1))
        weight = sum(suspicion.weight for suspicion in found)
        is_full = len(self._suspicious) == self._num_images
        is_strange = bool(found) and not (is_full and weight <= self._suspicious[0].weight)
        if not is_strange and place >= self._num_images:
            return
        item = {"name": seen.name, "panel": self._draw(seen, dataset_info)}
        if place < self._num_images:
            self._sample[place] = item
        if is_strange:
            found.sort(key=lambda suspicion: -suspicion.weight)
            reasons = [suspicion.text for suspicion in found]
            # Of equals the first stays.
            entry = _Kept(weight, -number, {**item, "reasons": reasons})
            (heapq.heappushpop if is_full else heapq.heappush)(self._suspicious, entry)

    def save(self, path: str, report: Mapping[str, Any], *, title: str, command: str = "") -> None:
        """Writes the page.

        Args:
          path: of the HTML file.
          report: what `doctor` returned.
          title: headline.
          command: that made the page.

        Raises:
          OSError: it cannot be written.
        """
        categories = self._info.categories if self._info else ()
        colors = [c.color for c in categories] or [(_GRAY,) * 3] * len(report["per_category"])
        page = data_page.render_data_page(
            title=title,
            report=report,
            colors=colors,
            suspicious=[entry.item for entry in sorted(self._suspicious, reverse=True)],
            sample=[self._sample[place] for place in sorted(self._sample)],
            kinds=self._kinds.most_common(),
            command=command,
        )
        files.write_bytes(os.path.abspath(path), page.encode())

    def _draw(self, seen: SeenImage, info: DatasetInfo) -> bytes:
        keys = (GroundTruth.CATEGORY_MASK, GroundTruth.INSTANCE_MASK, GroundTruth.CROWD_MASK)
        drawn = panel.draw_panel(
            _decode(seen.image_bytes, seen.rows.shape),
            dict(zip(keys, seen.masks)),
            colors=info.colors,
            names=info.names,
            tile_size=self._tile_size,
        )
        return images.encode_jpeg(drawn, quality=85)


def _decode(content: Optional[bytes], size: Tuple[int, ...]) -> np.ndarray:
    """uint8 [H, W, 3]; grey where there is no image."""
    if content is None:
        return np.full([*size, 3], _GRAY, np.uint8)
    return tf.io.decode_image(content, channels=3, expand_animations=False).numpy()

"""Finds images whose annotations are legal and look like a mistake.

Nothing here is an error: each finding is a reason to look at an image, and says why.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from pycocotools import mask as mask_api
from scipy import ndimage

from panoptic_tf.datasets.dataset_info import DatasetInfo

_MOST_INSTANCES = 300
"""Instances of an image that are compared with each other."""


@dataclasses.dataclass(frozen=True)
class SeenImage:
    """One sound image, as `doctor` read it.

    Attributes:
      name: file and image.
      image_bytes: JPEG or PNG, or None.
      rows: int32 [H, W], row of the segment + 1, 0 is void.
      areas: int64 [S], measured.
      boxes: int32 [S, 4], [x, y, width, height], measured.
      categories: int32 [S], contiguous.
      is_crowd: bool [S].
      masks: category_mask int32, instance_mask int32 and crowd_mask bool, each [H, W].
      rles: run lengths of K instances that may overlap.
      instance_categories: K contiguous categories.
    """

    name: str
    image_bytes: Optional[bytes]
    rows: np.ndarray
    areas: np.ndarray
    boxes: np.ndarray
    categories: np.ndarray
    is_crowd: np.ndarray
    masks: Tuple[np.ndarray, np.ndarray, np.ndarray]
    rles: Sequence[bytes] = ()
    instance_categories: Sequence[int] = ()


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """From where on something is suspicious.

    Attributes:
      tiny_area: segments of fewer pixels.
      void_share: void of more than this share of an image.
      cover_share: a segment of more than this share of an image.
      overlap: intersection over union of two instances of one category.
      box_side: things that fill their box, of at least this many pixels on both sides.
      pieces: a thing in more pieces than this, none of which has four fifths of its pixels.
    """

    tiny_area: int = 16
    void_share: float = 0.5
    cover_share: float = 0.98
    overlap: float = 0.8
    box_side: int = 8
    pieces: int = 4


class Suspicion(NamedTuple):
    """A reason to look at an image.

    Attributes:
      kind: what is counted over the data set.
      text: what was found in this image.
      weight: larger is stranger; those of an image are added.
    """

    kind: str
    text: str
    weight: float


class Suspicions:
    """Looks at one image after the other; keeps a checksum of each, to find copies."""

    def __init__(self, dataset_info: DatasetInfo, thresholds: Optional[Thresholds] = None):
        self._names = dataset_info.names
        self._things = dataset_info.thing_ids
        self._limits = thresholds or Thresholds()
        self._first: Dict[bytes, str] = {}

    def find(self, seen: SeenImage) -> List[Suspicion]:
        """The reasons to look at an image, none for most."""
        return [
            *self._copies(seen),
            *self._overlaps(seen),
            *self._shares(seen),
            *self._shapes(seen),
        ]

    def _copies(self, seen: SeenImage) -> Iterator[Suspicion]:
        if seen.image_bytes is None:
            return
        digest = hashlib.sha256(seen.image_bytes).digest()[:16]
        first = self._first.setdefault(digest, seen.name)
        if first != seen.name:
            yield Suspicion("copies of a photograph", f"the same photograph as {first}", 10.0)

    def _overlaps(self, seen: SeenImage) -> Iterator[Suspicion]:
        count = min(len(seen.rles), _MOST_INSTANCES)
        if count < 2:
            return
        size = list(seen.rows.shape)
        masks = [{"size": size, "counts": counts} for counts in seen.rles[:count]]
        categories = np.asarray(seen.instance_categories[:count])
        overlaps = mask_api.iou(masks, masks, [0] * count)
        is_same = categories[:, np.newaxis] == categories
        pairs = np.argwhere(np.triu((overlaps > self._limits.overlap) & is_same, k=1))
        if len(pairs):
            name = self._names[categories[pairs[0][0]]]
            yield Suspicion(
                "instances that cover each other",
                f"{len(pairs)} pairs of instances of one category cover each other by more than "
                f"{self._limits.overlap:.0%}, the first are of {name!r}",
                8.0 + min(len(pairs), 10) / 10,
            )

    def _shares(self, seen: SeenImage) -> Iterator[Suspicion]:
        num_pixels = max(seen.rows.size, 1)
        labelled = int(seen.areas.sum())
        if not labelled:
            yield Suspicion("no label", "no labelled pixel", 5.0)
            return
        void = 1 - labelled / num_pixels
        if void > self._limits.void_share:
            yield Suspicion("much void", f"{void:.0%} of the pixels are void", 1.0 + void)
        largest = int(np.argmax(seen.areas))
        share = seen.areas[largest] / num_pixels
        if share > self._limits.cover_share:
            name = self._names[seen.categories[largest]]
            text = f"one segment of {name!r} covers {share:.1%} of the image"
            yield Suspicion("one segment covers all", text, 3.0)
        num_tiny = int(np.count_nonzero(seen.areas < self._limits.tiny_area))
        if num_tiny:
            text = f"{num_tiny} segments have fewer than {self._limits.tiny_area} pixels"
            yield Suspicion("tiny segments", text, 1.0 + 3 * num_tiny / (num_tiny + 5))

    def _shapes(self, seen: SeenImage) -> Iterator[Suspicion]:
        is_thing = np.isin(seen.categories, self._things) & ~seen.is_crowd
        width, height = seen.boxes[:, 2], seen.boxes[:, 3]
        is_large = np.minimum(width, height) >= self._limits.box_side
        filled = is_thing & is_large & (seen.areas == width.astype(np.int64) * height)
        if filled.any():
            text = f"{filled.sum()} of {is_thing.sum()} things are boxes, not outlines"
            yield Suspicion("boxes, not outlines", text, 1.0 + 3 * filled.sum() / is_thing.sum())
        is_line = np.minimum(width, height) == 1
        lines = is_thing & is_line & (np.maximum(width, height) >= self._limits.box_side)
        if lines.any():
            text = f"{lines.sum()} things are lines of one pixel"
            yield Suspicion("lines", text, 2.0)
        torn = [row for row in np.flatnonzero(is_thing) if self._is_torn(seen, int(row))]
        if torn:
            name = self._names[seen.categories[torn[0]]]
            text = f"{len(torn)} things lie in more than {self._limits.pieces} pieces, the first "
            yield Suspicion("things in pieces", text + f"is of {name!r}", 2.0)

    def _is_torn(self, seen: SeenImage, row: int) -> bool:
        x, y, width, height = seen.boxes[row].tolist()
        mask = seen.rows[y : y + height, x : x + width] == row + 1
        pieces, count = ndimage.label(mask, structure=np.ones((3, 3)))
        if count <= self._limits.pieces:
            return False
        return bool(np.bincount(pieces.reshape(-1))[1:].max() < 0.8 * seen.areas[row])

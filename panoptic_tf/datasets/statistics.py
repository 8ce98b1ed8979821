"""What a data set holds: images, segments and pixels, by category and of void and crowd."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence, Tuple

import numpy as np

from panoptic_tf.datasets.dataset_info import DatasetInfo


class Histogram:
    """Counts of positive numbers in bins that grow by the square root of two.

    Bin i holds the numbers from 2^(i / 2) up to, and without, 2^((i + 1) / 2).
    """

    _NUM_BINS = 64

    def __init__(self) -> None:
        self._counts = np.zeros(self._NUM_BINS, np.int64)

    def add(self, values: Any) -> None:
        """Adds numbers of at least 1; larger than all bins are counted in the last."""
        bins = np.floor(2 * np.log2(np.maximum(np.asarray(values, np.float64), 1))).astype(np.int64)
        self._counts += np.bincount(
            np.minimum(bins.reshape(-1), self._NUM_BINS - 1), minlength=self._NUM_BINS
        )

    def to_json(self) -> List[Dict[str, Any]]:
        """The bins from the first to the last that holds a number: `low`, `high` and `count`."""
        used = np.flatnonzero(self._counts)
        if not len(used):
            return []
        return [
            {"low": 2 ** (i / 2), "high": 2 ** ((i + 1) / 2), "count": int(self._counts[i])}
            for i in range(used[0], used[-1] + 1)
        ]


class DatasetStatistics:
    """Streaming counts over annotated images.

    Args:
      dataset_info: the categories.

    Attributes:
      num_images: images added.
      num_pixels: their pixels.
      void_pixels: pixels without annotation.
      crowd_pixels: pixels of crowd segments.
      all_void_images: images without any annotated pixel.
      num_instances: instances that may overlap.
      images_with_instances: images that bring such, if only an empty list.
      split_stuff_images: images with several segments of one stuff category.
      image_sides: longer sides of images, pixels.
      thing_sides, stuff_sides: square roots of the areas of segments.
      segments_of_image: numbers of segments in an image that has any.
      segments, crowds, pixels, images: int64 [N + 1] by contiguous category id.
    """

    def __init__(self, dataset_info: DatasetInfo):
        self._info = dataset_info
        self.num_images = self.num_pixels = self.void_pixels = self.crowd_pixels = 0
        self.all_void_images = self.split_stuff_images = 0
        self.num_instances = self.images_with_instances = 0
        self.image_sides, self.segments_of_image = Histogram(), Histogram()
        self.thing_sides, self.stuff_sides = Histogram(), Histogram()
        length = dataset_info.num_categories + 1
        self.segments, self.crowds, self.pixels, self.images = np.zeros((4, length), np.int64)

    def add(
        self,
        areas: np.ndarray,
        categories: Sequence[int],
        is_crowd: Sequence[bool],
        *,
        size: Tuple[int, int],
    ) -> None:
        """Adds one image.

        Args:
          areas: int64 [S], measured.
          categories: S contiguous category ids.
          is_crowd: S crowd flags.
          size: (height, width) of the image.
        """
        num_pixels = size[0] * size[1]
        length = len(self.segments)
        ids = np.asarray(categories, np.int64)
        crowds = np.asarray(is_crowd, bool)
        segments = np.bincount(ids, minlength=length)
        self.segments += segments
        self.images += segments > 0
        self.crowds += np.bincount(ids[crowds], minlength=length)
        np.add.at(self.pixels, ids, areas)
        self.num_images += 1
        self.num_pixels += num_pixels
        self.void_pixels += num_pixels - int(areas.sum())
        self.crowd_pixels += int(areas[crowds].sum())
        self.all_void_images += int(areas.sum() == 0)
        self.split_stuff_images += int((segments[list(self._info.stuff_ids)] > 1).any())
        self.image_sides.add(max(size))
        sides = np.sqrt(areas[~crowds])
        is_thing = np.isin(ids[~crowds], self._info.thing_ids)
        self.thing_sides.add(sides[is_thing])
        self.stuff_sides.add(sides[~is_thing])
        if len(ids):
            self.segments_of_image.add(len(ids))

    def add_instances(self, count: int) -> None:
        """Adds the instances that may overlap of one image that was added."""
        self.images_with_instances += 1
        self.num_instances += count

    def notes(self) -> List[str]:
        """What is legal, and yet good to know before training."""
        notes = []
        if not self._info.thing_ids:
            notes.append("No category is a thing: stuff only.")
        if not self._info.stuff_ids:
            notes.append("No category is stuff: things only.")
        absent = [c.name for c in self._info.categories if not self.segments[c.id]]
        if absent:
            shown = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
            notes.append(f"{len(absent)} categories have no segment: {shown}.")
        if self.all_void_images:
            notes.append(f"{self.all_void_images} images have no annotated pixel.")
        if 0 < self.images_with_instances < self.num_images:
            notes.append(
                f"{self.num_images - self.images_with_instances} images have no overlapping "
                "instances; those of the panoptic map are used."
            )
        if self.split_stuff_images:
            notes.append(
                f"{self.split_stuff_images} images have several segments of one stuff category; "
                "they are one segment in training and evaluation."
            )
        return notes

    def to_json(self) -> Dict[str, Any]:
        """All counts, as plain values."""
        return {
            "num_images": self.num_images,
            "num_segments": int(self.segments.sum()),
            "num_crowds": int(self.crowds.sum()),
            "num_instances": self.num_instances,
            "images_with_instances": self.images_with_instances,
            "num_pixels": self.num_pixels,
            "void_share": self._share(self.void_pixels),
            "crowd_share": self._share(self.crowd_pixels),
            "histograms": {
                "longer_side_of_images": self.image_sides.to_json(),
                "square_root_of_thing_area": self.thing_sides.to_json(),
                "square_root_of_stuff_area": self.stuff_sides.to_json(),
                "segments_of_an_image": self.segments_of_image.to_json(),
            },
            "per_category": [
                {
                    "id": c.dataset_id,
                    "name": c.name,
                    "is_thing": c.is_thing,
                    "images": int(self.images[c.id]),
                    "segments": int(self.segments[c.id]),
                    "crowds": int(self.crowds[c.id]),
                    "pixels": int(self.pixels[c.id]),
                    "pixel_share": self._share(int(self.pixels[c.id])),
                }
                for c in self._info.categories
            ],
        }

    def _share(self, pixels: int) -> float:
        return pixels / max(self.num_pixels, 1)

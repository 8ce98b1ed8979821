"""Problems, counts and the proof of a data set, collected image by image.

The proof that the annotations are sound is that they score PQ 100 against themselves. The metric is
handed in, since this package does not know the metrics: an object with `update(gt_category_mask,
gt_instance_mask, gt_crowd_mask, category_mask, instance_mask)` and `result()`.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np

from panoptic_tf.datasets import checks, images, segments
from panoptic_tf.datasets.annotations import Segment
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.datasets.notes import Notes
from panoptic_tf.datasets.statistics import DatasetStatistics
from panoptic_tf.datasets.suspicions import SeenImage

BuildQuality = Callable[..., Any]
"""Called with `num_categories` and `thing_ids`, returns the metric."""

Look = Callable[[SeenImage, DatasetInfo], None]
"""Called with every sound image, one after the other, and the categories."""

_PERFECT = 100 - 1e-6


class Examination:
    """Problems and counts of one data set.

    Args:
      dataset_info: its categories.
      build_quality: makes the metric of the proof.
      look: called with each image that is counted; optional.

    Attributes:
      problems: texts that name file and field.
      notes: what is legal and worth a look.
      statistics: what the sound images hold.
      dataset_info: the categories.
    """

    def __init__(
        self, dataset_info: DatasetInfo, build_quality: BuildQuality, look: Optional[Look] = None
    ):
        self.problems: List[str] = []
        self.notes = Notes()
        self.statistics = DatasetStatistics(dataset_info)
        self.dataset_info = dataset_info
        self._look = look
        self._quality = build_quality(
            num_categories=dataset_info.num_categories, thing_ids=dataset_info.thing_ids
        )

    def add(
        self,
        where: str,
        rows: np.ndarray,
        segment_table: Sequence[Segment],
        categories: Sequence[int],
        *,
        image_bytes: Optional[bytes] = None,
        rles: Optional[Sequence[bytes]] = None,
        instance_categories: Sequence[int] = (),
    ) -> None:
        """Examines the segments of one image, and counts them.

        Args:
          where: file and image, for the texts of problems.
          rows: int32 [H, W], row of the segment + 1, 0 is void.
          segment_table: S segments.
          categories: their contiguous categories.
          image_bytes: JPEG or PNG; None where there is none.
          rles: run lengths of K instances that may overlap; None where there are none.
          instance_categories: their contiguous categories.
        """
        areas, boxes = segments.areas_and_boxes(rows, len(segment_table))
        self.problems += checks.segment_problems(where, segment_table, areas, boxes)
        is_crowd = [s.is_crowd for s in segment_table]
        self.statistics.add(areas, categories, is_crowd, size=(rows.shape[0], rows.shape[1]))
        category_mask, instance_mask, crowd_mask = segments.rows_to_masks(
            rows, categories=categories, is_crowd=is_crowd, thing_ids=self.dataset_info.thing_ids
        )
        self._quality.update(category_mask, instance_mask, crowd_mask, category_mask, instance_mask)
        if rles is not None:
            self.statistics.add_instances(len(rles))
        if self._look is not None:
            self._look(
                SeenImage(
                    where,
                    image_bytes,
                    rows,
                    areas,
                    boxes,
                    np.asarray(categories, np.int32),
                    np.asarray(is_crowd, bool),
                    (category_mask, instance_mask, crowd_mask),
                    rles or (),
                    instance_categories,
                ),
                self.dataset_info,
            )

    def add_loaded(
        self, where: str, loaded: checks.LoadedAnnotation, categories: Sequence[int], place: str
    ) -> None:
        """Examines what an importer read, and notes what it noted.

        Args:
          where: file and image, for the texts of problems.
          loaded: what was read.
          categories: contiguous categories of its segments.
          place: file, for the notes.
        """
        instances = loaded.instances
        self.add(
            where,
            loaded.rows,
            loaded.segments,
            categories,
            image_bytes=loaded.image_bytes,
            rles=None if instances is None else [i.rle for i in instances],
            instance_categories=[i.category for i in instances or ()],
        )
        for kind in loaded.notes:
            self.notes.add(kind, place)

    def add_image(self, where: str, image_bytes: bytes) -> None:
        """Notes what a sound image says of itself."""
        if images.orientation(image_bytes) != 1:
            self.notes.add(images.TURNED, where)

    def finish(self) -> Dict[str, Any]:
        """The report: `problems`, `notes`, `ground_truth_PQ` and the counts of the statistics."""
        result = self._quality.result()
        for row in result["per_category"]:
            if row["PQ"] is not None and row["PQ"] < _PERFECT:
                self.problems.append(
                    f"category {self.dataset_info.names[row['id']]!r}: the ground truth scores PQ "
                    f"{row['PQ']:.2f} against itself, not 100."
                )
        return {
            "problems": self.problems,
            "notes": self.statistics.notes() + self.notes.texts(),
            "ground_truth_PQ": result["PQ"],
            **self.statistics.to_json(),
        }

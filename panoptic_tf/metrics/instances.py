"""Average precision of instances by the COCO protocol (pycocotools, `segm` and `bbox`).

Masks are run-length encoded as they come, so that a whole validation split fits in memory. Crowds
of the ground truth are ignore regions, as COCO has it.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
from pycocotools import coco, cocoeval
from pycocotools import mask as coco_mask

from panoptic_tf.structures import GroundTruth

Vector = Union[Sequence[Any], np.ndarray]

MAX_DETECTIONS = 100
"""Of an image; the protocol takes those of highest score."""

METRIC_NAMES = ("AP", "AP50", "AP75", "AP_box", "AP50_box", "AP75_box")


class Instances(NamedTuple):
    """K instances of one image; they may overlap.

    Attributes:
      rles: K COCO run-length encodings, `{"size": [H, W], "counts": bytes}`.
      categories: [K] category ids.
      is_crowd: [K], of ground truth only.
      scores: [K], of predictions only.
      boxes: [K, 4], [ymin, xmin, ymax, xmax] in pixels, of predictions that have boxes of their
        own; those of ground truth are the extents of its masks.
    """

    rles: List[Dict[str, Any]]
    categories: Vector
    is_crowd: Optional[Vector] = None
    scores: Optional[Vector] = None
    boxes: Optional[np.ndarray] = None


class InstanceAveragePrecision:
    """Streaming AP over IoU 0.50:0.95, AP50 and AP75, of masks and of boxes.

    Args:
      num_categories: N; category ids are 1..N.
      thing_ids: ids of the categories that have instances; others are left out.
    """

    def __init__(self, *, num_categories: int, thing_ids: Sequence[int]):
        self._num_categories = num_categories
        self._thing_ids = tuple(sorted(int(i) for i in thing_ids))
        self._images: List[Tuple[Tuple[int, ...], Instances, Instances]] = []

    def update(
        self, image_size: Sequence[int], ground_truth: Instances, prediction: Instances
    ) -> None:
        """Adds one image.

        Args:
          image_size: (H, W), the size of every mask.
          ground_truth: instances with `is_crowd` (None: no crowd).
          prediction: instances with `scores`.

        Raises:
          ValueError: a mask has another size, or the prediction has no scores.
        """
        size = [int(image_size[0]), int(image_size[1])]
        for kind, instances in (("ground-truth", ground_truth), ("predicted", prediction)):
            sizes = {tuple(r["size"]) for r in instances.rles} - {tuple(size)}
            if sizes:
                raise ValueError(f"{kind} masks must have size {size}, got {sorted(sizes)}.")
        if prediction.scores is None:
            raise ValueError("predicted instances must have scores for average precision.")
        self._images.append((tuple(size), ground_truth, prediction))

    def merge(self, other: InstanceAveragePrecision) -> None:
        """Adds the images of another instance."""
        self._images.extend(other._images)

    def result(self) -> Dict[str, Any]:
        """`METRIC_NAMES` in percent or None, and `per_category`: N values of mask AP or None.

        Boxes are scored if every prediction has some.
        """
        per_category: List[Optional[float]] = [None] * self._num_categories
        values: Dict[str, Any] = {**dict.fromkeys(METRIC_NAMES), "per_category": per_category}
        truths = self._annotations([truth for _, truth, _ in self._images])
        if not any(not a["iscrowd"] for a in truths):
            return values
        predictions = [prediction for _, _, prediction in self._images]
        found = self._annotations(predictions)
        masks = self._precision("segm", truths, found)
        values.update(_averages(masks, ""))
        for column, category in enumerate(self._thing_ids):
            per_category[category - 1] = _average(masks[:, :, column])
        if all(prediction.boxes is not None for prediction in predictions):
            values.update(_averages(self._precision("bbox", truths, found), "_box"))
        return values

    def _precision(
        self, kind: str, truths: List[Dict[str, Any]], found: List[Dict[str, Any]]
    ) -> np.ndarray:
        """Precision [10 IoUs, 101 recalls, things], -1 where a category has no ground truth."""
        images = [
            {"id": i, "height": h, "width": w} for i, ((h, w), _, _) in enumerate(self._images)
        ]
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            evaluation = cocoeval.COCOeval(
                self._coco(images, truths), self._coco(images, found), kind
            )
            evaluation.params.maxDets = [MAX_DETECTIONS]
            evaluation.params.areaRng = [[0, 1e10]]
            evaluation.params.areaRngLbl = ["all"]
            evaluation.evaluate()
            evaluation.accumulate()
        return evaluation.eval["precision"][:, :, :, 0, 0]

    def _annotations(self, images: Sequence[Instances]) -> List[Dict[str, Any]]:
        annotations: List[Dict[str, Any]] = []
        for image_id, instances in enumerate(images):
            boxes = coco_boxes(instances)
            for k, rle in enumerate(instances.rles):
                annotations.append(
                    {
                        "id": len(annotations) + 1,  # the matching reads 0 as unmatched
                        "image_id": image_id,
                        "category_id": int(instances.categories[k]),
                        "segmentation": rle,
                        "bbox": boxes[k],
                        "area": float(coco_mask.area(rle)),
                        "iscrowd": int(
                            bool(instances.is_crowd is not None and instances.is_crowd[k])
                        ),
                        "score": 0.0 if instances.scores is None else float(instances.scores[k]),
                    }
                )
        things = set(self._thing_ids)
        return [a for a in annotations if a["category_id"] in things]

    def _coco(self, images: List[Dict[str, Any]], annotations: List[Dict[str, Any]]) -> coco.COCO:
        index = coco.COCO()
        index.dataset = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": i} for i in self._thing_ids],
        }
        index.createIndex()
        return index


def encode_id_map(id_map: np.ndarray) -> Tuple[np.ndarray, List[Dict[str, Any]], np.ndarray]:
    """Run-length encodes every segment of an id map in one pass over its pixels.

    Args:
      id_map: integers [H, W], 0 is none.

    Returns:
      ids: [K] the ids present, ascending, without 0.
      rles: K encodings.
      points: int64 [K, 2], a (y, x) of each segment.
    """
    height, width = id_map.shape
    pixels = id_map.T.reshape(-1)  # column-major, the order of COCO's runs
    starts = np.append(0, np.flatnonzero(pixels[1:] != pixels[:-1]) + 1)
    ends = np.append(starts[1:], pixels.size)
    order = np.argsort(pixels[starts], kind="stable")
    ids, first = np.unique(pixels[starts][order], return_index=True)
    is_segment = ids != 0
    rles = []
    for runs, is_kept in zip(np.split(order, first[1:]), is_segment):
        if is_kept:
            edges = np.column_stack([starts[runs], ends[runs]]).reshape(-1)
            rles.append(encode_edges(edges, height, width))
    points = starts[order[first]]
    return ids[is_segment], rles, np.column_stack([points % height, points // height])[is_segment]


def encode_edges(edges: np.ndarray, height: int, width: int) -> Dict[str, Any]:
    """Run-length encodes a mask that is given by its runs.

    Args:
      edges: int64 [2 R], first pixel of each run and the one after it, ascending, in column-major
        order.
      height, width: of the mask.
    """
    # A last run of nothing is not written, a first one is.
    is_full = len(edges) > 0 and edges[-1] == height * width
    stop = np.zeros(0, np.int64) if is_full else np.array([height * width])
    counts = np.diff(np.concatenate([[0], edges, stop]))
    return coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)


def ground_truth_instances(
    category_mask: np.ndarray, instance_mask: np.ndarray, crowd_mask: Optional[np.ndarray] = None
) -> Instances:
    """The instances of ground-truth masks [H, W]; each has the category of its pixels."""
    _, rles, points = encode_id_map(instance_mask)
    rows, columns = points[:, 0], points[:, 1]
    is_crowd = np.zeros(len(rles), bool) if crowd_mask is None else crowd_mask[rows, columns]
    return Instances(rles, category_mask[rows, columns], is_crowd=is_crowd)


def stored_instances(ground_truth: Mapping[str, Any]) -> Optional[Instances]:
    """The overlapping instances that the labels of one image hold, or None where they hold none.

    Args:
      ground_truth: keys of `structures.GroundTruth`, no batch dimension.
    """
    count = int(ground_truth.get(GroundTruth.NUM_INSTANCES, -1))
    if count < 0:
        return None
    size = [int(side) for side in ground_truth[GroundTruth.IMAGE_SIZE]]
    return Instances(
        [{"size": size, "counts": c} for c in ground_truth[GroundTruth.INSTANCE_RLES][:count]],
        ground_truth[GroundTruth.INSTANCE_CATEGORIES][:count],
        is_crowd=ground_truth[GroundTruth.INSTANCE_IS_CROWD][:count],
    )


def predicted_instances(
    instance_mask: np.ndarray,
    *,
    segment_instance: np.ndarray,
    segment_category: np.ndarray,
    segment_score: np.ndarray,
) -> Instances:
    """The instances of a predicted mask with the categories and scores of its segment table.

    Args:
      instance_mask: integers [H, W], 0 is none.
      segment_instance: [N] the segment's id in the mask, 0 for stuff and unused rows.
      segment_category: [N].
      segment_score: [N], 0..1.

    Raises:
      ValueError: the mask holds an instance that the table does not.
    """
    ids, rles, _ = encode_id_map(instance_mask)
    row_of_id = {int(i): row for row, i in enumerate(segment_instance) if i > 0}
    missing = [int(i) for i in ids if int(i) not in row_of_id]
    if missing:
        raise ValueError(f"instances {missing} of instance_mask have no row in the segment table.")
    rows = np.array([row_of_id[int(i)] for i in ids], np.int64)
    return Instances(
        rles, np.asarray(segment_category)[rows], scores=np.asarray(segment_score)[rows]
    )


def coco_boxes(instances: Instances) -> List[List[float]]:
    """Boxes as COCO has them: x, y, width, height, in pixels; without own ones those of masks."""
    if instances.boxes is None:
        return coco_mask.toBbox(instances.rles).tolist() if instances.rles else []
    top, left, bottom, right = np.asarray(instances.boxes, np.float64).reshape(-1, 4).T
    return np.stack([left, top, right - left, bottom - top], axis=-1).tolist()


def _averages(precision: np.ndarray, suffix: str) -> Dict[str, Optional[float]]:
    parts = {"AP": precision, "AP50": precision[0], "AP75": precision[5]}
    return {name + suffix: _average(part) for name, part in parts.items()}


def _average(precision: np.ndarray) -> Optional[float]:
    valid = precision[precision > -1]
    return 100 * float(valid.mean()) if valid.size else None

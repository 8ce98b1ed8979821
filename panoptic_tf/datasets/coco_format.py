"""COCO panoptic format: one JSON file of segments and one RGB PNG of segment ids per image.

Cityscapes as cityscapesScripts' createPanopticImgs writes it is read by the same function.
This module knows nothing of TensorFlow.
"""

from __future__ import annotations

import dataclasses
import math
import os
import warnings
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from panoptic_tf.datasets import coco_reader, json_fields
from panoptic_tf.datasets import dataset_info as dataset_info_lib
from panoptic_tf.datasets.annotations import Instance, PanopticAnnotation, Segment
from panoptic_tf.datasets.coco_writer import CocoPanopticWriter, ImageId
from panoptic_tf.datasets.id_png import read_id_map
from panoptic_tf.datasets.notes import Notes
from panoptic_tf.datasets.segments import id_to_rgb, rgb_to_id

__all__ = [
    "CocoPanopticWriter",
    "Instance",
    "PanopticAnnotation",
    "Segment",
    "id_to_rgb",
    "read_id_map",
    "read_panoptic_json",
    "read_predictions_json",
    "rgb_to_id",
]

_EXPECTED = "a COCO panoptic JSON file"


def read_panoptic_json(
    panoptic_json: str,
    *,
    panoptic_dir: str,
    image_dir: Optional[str] = None,
    name: Optional[str] = None,
    require_images: bool = True,
    max_pixels: Optional[int] = None,
    on_problem: Optional[Callable[[str], None]] = None,
    notes: Optional[Notes] = None,
) -> Tuple[dataset_info_lib.DatasetInfo, List[PanopticAnnotation]]:
    """Reads and checks ground truth in COCO panoptic format.

    Images that no annotation names are left out, as the COCO tools do. Of the PNGs only the headers
    are read, and only of images that have no size in the file.

    Args:
      panoptic_json: file with `images`, `annotations` and `categories`.
      panoptic_dir: folder of the PNGs.
      image_dir: folder of the images; without it `image_file` is None.
      name: name of the data set; default the file's name.
      require_images: without it `images` may be missing, as in results; sizes are then 0.
      max_pixels: limit of height times width of an image; default none.
      on_problem: called with the text of a problem instead of raising; the annotation is left out.
      notes: takes what is legal and worth a look.

    Returns:
      The categories, and the annotations in the order of the file.

    Raises:
      ValueError: not JSON, a missing field, an unknown category, a repeated id, a file name that
        leaves its folder; the message names file and field.
    """
    content = json_fields.read_object(
        panoptic_json, ("annotations", "categories"), expected=_EXPECTED
    )
    info = dataset_info_lib.DatasetInfo.from_coco(
        content["categories"],
        name=name or os.path.splitext(os.path.basename(panoptic_json))[0],
        source=panoptic_json,
        notes=notes,
    )
    reader = coco_reader.Reader(
        panoptic_json, info, on_problem or _raise, Notes() if notes is None else notes
    )
    if require_images or "images" in content:
        json_fields.require_lists(panoptic_json, content, ("images",), expected=_EXPECTED)
        images = reader.read_images(content["images"], image_dir, max_pixels, require_sizes=False)
    else:
        images = _images_of_annotations(panoptic_json, content["annotations"])
    return info, reader.read_annotations(content["annotations"], images, panoptic_dir)


def read_predictions_json(
    predictions_json: str,
    *,
    predictions_dir: str,
    dataset_info: dataset_info_lib.DatasetInfo,
    annotations: Sequence[PanopticAnnotation],
) -> List[PanopticAnnotation]:
    """Reads results in COCO panoptic format, whose `images` and `categories` may be missing.

    Args:
      predictions_json: file with `annotations`.
      predictions_dir: folder of the PNGs.
      dataset_info: the categories of the ground truth.
      annotations: the ground truth, which says what images there are.

    Returns:
      One prediction per entry of `annotations`, in its order. If a score is no number of 0..1, none
      has scores, and a warning names the segment.

    Raises:
      ValueError: malformed, of categories that disagree with the ground truth's, or an image of the
        ground truth has no prediction.
    """
    content = json_fields.read_object(predictions_json, ("annotations",), expected=_EXPECTED)
    dataset_info.check_agrees(content.get("categories"), source=predictions_json)
    images = {a.image_id: dataclasses.replace(a, segments=()) for a in annotations}
    # A prediction of an image that is not scored is no mistake.
    listed = [a for a in content["annotations"] if not _is_of_another_image(a, images)]
    if len(listed) < len(content["annotations"]):
        warnings.warn(
            f"{predictions_json}: {len(content['annotations']) - len(listed)} predictions are of "
            "images that the ground truth does not have; they are ignored.",
            stacklevel=2,
        )
    reader = coco_reader.Reader(predictions_json, dataset_info, _raise, Notes())
    predictions = reader.read_annotations(listed, images, predictions_dir)
    by_id = {p.image_id: p for p in predictions}
    missing = [a.image_id for a in annotations if a.image_id not in by_id]
    if missing:
        raise ValueError(
            f"{predictions_json}: annotations lack {len(missing)} of {len(annotations)} images of "
            f"the ground truth, the first is image_id {missing[0]!r}. An image without any segment "
            "needs an entry with empty segments_info and a black PNG."
        )
    return _check_scores(predictions_json, [by_id[a.image_id] for a in annotations])


def _check_scores(path: str, predictions: List[PanopticAnnotation]) -> List[PanopticAnnotation]:
    """The predictions, without scores if one is wrong: scores of another kind tell nothing."""
    for prediction in predictions:
        for segment in prediction.segments:
            if segment.score is not None and math.isnan(segment.score):
                warnings.warn(
                    f"{path}: image_id {prediction.image_id!r}: the score of segment {segment.id} "
                    "is no number of 0..1; scores are left out, and there is no calibration.",
                    stacklevel=3,
                )
                return [_without_scores(p) for p in predictions]
    return predictions


def _without_scores(prediction: PanopticAnnotation) -> PanopticAnnotation:
    segments = tuple(dataclasses.replace(s, score=None) for s in prediction.segments)
    return dataclasses.replace(prediction, segments=segments)


def _raise(message: str) -> None:
    raise ValueError(message)


def _is_of_another_image(item: Any, images: Mapping[ImageId, PanopticAnnotation]) -> bool:
    return coco_reader.names_an_image(item) and item["image_id"] not in images


def _images_of_annotations(
    path: str, annotations: Sequence[Any]
) -> Dict[ImageId, PanopticAnnotation]:
    """Images of a file that lists none: named by their annotations, of unknown size."""
    by_id: Dict[ImageId, PanopticAnnotation] = {}
    for position, item in enumerate(annotations):
        field = f"{path}: annotations[{position}]"
        json_fields.require_object(field, item)
        image_id = json_fields.image_id(f"{field}.image_id", item.get("image_id"))
        by_id[image_id] = PanopticAnnotation(image_id, None, "", 0, 0, ())
    return by_id

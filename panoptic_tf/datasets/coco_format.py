"""COCO panoptic format: one JSON file of segments and one RGB PNG of segment ids per image.

Cityscapes as cityscapesScripts' createPanopticImgs writes it is read by the same function.
This module knows nothing of TensorFlow.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from PIL import Image

from panoptic_tf.datasets import dataset_info as dataset_info_lib
from panoptic_tf.datasets import files, id_png, json_fields, segments
from panoptic_tf.datasets.coco_writer import CocoPanopticWriter, ImageId
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

Box = Tuple[int, int, int, int]

_EXPECTED = "a COCO panoptic JSON file"
_CITYSCAPES_SUFFIX = "_gtFine_leftImg8bit.png"


@dataclasses.dataclass(frozen=True)
class Segment:
    """One segment of an image.

    Attributes:
      id: colour id in the PNG, 1..2^24 - 1.
      category_id: the data set's own category id.
      is_crowd: a group of things that nobody told apart.
      area: pixels, or None where the file does not say.
      bbox: [x, y, width, height] in pixels, or None where the file does not say.
    """

    id: int
    category_id: int
    is_crowd: bool = False
    area: Optional[int] = None
    bbox: Optional[Box] = None


@dataclasses.dataclass(frozen=True)
class Instance:
    """One of the instances of an image that may overlap.

    Attributes:
      rle: COCO's compressed run lengths (`rle.encode_rle`), of the image's size.
      category: contiguous category id.
      is_crowd: a group of things that nobody told apart.
    """

    rle: bytes
    category: int
    is_crowd: bool = False


@dataclasses.dataclass(frozen=True)
class PanopticAnnotation:
    """One annotated image.

    Attributes:
      image_id: the data set's own id.
      image_file: path of the image, or None if no image folder was given.
      png_file: path of the PNG of segment ids.
      height: rows, pixels.
      width: columns, pixels.
      segments: the segments, none is legal.
      file_name: the image's name in the JSON file.
      instances: instances that may overlap (`coco_instances.add_instances`); None if the data set
        has none of this image, which is not the same as an image with none.
    """

    image_id: ImageId
    image_file: Optional[str]
    png_file: str
    height: int
    width: int
    segments: Tuple[Segment, ...]
    file_name: str = ""
    instances: Optional[Tuple[Instance, ...]] = None


def read_panoptic_json(
    panoptic_json: str,
    *,
    panoptic_dir: str,
    image_dir: Optional[str] = None,
    name: Optional[str] = None,
    require_images: bool = True,
    on_problem: Optional[Callable[[str], None]] = None,
) -> Tuple[dataset_info_lib.DatasetInfo, List[PanopticAnnotation]]:
    """Reads and checks ground truth in COCO panoptic format.

    Images that no annotation names are left out, as the COCO tools do. The PNGs are not opened.

    Args:
      panoptic_json: file with `images`, `annotations` and `categories`.
      panoptic_dir: folder of the PNGs.
      image_dir: folder of the images; without it `image_file` is None.
      name: name of the data set; default the file's name.
      require_images: without it `images` may be missing, as in results; sizes are then 0.
      on_problem: called with the text of a problem instead of raising; the annotation is left out.

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
    )
    report = on_problem or _raise
    if require_images or "images" in content:
        json_fields.require_lists(panoptic_json, content, ("images",), expected=_EXPECTED)
        images = _read_images(panoptic_json, content["images"], image_dir, report)
    else:
        images = _images_of_annotations(panoptic_json, content["annotations"])
    annotations = _read_annotations(
        panoptic_json, content["annotations"], images, info, panoptic_dir, report
    )
    return info, annotations


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
      One prediction per entry of `annotations`, in its order.

    Raises:
      ValueError: malformed, or an image of the ground truth has no prediction.
    """
    content = json_fields.read_object(predictions_json, ("annotations",), expected=_EXPECTED)
    images = {a.image_id: dataclasses.replace(a, segments=()) for a in annotations}
    # A prediction of an image that is not scored is no mistake.
    listed = [a for a in content["annotations"] if not _is_of_another_image(a, images)]
    if len(listed) < len(content["annotations"]):
        warnings.warn(
            f"{predictions_json}: {len(content['annotations']) - len(listed)} predictions are of "
            "images that the ground truth does not have; they are ignored.",
            stacklevel=2,
        )
    predictions = _read_annotations(
        predictions_json, listed, images, dataset_info, predictions_dir, _raise
    )
    by_id = {p.image_id: p for p in predictions}
    missing = [a.image_id for a in annotations if a.image_id not in by_id]
    if missing:
        raise ValueError(
            f"{predictions_json}: annotations lack {len(missing)} of {len(annotations)} images of "
            f"the ground truth, the first is image_id {missing[0]!r}. An image without any segment "
            "needs an entry with empty segments_info and a black PNG."
        )
    return [by_id[a.image_id] for a in annotations]


def read_id_map(path: str) -> np.ndarray:
    """Reads a panoptic PNG.

    Args:
      path: RGB PNG, id = R + 256 G + 65536 B.

    Returns:
      uint32 [H, W], 0 is void.

    Raises:
      ValueError: no such file, truncated, not a PNG, or not a colour image.
    """
    expected = "an RGB PNG of segment ids"
    try:
        with open(path, "rb") as file:
            return id_png.decode_id_png(file.read())
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file; expected {expected}.") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: cannot be decoded ({error}); expected {expected}.") from error
    except ValueError as error:
        raise ValueError(f"{path}: expected {expected}, {error}.") from error


def _raise(message: str) -> None:
    raise ValueError(message)


def _is_of_another_image(item: Any, images: Mapping[ImageId, PanopticAnnotation]) -> bool:
    image_id = item.get("image_id") if isinstance(item, dict) else None
    return isinstance(image_id, (int, str)) and image_id not in images


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


def _read_images(
    path: str, images: Sequence[Any], image_dir: Optional[str], report: Callable[[str], None]
) -> Dict[ImageId, PanopticAnnotation]:
    """Annotations without segments and PNG, by image id."""
    by_id: Dict[ImageId, PanopticAnnotation] = {}
    for position, item in enumerate(images):
        field = f"{path}: images[{position}]"
        try:
            image = _parse_image(field, item, image_dir)
            if image.image_id in by_id:
                raise ValueError(f"{field}.id {image.image_id!r} is used twice.")
        except ValueError as error:
            report(str(error))
            continue
        by_id[image.image_id] = image
    return by_id


def _parse_image(field: str, item: Any, image_dir: Optional[str]) -> PanopticAnnotation:
    json_fields.require_object(field, item)
    image_id = json_fields.image_id(f"{field}.id", item.get("id"))
    file_name = item.get("file_name")
    # The name is checked even if no image is read: later results are named after it.
    path = files.inside(image_dir or ".", file_name, source=f"{field}.file_name")
    return PanopticAnnotation(
        image_id=image_id,
        image_file=_find_image(path, image_dir, image_id) if image_dir else None,
        png_file="",
        height=json_fields.integer(f"{field}.height", item.get("height"), low=1),
        width=json_fields.integer(f"{field}.width", item.get("width"), low=1),
        segments=(),
        file_name=file_name,
    )


def _find_image(path: str, image_dir: str, image_id: ImageId) -> str:
    """The image's path; Cityscapes' own names where createPanopticImgs wrote another.

    It writes `<id>_gtFine_leftImg8bit.png` for the image `<city>/<id>_leftImg8bit.png`.
    """
    name = os.path.basename(path)
    if not name.endswith(_CITYSCAPES_SUFFIX) or os.path.exists(path):
        return path
    stem = name[: -len(_CITYSCAPES_SUFFIX)]
    return os.path.join(image_dir, stem.split("_")[0], stem + "_leftImg8bit.png")


def _read_annotations(
    path: str,
    annotations: Any,
    images: Mapping[ImageId, PanopticAnnotation],
    info: dataset_info_lib.DatasetInfo,
    panoptic_dir: str,
    report: Callable[[str], None],
) -> List[PanopticAnnotation]:
    known_categories = info.contiguous_ids()
    seen: Dict[ImageId, int] = {}
    parsed = []
    for position, item in enumerate(annotations):
        field = f"{path}: annotations[{position}]"
        try:
            annotation = _parse_annotation(field, item, images, known_categories, panoptic_dir)
            if annotation.image_id in seen:
                first = seen[annotation.image_id]
                raise ValueError(
                    f"{field}.image_id {annotation.image_id!r} has an annotation already, "
                    f"annotations[{first}]."
                )
        except ValueError as error:
            report(str(error))
            continue
        seen[annotation.image_id] = position
        parsed.append(annotation)
    return parsed


def _parse_annotation(
    field: str,
    item: Any,
    images: Mapping[ImageId, PanopticAnnotation],
    known_categories: Mapping[int, int],
    panoptic_dir: str,
) -> PanopticAnnotation:
    json_fields.require_object(field, item)
    image_id = json_fields.image_id(f"{field}.image_id", item.get("image_id"))
    if image_id not in images:
        raise ValueError(f"{field}.image_id {image_id!r} is not among 'images'.")
    listed = item.get("segments_info")
    if not isinstance(listed, list):
        raise ValueError(f"{field}.segments_info must be a list, got {type(listed).__name__}.")
    parsed = [
        _parse_segment(f"{field}.segments_info[{row}]", segment, known_categories)
        for row, segment in enumerate(listed)
    ]
    seen: set[int] = set()
    for row, segment in enumerate(parsed):
        if segment.id in seen:
            raise ValueError(f"{field}.segments_info[{row}].id {segment.id} is used twice.")
        seen.add(segment.id)
    png_file = files.inside(panoptic_dir, item.get("file_name"), source=f"{field}.file_name")
    return dataclasses.replace(images[image_id], png_file=png_file, segments=tuple(parsed))


def _parse_segment(field: str, item: Any, known_categories: Mapping[int, int]) -> Segment:
    json_fields.require_object(field, item)
    category_id = item.get("category_id")
    if not json_fields.is_integer(category_id) or category_id not in known_categories:
        raise ValueError(f"{field}.category_id {category_id!r} is not among 'categories'.")
    area = item.get("area")
    return Segment(
        id=json_fields.integer(f"{field}.id", item.get("id"), low=1, high=segments.MAX_SEGMENT_ID),
        category_id=category_id,
        is_crowd=json_fields.flag(f"{field}.iscrowd", item.get("iscrowd", 0)),
        area=None if area is None else json_fields.integer(f"{field}.area", area, low=0),
        bbox=_parse_box(f"{field}.bbox", item.get("bbox")),
    )


def _parse_box(field: str, box: Any) -> Optional[Box]:
    if box is None:
        return None
    if not isinstance(box, list) or len(box) != 4:
        raise ValueError(f"{field} must be [x, y, width, height], got {box!r}.")
    x, y, width, height = (json_fields.integer(field, value, low=0) for value in box)
    return x, y, width, height

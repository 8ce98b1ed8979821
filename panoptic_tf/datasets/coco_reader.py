"""Parses the entries of files in COCO panoptic format, one by one."""

from __future__ import annotations

import dataclasses
import math
import os
import posixpath
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Set, Tuple, TypeVar

from panoptic_tf.datasets import files, json_fields, png, segments
from panoptic_tf.datasets.annotations import Box, PanopticAnnotation, Segment
from panoptic_tf.datasets.coco_writer import ImageId
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.datasets.notes import Notes

T = TypeVar("T")

_CITYSCAPES_SUFFIX = "_gtFine_leftImg8bit.png"

CROWD_OF_STUFF = "segments of stuff are crowds, which the evaluation does not count"
_UNREAD = "areas or boxes are not whole numbers of pixels; they are not used"
_SHARED_IMAGE = "images have the file_name of another"
_SHARED_PNG = "annotations have the PNG of another"
_NO_ANNOTATION = "images have no annotation and are left out"
_NO_SIZE = "images have no height and width in the JSON file; those of their id PNGs are taken"


class Reader:
    """Parses the lists of one file: what is wrong is reported, what is odd is noted."""

    def __init__(
        self,
        path: str,
        info: DatasetInfo,
        report: Callable[[str], None],
        notes: Notes,
    ):
        self._path = path
        self._categories = {c.dataset_id: c for c in info.categories}
        self._report = report
        self._notes = notes
        self._max_pixels: Optional[int] = None
        self._without_size: Set[ImageId] = set()

    def read_images(
        self,
        items: Sequence[Any],
        image_dir: Optional[str],
        max_pixels: Optional[int],
        *,
        require_sizes: bool = True,
    ) -> Dict[ImageId, PanopticAnnotation]:
        """Annotations without segments and PNG, by image id.

        Args:
          items: the entries.
          image_dir: folder of the images; without it `image_file` is None.
          max_pixels: limit of height times width.
          require_sizes: without it an image may lack height and width, which are 0 until
            `read_annotations` takes those of its PNG.
        """
        self._max_pixels = max_pixels
        by_id: Dict[ImageId, PanopticAnnotation] = {}
        names: Set[str] = set()
        for position, item in enumerate(items):
            field = f"{self._path}: images[{position}]"
            image = self._parse(_parse_image, field, item, image_dir, max_pixels, require_sizes)
            if image is None:
                continue
            if image.image_id in by_id:
                self._report(f"{field}.id {image.image_id!r} is used twice.")
                continue
            by_id[image.image_id] = image
            if not image.height:
                self._without_size.add(image.image_id)
            name = posixpath.normpath(image.file_name)
            if name in names:
                self._notes.add(_SHARED_IMAGE, f"image_id {image.image_id!r} ({name!r})")
            names.add(name)
        return by_id

    def read_annotations(
        self, items: Sequence[Any], images: Mapping[ImageId, PanopticAnnotation], panoptic_dir: str
    ) -> List[PanopticAnnotation]:
        """Annotations with segments and PNG, in the order of the file."""
        seen: Dict[ImageId, int] = {}
        png_files: Set[str] = set()
        parsed = []
        for position, item in enumerate(items):
            field = f"{self._path}: annotations[{position}]"
            annotation = self._parse(self._parse_annotation, field, item, images, panoptic_dir)
            if annotation is None:
                continue
            if annotation.image_id in seen:
                self._report(
                    f"{field}.image_id {annotation.image_id!r} has an annotation already, "
                    f"annotations[{seen[annotation.image_id]}]."
                )
                continue
            seen[annotation.image_id] = position
            name = posixpath.normpath(annotation.png_file)
            if name in png_files:
                self._notes.add(_SHARED_PNG, f"image_id {annotation.image_id!r} ({name})")
            png_files.add(name)
            parsed.append(annotation)
        self._note_images_without_annotation(items, images)
        return parsed

    def _parse(self, parse: Callable[..., T], field: str, *arguments: Any) -> Optional[T]:
        """What a function makes of an entry, or None where it was wrong and that is reported."""
        try:
            return parse(field, *arguments)
        except RecursionError:
            self._report(f"{field} is nested too deeply.")
        except ValueError as error:
            self._report(files.shorten(str(error)))
        return None

    def _parse_annotation(
        self,
        field: str,
        item: Any,
        images: Mapping[ImageId, PanopticAnnotation],
        panoptic_dir: str,
    ) -> PanopticAnnotation:
        json_fields.require_object(field, item)
        image_id = json_fields.image_id(f"{field}.image_id", item.get("image_id"))
        if image_id not in images:
            raise ValueError(f"{field}.image_id {image_id!r} is not among 'images'.")
        listed = item.get("segments_info")
        if not isinstance(listed, list):
            raise ValueError(f"{field}.segments_info must be a list, got {type(listed).__name__}.")
        seen: Set[int] = set()
        parsed = []
        for row, listed_segment in enumerate(listed):
            segment = self._parse_segment(f"{field}.segments_info[{row}]", listed_segment)
            if segment.id in seen:
                raise ValueError(f"{field}.segments_info[{row}].id {segment.id} is used twice.")
            seen.add(segment.id)
            parsed.append(segment)
        png_file = files.inside(
            panoptic_dir, item.get("file_name"), source=f"{field}.file_name", follow_links=True
        )
        image = images[image_id]
        if image_id in self._without_size:
            height, width = _size_of_png(png_file, image_id)
            _check_pixels(png_file, height, width, self._max_pixels)
            image = dataclasses.replace(image, height=height, width=width)
            self._notes.add(_NO_SIZE, f"image_id {image_id!r}")
        return dataclasses.replace(image, png_file=png_file, segments=tuple(parsed))

    def _parse_segment(self, field: str, item: Any) -> Segment:
        json_fields.require_object(field, item)
        category_id = item.get("category_id")
        if not json_fields.is_integer(category_id) or category_id not in self._categories:
            raise ValueError(f"{field}.category_id {category_id!r} is not among 'categories'.")
        is_crowd = read_crowd_flag(f"{field}.iscrowd", item)
        if is_crowd and not self._categories[category_id].is_thing:
            self._note(CROWD_OF_STUFF, field)
        return Segment(
            id=_segment_id(f"{field}.id", item.get("id")),
            category_id=category_id,
            is_crowd=is_crowd,
            area=self._parse_unread(f"{field}.area", item.get("area"), _whole_number),
            bbox=self._parse_unread(f"{field}.bbox", item.get("bbox"), _whole_box),
            score=_score(item.get("score")),
        )

    def _parse_unread(self, field: str, value: Any, parse: Callable[[Any], T]) -> T:
        """A value that only `doctor` compares: no number of pixels is as good as none."""
        parsed = parse(value)
        if parsed is None and value is not None:
            self._note(_UNREAD, field)
        return parsed

    def _note(self, kind: str, field: str) -> None:
        self._notes.add(kind, field[len(self._path) + 2 :])

    def _note_images_without_annotation(
        self, items: Sequence[Any], images: Mapping[ImageId, PanopticAnnotation]
    ) -> None:
        named = {item.get("image_id") for item in items if names_an_image(item)}
        for image_id in images:
            if image_id not in named:
                self._notes.add(_NO_ANNOTATION, f"image_id {image_id!r}")


def read_crowd_flag(field: str, item: Mapping[str, Any]) -> bool:
    """The `iscrowd` of a segment or instance: False where it is missing or null.

    Raises:
      ValueError: anything but 0 and 1.
    """
    value = item.get("iscrowd")
    return value is not None and json_fields.flag(field, value)


def names_an_image(item: Any) -> bool:
    """Whether an entry has the id of an image, of this file or another."""
    return isinstance(item, dict) and isinstance(item.get("image_id"), (int, str))


def _parse_image(
    field: str,
    item: Any,
    image_dir: Optional[str],
    max_pixels: Optional[int],
    require_sizes: bool,
) -> PanopticAnnotation:
    json_fields.require_object(field, item)
    image_id = json_fields.image_id(f"{field}.id", item.get("id"))
    file_name = item.get("file_name")
    # The name is checked even if no image is read: later results are named after it.
    path = files.inside(image_dir or ".", file_name, source=f"{field}.file_name", follow_links=True)
    height = width = 0
    if require_sizes or item.get("height") is not None or item.get("width") is not None:
        height = json_fields.integer(f"{field}.height", item.get("height"), low=1)
        width = json_fields.integer(f"{field}.width", item.get("width"), low=1)
    _check_pixels(field, height, width, max_pixels)
    return PanopticAnnotation(
        image_id=image_id,
        image_file=_find_image(path, image_dir, f"{field}.file_name") if image_dir else None,
        png_file="",
        height=height,
        width=width,
        segments=(),
        file_name=file_name,
    )


def _check_pixels(field: str, height: int, width: int, max_pixels: Optional[int]) -> None:
    if max_pixels is not None and height * width > max_pixels:
        raise ValueError(
            f"{field}: height x width {height} x {width} are more than {max_pixels:,} pixels. "
            "Raise --max_pixels if that is meant."
        )


def _size_of_png(path: str, image_id: ImageId) -> Tuple[int, int]:
    """(height, width) in the header of an id PNG."""
    problem = files.file_problem(path)
    try:
        if problem is None:
            with open(path, "rb") as file:
                return png.header_size(file.read(64))
    except OSError as error:
        problem = str(error)
    raise ValueError(
        f"{path}: {problem}, for image_id {image_id!r}, whose entry in 'images' has no height and "
        "width either."
    )


def _find_image(path: str, image_dir: str, field: str) -> str:
    """The image's path; Cityscapes' own names where createPanopticImgs wrote another.

    It writes `<id>_gtFine_leftImg8bit.png` for the image `<city>/<id>_leftImg8bit.png`.
    """
    name = os.path.basename(path)
    if not name.endswith(_CITYSCAPES_SUFFIX) or os.path.exists(path):
        return path
    stem = name[: -len(_CITYSCAPES_SUFFIX)]
    original = os.path.join(stem.split("_")[0], stem + "_leftImg8bit.png")
    return files.inside(image_dir, original, source=field, follow_links=True)


def _segment_id(field: str, value: Any) -> int:
    try:
        return json_fields.integer(field, value, low=1, high=segments.MAX_SEGMENT_ID)
    except ValueError as error:
        if json_fields.is_integer(value) and value == 0:
            raise ValueError(f"{error} Black pixels are void, and of no segment.") from error
        raise


def _score(value: Any) -> Optional[float]:
    """See `Segment.score`."""
    if value is None:
        return None
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value <= 1 else math.nan


def _whole_number(value: Any) -> Optional[int]:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if json_fields.is_integer(value) and 0 <= value < 2**31 else None


def _whole_box(value: Any) -> Optional[Box]:
    if not isinstance(value, list) or len(value) != 4:
        return None
    x, y, width, height = (_whole_number(side) for side in value)
    if x is None or y is None or width is None or height is None:
        return None
    return x, y, width, height

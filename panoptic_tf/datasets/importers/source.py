"""What every importer returns: categories, images, and how one image is read."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from typing import Any, Callable, Dict, Iterable, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from panoptic_tf.datasets.annotations import Segment
from panoptic_tf.datasets.checks import LoadedAnnotation
from panoptic_tf.datasets.coco_writer import ImageId
from panoptic_tf.datasets.dataset_info import DatasetInfo

Size = Tuple[int, int]
"""(height, width)."""


@dataclasses.dataclass(frozen=True)
class SourceImage:
    """One image of a source.

    Attributes:
      image_id: the data set's own id; where it has none, the file's name without its ending.
      image_file: path of the image.
      file_name: the image's name in the data set, relative to its folder.
      labels: what the importer's `Draw` needs; small, as it is pickled.
      label_files: files that `Draw` reads.
      size: (height, width) that the annotation states; None where it states none.
    """

    image_id: ImageId
    image_file: str
    file_name: str
    labels: Any = None
    label_files: Tuple[str, ...] = ()
    size: Optional[Size] = None

    @property
    def files(self) -> Tuple[Optional[str], ...]:
        """What must be there."""
        return (self.image_file, *self.label_files)


@dataclasses.dataclass(frozen=True)
class Mask:
    """One drawn mask; masks of an image may overlap.

    Attributes:
      category_id: the data set's own.
      rle: COCO's compressed run lengths, of the image's size.
      is_crowd: a group of things that were not annotated one by one.
    """

    category_id: int
    rle: bytes
    is_crowd: bool = False


@dataclasses.dataclass(frozen=True)
class SegmentMap:
    """A map of segments that do not overlap.

    Attributes:
      rows: int32 [H, W], row of the segment + 1, 0 is void.
      segments: S segments.
    """

    rows: np.ndarray
    segments: Sequence[Segment]


Draw = Callable[[SourceImage, Size], Union[SegmentMap, Iterable[Mask]]]
"""Reads the labels of an image of a size; a function of a module, as it is pickled.

Raises ValueError that names file and field.
"""


@dataclasses.dataclass(frozen=True)
class Source:
    """An annotated data set in whatever format.

    Attributes:
      dataset_info: its categories.
      images: `PanopticAnnotation`s or `SourceImage`s.
      read: reads one of them with its files, in the process that writes; pickles.
      fingerprint: checksums of what the annotations came from, by name.
      description: names of the source files, for the manifest.
    """

    dataset_info: DatasetInfo
    images: Sequence[Any]
    read: Callable[[Any], LoadedAnnotation]
    fingerprint: Mapping[str, str]
    description: Dict[str, Any]


def fingerprint_of_files(paths: Iterable[str], root: str) -> str:
    """A checksum of the names and contents of annotation files, hexadecimal.

    Args:
      paths: the files; text, or as small as text.
      root: folder that their names are taken relative to.
    """
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(os.path.relpath(path, root).encode() + b"\0")
        with open(path, "rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
        digest.update(b"\0")
    return digest.hexdigest()


def fingerprint_of_names(paths: Iterable[str], root: str) -> str:
    """A checksum of the names and sizes of many large files, hexadecimal."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{os.path.relpath(path, root)}\0{os.path.getsize(path)}\0".encode())
    return digest.hexdigest()

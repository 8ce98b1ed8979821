"""What a data set says of one image, whatever its format."""

from __future__ import annotations

import dataclasses
from typing import Optional, Tuple

from panoptic_tf.datasets.coco_writer import ImageId

Box = Tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True)
class Segment:
    """One segment of an image.

    Attributes:
      id: colour id in the PNG, 1..2^24 - 1.
      category_id: the data set's own category id.
      is_crowd: a group of things that were not annotated one by one.
      area: pixels, or None where the file does not say, or no whole number.
      bbox: [x, y, width, height] in pixels, or None likewise.
      score: 0..1 of a predicted segment, or None where the file does not say; of what is no such
        number, NaN.
    """

    id: int
    category_id: int
    is_crowd: bool = False
    area: Optional[int] = None
    bbox: Optional[Box] = None
    score: Optional[float] = None


@dataclasses.dataclass(frozen=True)
class Instance:
    """One of the instances of an image that may overlap.

    Attributes:
      rle: COCO's compressed run lengths (`rle.encode_rle`), of the image's size.
      category: contiguous category id.
      is_crowd: a group of things that were not annotated one by one.
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

    @property
    def files(self) -> Tuple[Optional[str], ...]:
        """What must be there for a record."""
        return self.image_file, self.png_file

"""The lossless record of one annotated image: a `tf.train.Example`, one per TFRecord entry.

Segments are kept in the order of the data set's file; nothing is resized, recoded or dropped.
"""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any, Dict, List, Mapping, Optional, Sequence, Union

import numpy as np
import tensorflow as tf

from panoptic_tf.datasets import coco_format, png, rle_decoding, segments
from panoptic_tf.datasets.coco_format import Instance

MAX_SEGMENTS = 65535
"""Row numbers are 16-bit in the record, 0 is void."""


class Field:
    """Names of the features of an example; S segments, K instances."""

    IMAGE = "image/encoded"  # bytes: JPEG or PNG as it came
    IMAGE_ID = "image/id"  # bytes: JSON text
    FILE_NAME = "image/file_name"  # bytes: as the data set's file names it
    HEIGHT = "image/height"  # int64
    WIDTH = "image/width"  # int64
    ROWS = "panoptic/rows_png"  # bytes: 16-bit grey PNG, row of the segment + 1, 0 is void
    SEGMENT_IDS = "panoptic/segment_ids"  # int64 [S]: ids in the data set's PNG
    SEGMENT_CATEGORIES = "panoptic/segment_categories"  # int64 [S]: contiguous
    SEGMENT_IS_CROWD = "panoptic/segment_is_crowd"  # int64 [S]
    SEGMENT_AREAS = "panoptic/segment_areas"  # int64 [S]: pixels
    SEGMENT_BOXES = "panoptic/segment_boxes"  # int64 [S * 4]: x, y, width, height
    HAS_INSTANCES = "instances/present"  # int64: 1 if the data set brings overlapping instances
    INSTANCE_RLES = "instances/rles"  # bytes [K]: COCO compressed run lengths
    INSTANCE_CATEGORIES = "instances/categories"  # int64 [K]: contiguous
    INSTANCE_IS_CROWD = "instances/is_crowd"  # int64 [K]


_SCALARS = {
    Field.IMAGE: tf.string,
    Field.IMAGE_ID: tf.string,
    Field.FILE_NAME: tf.string,
    Field.HEIGHT: tf.int64,
    Field.WIDTH: tf.int64,
    Field.ROWS: tf.string,
    Field.HAS_INSTANCES: tf.int64,
}
_LISTS = {
    Field.SEGMENT_IDS: tf.int64,
    Field.SEGMENT_CATEGORIES: tf.int64,
    Field.SEGMENT_IS_CROWD: tf.int64,
    Field.SEGMENT_AREAS: tf.int64,
    Field.SEGMENT_BOXES: tf.int64,
    Field.INSTANCE_RLES: tf.string,
    Field.INSTANCE_CATEGORIES: tf.int64,
    Field.INSTANCE_IS_CROWD: tf.int64,
}


def encode_example(
    *,
    image_bytes: bytes,
    image_id: Union[int, str],
    file_name: str,
    rows: np.ndarray,
    segment_table: Sequence[coco_format.Segment],
    contiguous_ids: Mapping[int, int],
    instances: Optional[Sequence[Instance]] = None,
) -> bytes:
    """Encodes one annotated image.

    Args:
      image_bytes: JPEG or PNG.
      image_id: the data set's own id.
      file_name: name of the image in the data set's file.
      rows: int32 [H, W], row of the segment + 1, 0 is void.
      segment_table: S segments; a missing area or box is measured.
      contiguous_ids: contiguous category ids by the data set's own (`DatasetInfo.contiguous_ids`).
      instances: instances that may overlap; None if the data set has none, which is not the same as
        an image with none.

    Returns:
      A serialized `tf.train.Example`; equal arguments give equal bytes.

    Raises:
      ValueError: more than 65535 segments, or a row beyond the table.
    """
    if len(segment_table) > MAX_SEGMENTS:
        raise ValueError(
            f"image_id {image_id!r}: a record holds at most {MAX_SEGMENTS} segments, "
            f"got {len(segment_table)}."
        )
    if rows.size and not 0 <= rows.min() <= rows.max() <= len(segment_table):
        raise ValueError(
            f"image_id {image_id!r}: rows must lie in 0..{len(segment_table)}, "
            f"got {rows.min()}..{rows.max()}."
        )
    areas, boxes = _areas_and_boxes(rows, segment_table)
    instances_or_none = instances or ()
    values: Dict[str, List[Any]] = {
        Field.IMAGE: [image_bytes],
        Field.IMAGE_ID: [json.dumps(image_id).encode()],
        Field.FILE_NAME: [file_name.encode()],
        Field.HEIGHT: [rows.shape[0]],
        Field.WIDTH: [rows.shape[1]],
        Field.ROWS: [_encode_png(rows)],
        Field.SEGMENT_IDS: [s.id for s in segment_table],
        Field.SEGMENT_CATEGORIES: [contiguous_ids[s.category_id] for s in segment_table],
        Field.SEGMENT_IS_CROWD: [int(s.is_crowd) for s in segment_table],
        Field.SEGMENT_AREAS: areas,
        Field.SEGMENT_BOXES: [value for box in boxes for value in box],
        Field.HAS_INSTANCES: [int(instances is not None)],
        Field.INSTANCE_RLES: [i.rle for i in instances_or_none],
        Field.INSTANCE_CATEGORIES: [i.category for i in instances_or_none],
        Field.INSTANCE_IS_CROWD: [int(i.is_crowd) for i in instances_or_none],
    }
    features = {name: _feature(name, value) for name, value in values.items()}
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)


def read_bytes(serialized: bytes, *fields: str) -> List[bytes]:
    """The values of single bytes features as they are stored; nothing else is decoded.

    Args:
      serialized: a record.
      *fields: names of `Field`.

    Raises:
      google.protobuf.message.DecodeError: not an example.
      IndexError: a field is missing.
    """
    features = tf.train.Example.FromString(serialized).features.feature
    return [features[field].bytes_list.value[0] for field in fields]


def parse_fields(serialized: tf.Tensor, *fields: str) -> List[tf.Tensor]:
    """The values of single features as they are stored, in a graph too; no other is decoded.

    Args:
      serialized: string [], a record.
      *fields: names of `Field`.

    Returns:
      A tensor for each field, int64 or string: [], or [S] or [K] of a column.

    Raises:
      tf.errors.InvalidArgumentError: not an example, or a field that is no column is missing.
    """
    specification: Dict[str, Any] = {
        name: tf.io.FixedLenFeature([], _SCALARS[name])
        if name in _SCALARS
        else tf.io.FixedLenSequenceFeature([], _LISTS[name], allow_missing=True)
        for name in fields
    }
    parsed = tf.io.parse_single_example(serialized, specification)
    return [parsed[name] for name in fields]


def decode_example(serialized: tf.Tensor) -> Dict[str, tf.Tensor]:
    """Decodes one record, eagerly or in a graph; the image stays encoded.

    Args:
      serialized: string [], what `encode_example` returned.

    Returns:
      image_bytes string [], image_id string [] (JSON text), file_name string [], height and width
      int32 [], id_map int32 [H, W] (row of the segment + 1, 0 is void), segment_ids int64 [S] (ids
      in the data set's PNG), segment_categories int32 [S] (contiguous), segment_is_crowd bool [S],
      segment_areas int64 [S], segment_boxes int32 [S, 4] ([x, y, width, height]), has_instances
      bool [], instance_rles string [K], instance_categories int32 [K], instance_is_crowd bool [K].
    """
    fields = (*_SCALARS, *_LISTS)
    parsed = dict(zip(fields, parse_fields(serialized, *fields)))
    rows = tf.io.decode_png(parsed[Field.ROWS], channels=1, dtype=tf.uint16)
    return {
        "image_bytes": parsed[Field.IMAGE],
        "image_id": parsed[Field.IMAGE_ID],
        "file_name": parsed[Field.FILE_NAME],
        "height": tf.cast(parsed[Field.HEIGHT], tf.int32),
        "width": tf.cast(parsed[Field.WIDTH], tf.int32),
        "id_map": tf.cast(tf.squeeze(rows, -1), tf.int32),
        "segment_ids": parsed[Field.SEGMENT_IDS],
        "segment_categories": tf.cast(parsed[Field.SEGMENT_CATEGORIES], tf.int32),
        "segment_is_crowd": parsed[Field.SEGMENT_IS_CROWD] > 0,
        "segment_areas": parsed[Field.SEGMENT_AREAS],
        "segment_boxes": tf.cast(tf.reshape(parsed[Field.SEGMENT_BOXES], [-1, 4]), tf.int32),
        "has_instances": parsed[Field.HAS_INSTANCES] > 0,
        "instance_rles": parsed[Field.INSTANCE_RLES],
        "instance_categories": tf.cast(parsed[Field.INSTANCE_CATEGORIES], tf.int32),
        "instance_is_crowd": parsed[Field.INSTANCE_IS_CROWD] > 0,
    }


def decode_instance_masks(
    instance_rles: tf.Tensor, height: tf.Tensor, width: tf.Tensor, *, transposed: bool = False
) -> tf.Tensor:
    """Decodes the masks of overlapping instances, eagerly or in a graph.

    Args:
      instance_rles: string [K].
      height: int32 [].
      width: int32 [].
      transposed: leave the masks as they are stored, column by column.

    Returns:
      uint8 [K, height, width], or [K, width, height] if transposed; 1 on the instance. See
      `rle_decoding.check_rles` for errors.
    """
    masks = rle_decoding.decode_rles(instance_rles, height, width)
    return masks if transposed else tf.transpose(masks, [0, 2, 1])


def _areas_and_boxes(rows: np.ndarray, segment_table: Sequence[coco_format.Segment]):
    """What the data set's file says, measured where it says nothing."""
    areas, boxes = segments.areas_and_boxes(rows, len(segment_table))
    return (
        [int(a) if s.area is None else s.area for a, s in zip(areas, segment_table)],
        [b.tolist() if s.bbox is None else s.bbox for b, s in zip(boxes, segment_table)],
    )


def _encode_png(rows: np.ndarray) -> bytes:
    """16-bit grey, without filters: to undo those takes longer than all other decoding."""
    height, width = rows.shape
    lines = np.zeros([height, 1 + 2 * width], np.uint8)  # filter 0, then the pixels
    lines[:, 1:] = rows.astype(">u2").view(np.uint8).reshape(height, 2 * width)
    header = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b""))
    return png.SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def _feature(name: str, values: Sequence[Any]) -> tf.train.Feature:
    if (_SCALARS.get(name) or _LISTS[name]) == tf.string:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

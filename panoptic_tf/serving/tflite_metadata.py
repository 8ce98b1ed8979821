"""The TFLite metadata by which MediaPipe's ImageSegmenter knows a semantic file.

It lies in the model beside our own description: a table of metadata_schema.fbs in a buffer, and the
names of the channels in a file of the archive behind the model.
"""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Sequence, Union

import flatbuffers
import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

LABELS = "labels.txt"
"""Names of the channels in the archive, one a line."""

_BUFFER = "TFLITE_METADATA"
_SOFTMAX = 2  # Activation of ImageSegmenterOptions
_NORMALIZATION_OPTIONS = 1  # of the union ProcessUnitOptions
_FEATURE_PROPERTIES, _IMAGE_PROPERTIES = 1, 2  # of the union ContentProperties
_RGB = 1  # of ColorSpaceType
_TENSOR_AXIS_LABELS = 2  # of AssociatedFileType


class _Offset(NamedTuple):
    """Where a table, a string or a vector lies; other values of a field are bytes."""

    value: int


_Fields = Dict[int, Union[int, _Offset]]


def add_segmenter_metadata(model: bytes, *, name: str) -> bytes:
    """Adds metadata: an RGB image whose values stay as they are in, logits by category out.

    The channels are named by `LABELS`; confidences are their softmax.

    Args:
      model: the file, without archive.
      name: of the model.
    """
    parsed = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0))
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(_metadata(name), np.uint8)
    entry.name, entry.buffer = _BUFFER, len(parsed.buffers)
    parsed.buffers.append(buffer)
    parsed.metadata = [*(parsed.metadata or []), entry]
    builder = flatbuffers.Builder(len(model) + 4096)
    builder.Finish(parsed.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _metadata(name: str) -> bytes:
    """A table ModelMetadata. Keys of `_table` are the numbers of the schema's fields."""
    builder = flatbuffers.Builder(1024)

    def string(text: str) -> _Offset:
        return _Offset(builder.CreateString(text))

    def table(fields: _Fields) -> _Offset:
        return _table(builder, fields)

    def tensor(tensor_name: str, kind: int, properties: _Fields, extra: _Fields) -> _Offset:
        content = table({0: kind, 1: table(properties)})
        return table({0: string(tensor_name), 3: content, **extra})

    unchanged = table({0: _floats(builder, [0.0]), 1: _floats(builder, [1.0])})  # mean, std
    unit = table({0: _NORMALIZATION_OPTIONS, 1: unchanged})
    image = tensor("image", _IMAGE_PROPERTIES, {0: _RGB}, {4: _offsets(builder, [unit])})
    labels = table({0: string(LABELS), 2: _TENSOR_AXIS_LABELS})
    logits = tensor("semantic_logits", _FEATURE_PROPERTIES, {}, {6: _offsets(builder, [labels])})
    options = builder.CreateByteVector(_segmenter_options())
    custom = table({0: string("SEGMENTER_METADATA"), 1: _Offset(options)})
    graph = table(
        {index: _offsets(builder, [each]) for index, each in ((2, image), (3, logits), (9, custom))}
    )
    root = table({0: string(name), 3: _offsets(builder, [graph]), 7: string("1.5.0")})
    builder.Finish(root.value, b"M001")
    return bytes(builder.Output())


def _segmenter_options() -> bytes:
    """A table ImageSegmenterOptions of its own, image_segmenter_metadata_schema.fbs."""
    builder = flatbuffers.Builder(64)
    version = _Offset(builder.CreateString("1.0.0"))
    builder.Finish(_table(builder, {0: _SOFTMAX, 1: version}).value, b"V001")
    return bytes(builder.Output())


def _table(builder: flatbuffers.Builder, fields: _Fields) -> _Offset:
    builder.StartObject(max(fields, default=-1) + 1)
    for index, field in fields.items():
        if isinstance(field, _Offset):
            builder.PrependUOffsetTRelativeSlot(index, field.value, 0)
        else:
            builder.PrependUint8Slot(index, field, 0)
    return _Offset(builder.EndObject())


def _offsets(builder: flatbuffers.Builder, items: List[_Offset]) -> _Offset:
    builder.StartVector(4, len(items), 4)
    for item in reversed(items):
        builder.PrependUOffsetTRelative(item.value)
    return _Offset(builder.EndVector())


def _floats(builder: flatbuffers.Builder, values: Sequence[float]) -> _Offset:
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependFloat32(value)
    return _Offset(builder.EndVector())

"""The messages of TensorFlow Serving's `Predict`, as far as a client of ours needs them.

Described here rather than imported: the classes of tensorflow-serving-api import TensorFlow, which
takes seconds and hundreds of megabytes that a client has no other use for. What is on the wire is
the same; a map is a repeated entry there, an enum an integer.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Collection, Dict, Mapping, Optional, Tuple

import numpy as np

METHOD = "/tensorflow.serving.PredictionService/Predict"

_PACKAGE = "panoptic_tf.serving"
# (name, number, type) of each field; * is repeated. Numbers of tensor.proto, tensor_shape.proto,
# model.proto and predict.proto.
_FIELDS: Dict[str, Tuple[Tuple[str, int, str], ...]] = {
    "Dim": (("size", 1, "int64"),),
    "Shape": (("dim", 2, "Dim*"),),
    "Tensor": (
        ("dtype", 1, "int32"),
        ("tensor_shape", 2, "Shape"),
        ("tensor_content", 4, "bytes"),
        ("float_val", 5, "float*"),
        ("int_val", 7, "int32*"),
        ("string_val", 8, "bytes*"),
        ("int64_val", 10, "int64*"),
        ("bool_val", 11, "bool*"),
    ),
    "Entry": (("key", 1, "string"), ("value", 2, "Tensor")),
    "Version": (("value", 1, "int64"),),
    "ModelSpec": (
        ("name", 1, "string"),
        ("version", 2, "Version"),
        ("signature_name", 3, "string"),
    ),
    "PredictRequest": (("model_spec", 1, "ModelSpec"), ("inputs", 2, "Entry*")),
    "PredictResponse": (("outputs", 1, "Entry*"),),
}

_STRING = 7
# By TensorFlow's DataType.
_DTYPES: Dict[int, Tuple[str, str]] = {
    1: ("<f4", "float_val"),
    3: ("<i4", "int_val"),
    _STRING: ("O", "string_val"),
    9: ("<i8", "int64_val"),
    10: ("?", "bool_val"),
}
_MOST_VALUES = 2**26  # of all tensors of a response; three masks of 2048 x 4096 are a third of it
_MOST_DIMENSIONS = 8


@functools.cache
def message(name: str) -> Any:
    """The class of a message of `_FIELDS`.

    Raises:
      ImportError: protobuf is missing.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field_type = descriptor_pb2.FieldDescriptorProto
    # proto3, where repeated numbers are packed.
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{_PACKAGE}.proto", package=_PACKAGE, syntax="proto3"
    )
    for message_name, fields in _FIELDS.items():
        described = file.message_type.add(name=message_name)
        for field_name, number, kind in fields:
            field = described.field.add(name=field_name, number=number)
            kind, repeated = kind.rstrip("*"), kind.endswith("*")
            field.label = field_type.LABEL_REPEATED if repeated else field_type.LABEL_OPTIONAL
            if kind in _FIELDS:
                field.type, field.type_name = field_type.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
            else:
                field.type = field_type.Type.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))


def encode_request(
    content: bytes, *, model: str, version: Optional[int], signature: str, input_name: str
) -> bytes:
    """A `PredictRequest` of one image: the input is string [1].

    Args:
      content: of the image's file.
      model: name of the model.
      version: of the model; None is the server's choice, the newest.
      signature: name of the signature.
      input_name: of its input.
    """
    request = message("PredictRequest")()
    request.model_spec.name, request.model_spec.signature_name = model, signature
    if version is not None:
        request.model_spec.version.value = version
    entry = request.inputs.add(key=input_name)
    entry.value.dtype = _STRING
    entry.value.tensor_shape.dim.add(size=1)
    entry.value.string_val.append(content)
    return request.SerializeToString()


def decode_response(content: bytes, keys: Collection[str]) -> Mapping[str, np.ndarray]:
    """The outputs of a `PredictResponse`; strings are arrays of bytes objects.

    Outputs of other types than float32, int32, int64, bool and string are left out.

    Args:
      content: the message.
      keys: of the outputs that are wanted; others are not decoded.

    Raises:
      ValueError: not such a message, a tensor is not of its own shape, or all of them together have
        more than 2^26 values.
    """
    from google.protobuf.message import DecodeError

    try:
        response = message("PredictResponse").FromString(content)
    except DecodeError as error:
        raise ValueError(f"not a PredictResponse ({error})") from error
    arrays: Dict[str, np.ndarray] = {}
    left = _MOST_VALUES
    for entry in response.outputs:
        if entry.key in keys and entry.value.dtype in _DTYPES:
            array = _to_array(entry.key, entry.value, left)
            left -= array.size
            arrays[entry.key] = array
    return arrays


def _to_array(name: str, tensor: Any, most_values: int) -> np.ndarray:
    dtype, field = _DTYPES[tensor.dtype]
    shape = [dim.size for dim in tensor.tensor_shape.dim[:_MOST_DIMENSIONS]]
    count = math.prod(shape)
    if len(tensor.tensor_shape.dim) > _MOST_DIMENSIONS or min(shape, default=0) < 0:
        raise ValueError(f"the output {name!r} has a shape that starts with {shape}")
    if count > most_values:
        raise ValueError(
            f"the outputs up to {name!r} of shape {shape} have more than {_MOST_VALUES:,} values"
        )
    content = tensor.tensor_content
    if content and tensor.dtype != _STRING:
        values = np.frombuffer(content, np.uint8)
        found: float = len(content) / np.dtype(dtype).itemsize
        values = values.view(dtype) if found == count else values
    else:
        found = len(getattr(tensor, field))
        if found > count:
            raise ValueError(f"the output {name!r} of shape {shape} has {found:g} values")
        values = np.empty(len(getattr(tensor, field)), dtype)
        values[:] = getattr(tensor, field)
        found = len(values)
        if 0 < found < count:  # The last one is the rest.
            return np.pad(values, (0, count - len(values)), mode="edge").reshape(shape)
    if found != count:
        raise ValueError(f"the output {name!r} of shape {shape} has {found:g} values")
    return values.reshape(shape)

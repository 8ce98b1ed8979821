"""What PyTorch's files name in their pickles: storages, and tensors that are views of them."""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, Optional

import numpy as np

from panoptic_tf.checkpoints.readers import elements
from panoptic_tf.checkpoints.readers.arrays import StoredArray
from panoptic_tf.checkpoints.readers.elements import ElementType
from panoptic_tf.checkpoints.readers.pickle_arguments import Refused
from panoptic_tf.checkpoints.readers.pickle_symbols import (
    PickledArray,
    Symbol,
    Table,
    describe,
    table,
)

_BYTE = elements.element_type("u1")
# PyTorch's name of a type, the beginning of its storage's name, and how elements lie.
_TYPES = (
    ("float64", "Double", elements.element_type("f8")),
    ("float32", "Float", elements.element_type("f4")),
    ("float16", "Half", elements.element_type("f2")),
    ("bfloat16", "BFloat16", elements.BFLOAT16),
    ("int64", "Long", elements.element_type("i8")),
    ("int32", "Int", elements.element_type("i4")),
    ("int16", "Short", elements.element_type("i2")),
    ("int8", "Char", elements.element_type("i1")),
    ("uint8", "Byte", elements.element_type("u1")),
    ("bool", "Bool", elements.element_type("b1")),
    # These have no storage of their own.
    ("uint16", "", elements.element_type("u2")),
    ("uint32", "", elements.element_type("u4")),
    ("uint64", "", elements.element_type("u8")),
)
# What a symbol of a storage without a type stands for.
_UNTYPED = "untyped"


@dataclasses.dataclass
class Storage:
    """Elements in a row, of which tensors are views.

    Attributes:
      key: its name in the file.
      element_type: of its elements; of a storage without a type, bytes.
      size: number of elements that the pickle claims.
      is_typed: whether the storage has a type.
      data: its bytes; None until their place in the file is known.
    """

    key: str
    element_type: ElementType
    size: int
    is_typed: bool
    data: Optional[memoryview] = None

    @property
    def num_bytes(self) -> int:
        """Bytes that the pickle claims."""
        return self.size * self.element_type.stored.itemsize


class Storages:
    """The storages of a file, as its pickle names them.

    Args:
      is_big_endian: whether the file was written on such a machine.
    """

    def __init__(self, *, is_big_endian: bool = False):
        self._is_big_endian = is_big_endian
        self.by_key: Dict[str, Storage] = {}

    def load(self, identifier: Any) -> Storage:
        """The storage of ("storage", type, key, where it was, number of elements).

        The form that is no zip archive has one entry more, which is None.
        """
        is_storage = isinstance(identifier, tuple) and identifier[:1] == ("storage",)
        if not is_storage or len(identifier) not in (5, 6) or identifier[5:] not in ((), (None,)):
            raise Refused("a persistent id that is no storage")
        kind, key, size = identifier[1], identifier[2], identifier[4]
        value = kind.value if isinstance(kind, Symbol) and kind.call is None else None
        if not (isinstance(value, ElementType) or value == _UNTYPED) or not isinstance(key, str):
            raise Refused(f"a storage of {describe(kind)}")
        (size,) = elements.checked_sizes([size])
        is_typed = isinstance(value, ElementType)
        claimed = Storage(key, self._ordered(value if is_typed else _BYTE), size, is_typed)
        storage = self.by_key.setdefault(key, claimed)
        if (storage.element_type, storage.size) != (claimed.element_type, claimed.size):
            raise Refused("two storages of one name")
        return storage

    def symbols(self) -> Table:
        """What a file's pickle may name beside NumPy and Python."""
        return {**_SYMBOLS, **table(self._functions())}

    def _functions(self) -> Dict[str, Any]:
        return {
            "_rebuild_tensor": (("torch._utils",), self._tensor),
            "_rebuild_tensor_v2": (("torch._utils",), self._tensor_2),
            "_rebuild_tensor_v3": (("torch._utils",), self._tensor_3),
            "_rebuild_parameter": (("torch._utils",), _parameter),
            "Size": (("torch",), _size),
            "device": (("torch",), _device),
        }

    def _ordered(self, element_type: ElementType) -> ElementType:
        return element_type.swapped() if self._is_big_endian else element_type

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any) -> PickledArray:
        if not isinstance(storage, Storage) or not storage.is_typed:
            raise Refused(f"a tensor in {describe(storage)}")
        return PickledArray(_view(storage, storage.element_type, offset, size, stride))

    def _tensor_2(
        self, storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, *more: Any
    ) -> PickledArray:
        del grad, hooks, more  # Whether it is trained, and flags as "conjugate".
        return self._tensor(storage, offset, size, stride)

    def _tensor_3(
        self,
        storage: Any,
        offset: Any,
        size: Any,
        stride: Any,
        grad: Any,
        hooks: Any,
        kind: Any,
        *more: Any,
    ) -> PickledArray:
        del grad, hooks, more
        element_type = kind.value if isinstance(kind, Symbol) else None
        if not isinstance(element_type, ElementType) or not isinstance(storage, Storage):
            raise Refused(f"a tensor of {describe(kind)}")
        element_type = self._ordered(element_type)
        return PickledArray(_view(storage, element_type, offset, size, stride))


def _view(
    storage: Storage, element_type: ElementType, offset: Any, size: Any, stride: Any
) -> StoredArray:
    """A tensor; that it lies inside its storage is known before anything is read."""
    shape, strides = elements.checked_shape(size), elements.checked_sizes(stride)
    (first,) = elements.checked_sizes([offset])
    if len(shape) != len(strides):
        raise Refused(f"a tensor of shape {list(shape)} with {len(strides)} strides")
    itemsize = element_type.stored.itemsize
    available = storage.num_bytes // itemsize
    total = elements.count(shape)
    last = first + sum((size - 1) * step for size, step in zip(shape, strides))
    # The count, too: a stride of 0 makes any number of elements of one.
    if total and max(last + 1, total) > available:
        raise Refused(
            f"a tensor of shape {list(shape)} that goes beyond its storage of {available} elements"
        )

    def read() -> np.ndarray:
        if not total:
            return np.zeros(shape, element_type.given)
        data = storage.data or b""  # It has its bytes when tensors are given out.
        flat = np.frombuffer(data, element_type.stored, count=available)[first:]
        in_bytes = [step * itemsize for step in strides]
        raw = np.lib.stride_tricks.as_strided(flat, shape, in_bytes, writeable=False)
        return element_type.convert(raw)

    return StoredArray(shape, element_type.given, read)


def _parameter(data: Any, grad: Any, hooks: Any) -> PickledArray:
    del grad, hooks
    if not isinstance(data, PickledArray):
        raise Refused(f"a parameter of {describe(data)}")
    return data


def _size(sizes: Any = ()) -> Any:
    return elements.checked_sizes(sizes)


def _device(name: Any, *index: Any) -> Any:
    del index
    return name if isinstance(name, str) else None


_SYMBOLS: Table = {
    **{("torch", name): Symbol(f"torch.{name}", value=kind) for name, _, kind in _TYPES},
    **{
        ("torch", f"{storage}Storage"): Symbol(f"torch.{storage}Storage", value=kind)
        for _, storage, kind in _TYPES
        if storage
    },
    ("torch.storage", "UntypedStorage"): Symbol("torch.storage.UntypedStorage", value=_UNTYPED),
}

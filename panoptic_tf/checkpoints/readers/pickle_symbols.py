"""What a pickle of weights may name: symbols of a fixed table, with functions of our own.

A pickle says `numpy.core.multiarray._reconstruct`; nothing is imported by that name. The symbol
stands for a function here that makes what the name stands for, or something that is no more than
its content.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from typing import Any, Callable, Dict, Optional, Tuple, Union

import numpy as np

from panoptic_tf.checkpoints.readers import elements
from panoptic_tf.checkpoints.readers.arrays import StoredArray
from panoptic_tf.checkpoints.readers.pickle_arguments import (
    Blob,
    Refused,
    bytes_from_text,
)

_NUMBERS = re.compile(r"([|<>=]?)(f[248]|[iu][1248]|b1|c8|c16)")
_MAX_KEY = 2**60


@dataclasses.dataclass(frozen=True)
class Symbol:
    """A name that a pickle may use.

    Attributes:
      name: in full.
      call: what a call of it does; None: it is only handed on.
      value: what it stands for to the functions it is handed to.
    """

    name: str
    call: Optional[Callable[..., Any]] = None
    value: Any = None


class PickledArray:
    """An array of a pickle, whose content may come later than the array."""

    def __init__(self, array: Optional[StoredArray] = None):
        self.array = array

    def build(self, state: Any) -> None:
        """Takes (version, shape, type, is in Fortran's order, bytes)."""
        if self.array is not None or not isinstance(state, tuple) or len(state) != 5:
            raise Refused("a state that an array does not have")
        _, shape, element_type, is_fortran, data = state
        self.array = _stored(data, element_type, shape, "F" if is_fortran else "C")


class PickledType:
    """The type of an array; its byte order may come later."""

    def __init__(self, code: str):
        self.element_type = elements.element_type(code)

    def build(self, state: Any) -> None:
        """Takes (version, byte order, sub-type, names, fields, ...): a plain number has no more."""
        if not isinstance(state, tuple) or not 7 <= len(state) <= 9:
            raise Refused("a state that an array's type does not have")
        if any(part is not None for part in state[2:5]) or state[1] not in ("<", ">", "|", "="):
            raise Refused("an array of records")
        plain = elements.ElementType(self.element_type.stored.newbyteorder("<"))
        self.element_type = plain.swapped() if state[1] == ">" else plain


def checked_key(key: Any) -> Any:
    """A key of a dict: text, bytes, or a whole number.

    Tuples can be built so that their hash takes forever, and other numbers so that they all have
    the same.
    """
    is_small = isinstance(key, int) and abs(key) < _MAX_KEY
    if not is_small and not isinstance(key, (str, bytes)):
        raise Refused(f"a key of a dict that is {describe(key)}")
    return key


def describe(value: Any) -> str:
    """What messages call a value."""
    if isinstance(value, Symbol):
        return value.name
    return f"a {type(value).__name__}"


def make_dict(pairs: Any) -> Dict[Any, Any]:
    """A dict of (key, value) pairs."""
    found = {}
    for key, value in pairs:
        found[checked_key(key)] = value
    return found


# NumPy


def _stored(data: Any, element_type: Any, shape: Any, order: str) -> StoredArray:
    if not isinstance(element_type, PickledType) or not isinstance(data, (bytes, str, Blob)):
        raise Refused(f"an array of {describe(data)}")
    kind, shape = element_type.element_type, elements.checked_shape(shape)
    if isinstance(data, str) and not data.isascii() and max(data) > "\xff":
        raise Refused("text that is encoded as latin1 has characters beyond it")
    size = data.encoded_size() if isinstance(data, Blob) else len(data)
    wanted = elements.count(shape) * kind.stored.itemsize
    if size != wanted:
        raise Refused(f"an array of shape {list(shape)}, which has {wanted} bytes, but {size} are")

    def read() -> np.ndarray:
        if not size:
            return np.zeros(shape, kind.given)
        content = bytes_from_text(data) if isinstance(data, str) else data
        raw = np.frombuffer(
            content.encoded() if isinstance(content, Blob) else content, kind.stored
        )
        return kind.convert(raw.reshape(shape, order=order))  # type: ignore[call-overload]

    return StoredArray(shape, kind.given, read)


def _reconstruct(kind: Any, shape: Any, code: Any) -> PickledArray:
    del shape, code  # Always empty: the state has both.
    if kind is not SYMBOLS["numpy", "ndarray"]:
        raise Refused(f"an array that is {describe(kind)}")
    return PickledArray()


def _from_buffer(data: Any, element_type: Any, shape: Any, order: Any, axes: Any = None) -> Any:
    if order not in ("C", "F") or axes is not None:
        raise Refused(f"an array in the order {describe(order)}")
    return PickledArray(_stored(data, element_type, shape, order))


def _type(code: Any, align: Any = False, copy: Any = True) -> PickledType:
    del align, copy  # Of records only.
    match = _NUMBERS.fullmatch(code) if isinstance(code, str) else None
    if not match:
        named = repr(code[:40]) if isinstance(code, str) else describe(code)
        raise Refused(f"an array of the type {named}, where only numbers are read")
    return PickledType(match[2])


def _scalar(element_type: Any, data: Any) -> Any:
    return _stored(data, element_type, (), "C").read().item()


# The rest


def _encode(text: Any, encoding: Any = "latin1") -> Union[str, Blob]:
    """Bytes, as protocols before 3 write them: the text, which an array encodes when it is read."""
    if encoding not in ("latin1", "latin-1") or not isinstance(text, (str, Blob)):
        raise Refused(f"_codecs.encode of {describe(text)}")
    return text


def _ordered_dict(pairs: Any = None) -> Any:
    """Of a list of pairs, as Python 2 wrote it, which is empty then: a list is used up once."""
    if pairs is None or pairs == ():
        return collections.OrderedDict()
    if not isinstance(pairs, list):
        raise Refused(f"collections.OrderedDict of {describe(pairs)}")
    found = collections.OrderedDict(make_dict(pairs))
    pairs.clear()
    return found


def _counter(counts: Any) -> Dict[Any, Any]:
    """PyTorch's learning rate schedules count their milestones with one."""
    if not isinstance(counts, dict):
        raise Refused(f"collections.Counter of {describe(counts)}")
    return counts


def _set(values: Any = ()) -> Any:
    """The list or tuple that it would be made of: none of the weights is in one."""
    if not isinstance(values, (list, tuple)):
        raise Refused(f"a set of {describe(values)}")
    return values


def _empty_bytes() -> bytes:
    return b""


Table = Dict[Tuple[str, str], Symbol]


def table(entries: Dict[str, Tuple[Tuple[str, ...], Any]]) -> Table:
    """Symbols by (module, name); `entries`: name -> modules that have it, what a call does."""
    return {
        (module, name): Symbol(f"{module}.{name}", call)
        for name, (modules, call) in entries.items()
        for module in modules
    }


_BUILTINS = ("builtins", "__builtin__")

SYMBOLS: Table = table(
    {
        "_reconstruct": (("numpy.core.multiarray", "numpy._core.multiarray"), _reconstruct),
        "scalar": (("numpy.core.multiarray", "numpy._core.multiarray"), _scalar),
        "_frombuffer": (("numpy.core.numeric", "numpy._core.numeric"), _from_buffer),
        "ndarray": (("numpy",), None),
        "dtype": (("numpy",), _type),
        "encode": (("_codecs",), _encode),
        "OrderedDict": (("collections",), _ordered_dict),
        "Counter": (("collections",), _counter),
        "set": (_BUILTINS, _set),
        "frozenset": (_BUILTINS, _set),
        "bytes": (_BUILTINS, _empty_bytes),
    }
)
"""Of NumPy and Python, by (module, name)."""

"""Files of safetensors: a header of JSON that says where each tensor lies, then their bytes.

The format is small enough to be read here; the package safetensors is not needed, and its reading
into NumPy knows no bfloat16.
"""

from __future__ import annotations

import json
from typing import Any, Dict, List, Tuple

import numpy as np

from panoptic_tf.checkpoints.readers import elements
from panoptic_tf.checkpoints.readers.arrays import StoredArray, StoredCheckpoint
from panoptic_tf.checkpoints.readers.elements import ElementType
from panoptic_tf.checkpoints.readers.flatten import tidy
from panoptic_tf.checkpoints.readers.mapped import MappedFile

LENGTH_SIZE = 8
# 100,000 tensors have 15 MB; the format's own limit is 100 MB, which takes 1 GB as objects.
MAX_HEADER = 32 * 1024 * 1024
# Bytes in a file have at most 19 digits; making a number of many takes quadratic time.
_MAX_DIGITS = 19
_METADATA = "__metadata__"
_TYPES: Dict[str, ElementType] = {
    "BF16": elements.BFLOAT16,
    "BOOL": elements.element_type("b1"),
    **{f"F{8 * size}": elements.element_type(f"f{size}") for size in (2, 4, 8)},
    **{f"I{8 * size}": elements.element_type(f"i{size}") for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": elements.element_type(f"u{size}") for size in (1, 2, 4, 8)},
}


def read(file: MappedFile) -> StoredCheckpoint:
    """Reads a file of safetensors.

    Raises:
      CheckpointError: the file ends early, or its header and its bytes do not agree.
    """
    length = int.from_bytes(file.view(0, LENGTH_SIZE), "little")
    if length > MAX_HEADER:
        raise file.error(f"claims a header of {length} bytes, where {MAX_HEADER} are read.")
    start = LENGTH_SIZE + length
    if start > file.size:
        raise file.ends_early(f"the header reaches to byte {start}")
    header = _header(file, start)
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise file.error(f"is damaged: {_METADATA} is no object of strings.")
    if not header:
        raise file.error("holds no arrays.")
    places: List[Tuple[int, int, str]] = []
    arrays: Dict[str, StoredArray] = {}
    for name, entry in header.items():
        try:
            arrays[name], first, last = _array(file, start, entry)
        except (ValueError, TypeError, KeyError) as error:
            raise file.error(f"is damaged: {name[:200]!r} {error}.") from error
        places.append((first, last, name))
    _check_places(file, start, places)
    metadata.pop("variable_names", None)
    return StoredCheckpoint(file.path, tidy(arrays), metadata)


def _header(file: MappedFile, stop: int) -> Dict[str, Any]:
    try:
        header = json.loads(
            str(file.view(LENGTH_SIZE, stop), "utf-8"),
            object_pairs_hook=_object,
            parse_int=_integer,
        )
    except (ValueError, RecursionError) as error:
        raise file.error(f"is damaged: its header is not what it should be ({error}).") from error
    if not isinstance(header, dict):
        raise file.error("is damaged: its header is no object.")
    return header


def _object(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _array(file: MappedFile, start: int, entry: Any) -> Tuple[StoredArray, int, int]:
    """The array and where it lies, first byte and the one after the last, in the file."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError("has not type, shape and place")
    kind = _TYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if kind is None:
        raise ValueError(f"is of the type {str(entry['dtype'])[:40]}, which is not read")
    shape = elements.checked_shape(entry["shape"])
    first, last = (start + offset for offset in elements.checked_sizes(entry["data_offsets"]))
    size = elements.count(shape) * kind.stored.itemsize
    if last - first != size:
        raise ValueError(f"has the shape {list(shape)} of {size} bytes, but {last - first} are")

    def read_array() -> np.ndarray:
        if not size:
            return np.zeros(shape, kind.given)
        raw = np.frombuffer(file.view(first, last), kind.stored)
        return kind.convert(raw.reshape(shape))

    return StoredArray(shape, kind.given, read_array), first, last


def _check_places(file: MappedFile, start: int, places: List[Tuple[int, int, str]]) -> None:
    """Raises unless arrays follow one another from the header to the end of the file."""
    end = start
    for first, last, name in sorted(places):
        if first != end:
            raise file.error(f"is damaged: {name[:200]!r} is not after the array before it.")
        end = last
    if end > file.size:
        raise file.ends_early(f"its arrays reach to byte {end}")
    if end < file.size:
        raise file.error(f"is damaged: its arrays end at byte {end}.")

"""From what a pickle holds to arrays by flat name: the weights are found, names joined by dots."""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, Iterator, List, Set, Tuple

import numpy as np

from panoptic_tf.checkpoints.readers import elements
from panoptic_tf.checkpoints.readers.arrays import StoredArray, StoredCheckpoint
from panoptic_tf.checkpoints.readers.mapped import MappedFile
from panoptic_tf.checkpoints.readers.pickle_symbols import PickledArray, describe

# Where trainers put the weights; averages of them only where there is nothing else.
_CONTAINERS = (
    *("model", "state_dict", "model_state_dict", "blobs", "module"),
    *("model_ema", "ema_state_dict", "state_dict_ema", "ema"),
)
# What trainers put beside them.
_NO_WEIGHTS = frozenset(
    [
        *("optimizer", "optimizers", "optimizer_state_dict", "optimizer_states", "optim"),
        *("scheduler", "lr_scheduler", "lr_schedulers", "scheduler_state_dict"),
        *("scaler", "grad_scaler", "amp", "loops", "callbacks"),
    ]
)
# Of Caffe2's optimizer.
_MOMENTUM = "_momentum"
_DATA_PARALLEL = "module."
# What readers give by this name comes from nowhere but a TensorFlow checkpoint.
_RESERVED = "variable_names"

# Names of layers within layers have some ten parts and 100 characters.
_MAX_DEPTH = 32
_MAX_NAME = 1024
_MAX_ARRAYS = 250_000
# Dicts that are looked into to find which of them holds the weights.
_MAX_SEARCHED = 100
# Arrays may share bytes, and bfloat16 doubles; a small file that claims much more is a trick.
_MAX_GROWTH = 8
_MAX_SMALL = 1 << 26


def flatten(file: MappedFile, content: Any) -> StoredCheckpoint:
    """Finds the weights in what was pickled.

    Args:
      file: for messages.
      content: of the pickle.

    Raises:
      CheckpointError: it is no dict with arrays, or one built so that it never ends.
    """
    metadata: Dict[str, Any] = {}
    weights = _unwrap(file, content, metadata)
    arrays: Dict[str, StoredArray] = {}
    for name, array in _Walk(file).items(weights):
        if name in arrays:
            raise file.error(f"holds two arrays by the name {name!r}.")
        arrays[name] = _guarded(file, name, array)
        if len(arrays) > _MAX_ARRAYS:
            raise file.error(f"holds more than {_MAX_ARRAYS} arrays.")
    if not arrays:
        keys = ", ".join(map(repr, list(weights)[:6]))[:200]
        raise file.error(f"holds no arrays; its entries are {keys or 'none'}.")
    _check_size(file, arrays)
    return StoredCheckpoint(file.path, tidy(arrays), metadata)


def tidy(arrays: Dict[str, StoredArray]) -> Dict[str, StoredArray]:
    """Names without the `module.` that data-parallel training puts before all of them."""
    if not all(name.startswith(_DATA_PARALLEL) for name in arrays):
        return arrays
    return {name[len(_DATA_PARALLEL) :]: array for name, array in arrays.items()}


def _unwrap(file: MappedFile, content: Any, metadata: Dict[str, Any]) -> Dict[Any, Any]:
    """The innermost container of weights; strings and numbers on the way go to `metadata`."""
    seen: Set[int] = set()
    while True:
        if not isinstance(content, dict):
            raise file.error(f"holds {describe(content)}, where a dict of arrays is read.")
        if id(content) in seen:
            raise file.error("holds a dict that contains itself.")
        seen.add(id(content))
        for key, value in content.items():
            if isinstance(value, (str, int, float)) and key != _RESERVED:
                metadata.setdefault(_text(key), value)
        inner = [content[name] for name in _CONTAINERS if _has_arrays(content.get(name), set())]
        # Below the first, a container may also be a layer's name.
        if not inner or (len(seen) > 1 and _has_others(content)):
            return content
        content = inner[0]


def _has_arrays(value: Any, seen: Set[int]) -> bool:
    """Whether there is an array in a dict, or in the first dicts within it."""
    if not isinstance(value, dict) or id(value) in seen or len(seen) > _MAX_SEARCHED:
        return False
    seen.add(id(value))
    values = value.values()
    is_there = any(isinstance(item, PickledArray) for item in values)
    return is_there or any(_has_arrays(item, seen) for item in values)


def _has_others(content: Dict[Any, Any]) -> bool:
    """Whether there are weights beside the containers."""
    seen: Set[int] = set()
    return any(
        key not in _CONTAINERS
        and key not in _NO_WEIGHTS
        and (isinstance(value, PickledArray) or _has_arrays(value, seen))
        for key, value in content.items()
    )


def _guarded(file: MappedFile, name: str, array: StoredArray) -> StoredArray:
    """The array, with errors of its reading that name the file."""

    def read() -> np.ndarray:
        try:
            return array.read()
        except ValueError as error:
            raise file.error(f"is damaged at {name!r} ({error}).") from error

    return dataclasses.replace(array, read=read)


def _check_size(file: MappedFile, arrays: Dict[str, StoredArray]) -> None:
    total = sum(elements.count(a.shape) * a.dtype.itemsize for a in arrays.values())
    if total > max(_MAX_GROWTH * file.size, _MAX_SMALL):
        raise file.error(f"holds arrays that take {total} bytes when they are read.")


def _text(key: Any) -> str:
    return key.decode("latin1") if isinstance(key, bytes) else str(key)


class _Walk:
    """Goes through dicts within dicts, each once: what is there many times is no model."""

    def __init__(self, file: MappedFile):
        self._file = file
        self._seen: Set[int] = set()

    def items(self, weights: Dict[Any, Any]) -> Iterator[Tuple[str, StoredArray]]:
        """(name, array) in order."""
        self._enter(weights, "")
        waiting: List[Tuple[str, Iterator]] = [("", iter(weights.items()))]
        while waiting:
            prefix, entries = waiting[-1]
            key, value = next(entries, (None, None))
            if key is None:
                waiting.pop()
            elif not prefix and key in _NO_WEIGHTS and isinstance(value, dict):
                continue
            elif isinstance(value, PickledArray):
                name = self._name(prefix, key)
                if value.array is None:
                    raise self._file.error(f"holds an array without content, {name!r}.")
                if not name.endswith(_MOMENTUM):
                    yield name, value.array
            elif isinstance(value, dict) and value:
                name = self._name(prefix, key)
                self._enter(value, name)
                waiting.append((f"{name}.", iter(value.items())))
                if len(waiting) > _MAX_DEPTH:
                    raise self._file.error(f"holds dicts nested more than {_MAX_DEPTH} deep.")

    def _enter(self, value: Dict[Any, Any], name: str) -> None:
        if id(value) in self._seen:
            raise self._file.error(
                f"holds a dict that contains itself or occurs twice, at {name!r}."
            )
        self._seen.add(id(value))

    def _name(self, prefix: str, key: Any) -> str:
        name = prefix + _text(key)
        if len(name) > _MAX_NAME:
            raise self._file.error(f"holds a name of {len(name)} characters.")
        return name

"""TensorFlow's checkpoints: a prefix with `.index` and `.data-*` files, or a folder of such."""

from __future__ import annotations

import glob
import os
import re
from typing import Any, Dict, Iterable, List, Optional, Tuple

import numpy as np

from panoptic_tf.checkpoints.readers import elements
from panoptic_tf.checkpoints.readers.arrays import CheckpointError, StoredArray, StoredCheckpoint

# The last bytes of an `.index` file, which is a table of LevelDB.
FOOTER = (0xDB4775248B80FB57).to_bytes(8, "little")
_INDEX = ".index"
_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
# What the Model Garden's moving average keeps of a variable.
_AVERAGE = "/.OPTIMIZER_SLOT/optimizer/average" + _VALUE
_NO_WEIGHTS = re.compile(r"\.OPTIMIZER_SLOT|^save_counter$|^optimizer/|^_CHECKPOINTABLE")
_SHARD = re.compile(r"\.data-(\d{5})-of-(\d{5})$")
_KINDS = "fiub"


def find_prefix(path: str) -> Optional[str]:
    """The prefix of the checkpoint that a path means: a prefix, or a folder of checkpoints.

    A folder may also be a SavedModel.

    Returns:
      The prefix; None for the path of a file, which is looked into instead.

    Raises:
      CheckpointError: there is nothing, or a folder without a checkpoint.
    """
    import tensorflow as tf

    try:
        if tf.io.gfile.isdir(path):
            return _latest(path)
        if tf.io.gfile.exists(path):
            return None
        if tf.io.gfile.exists(path + _INDEX):
            return path
    except tf.errors.OpError as error:
        raise CheckpointError(f"{path}: {error.message}") from error
    raise CheckpointError(f"{path} does not exist, nor does {path}{_INDEX}.")


def _latest(folder: str) -> str:
    import tensorflow as tf

    root = folder.rstrip("/")
    saved = f"{root}/variables/variables"
    try:
        prefix = tf.train.latest_checkpoint(folder)
        if prefix is not None and os.path.dirname(prefix) != root:
            raise CheckpointError(f"{folder}/checkpoint names {prefix}, outside of the folder.")
        prefix = prefix or _highest(root)
        if prefix is None and tf.io.gfile.exists(saved + _INDEX):
            prefix = saved
    except (tf.errors.OpError, ValueError) as error:
        raise CheckpointError(f"{folder} cannot be read: {error}") from error
    if prefix is None:
        raise CheckpointError(f"{folder} is a folder without a checkpoint of TensorFlow.")
    return prefix


def _highest(folder: str) -> Optional[str]:
    """Of the checkpoints that no file `checkpoint` lists, that of the highest number."""
    import tensorflow as tf

    found = [path[: -len(_INDEX)] for path in tf.io.gfile.glob(f"{glob.escape(folder)}/*{_INDEX}")]
    return max(found, key=_number, default=None)


def _number(prefix: str) -> int:
    digits = re.search(r"(\d+)$", prefix)
    return int(digits[1]) if digits else -1


def read(prefix: str) -> StoredCheckpoint:
    """Reads a checkpoint.

    Raises:
      CheckpointError: it is damaged, or a part of it is missing.
    """
    import tensorflow as tf

    try:
        reader = tf.train.load_checkpoint(prefix)
        types = reader.get_variable_to_dtype_map()
        shapes = {key: elements.checked_shape(shape) for key, shape in _shapes(reader)}
        _check_shards(prefix, sum(types[key].size * elements.count(shapes[key]) for key in shapes))
        names = _variable_names(reader) if _GRAPH in shapes else {}
    except CheckpointError:
        raise
    except Exception as error:  # Of damaged ones, TensorFlow raises nearly anything.
        raise CheckpointError(f"{prefix} is no checkpoint, or damaged: {_line(error)}") from error
    arrays: Dict[str, StoredArray] = {}
    for key in _ordered(shapes, names):
        name = key.replace(_VALUE, "")
        is_number = types[key] == tf.bfloat16 or np.dtype(types[key].as_numpy_dtype).kind in _KINDS
        if is_number and not _NO_WEIGHTS.search(name):
            arrays[name] = _array(prefix, reader, key, shapes[key], types[key])
    if not arrays:
        raise CheckpointError(f"{prefix} holds no variables.")
    by_name = {key.replace(_VALUE, ""): name for key, name in names.items()}
    kept = {name: by_name[name] for name in arrays if by_name.get(name)}
    averages = {
        key[: -len(_AVERAGE)]: _array(prefix, reader, key, shapes[key], types[key])
        for key in shapes
        if key.endswith(_AVERAGE)
    }
    metadata = {"variable_names": kept, "averages": averages} if kept else {}
    return StoredCheckpoint(prefix, arrays, metadata)


def _shapes(reader: Any) -> Iterable[Tuple[str, List[int]]]:
    return reader.get_variable_to_shape_map().items()


def _variable_names(reader: Any) -> Dict[str, str]:
    """Names that variables had when they were saved, by key, in the graph's order."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    graph = trackable_object_graph_pb2.TrackableObjectGraph()
    try:
        graph.ParseFromString(reader.get_tensor(_GRAPH))
    except DecodeError as error:
        raise ValueError("its graph of objects is damaged") from error
    attributes = (attribute for node in graph.nodes for attribute in node.attributes)
    return {attribute.checkpoint_key: attribute.full_name for attribute in attributes}


def _ordered(shapes: Dict[str, Any], names: Dict[str, str]) -> Dict[str, None]:
    """Keys in the order of the graph of objects, as layers follow one another; then the rest."""
    return dict.fromkeys([*(key for key in names if key in shapes), *sorted(shapes)])


def _array(prefix: str, reader: Any, key: str, shape: Tuple[int, ...], kind: Any) -> StoredArray:
    import tensorflow as tf

    given = np.dtype(np.float32 if kind == tf.bfloat16 else kind.as_numpy_dtype)

    def read_array() -> np.ndarray:
        try:
            return np.asarray(reader.get_tensor(key)).astype(given, copy=False)
        except Exception as error:
            raise CheckpointError(f"{prefix}: {key} cannot be read: {_line(error)}") from error

    return StoredArray(shape, given, read_array)


def _check_shards(prefix: str, total: int) -> None:
    """Raises where a file of values is missing, or they are fewer than the index claims."""
    import tensorflow as tf

    paths = tf.io.gfile.glob(f"{glob.escape(prefix)}.data-*")
    found = [match for match in map(_SHARD.search, paths) if match]
    wanted = max((int(match[2]) for match in found), default=1)
    if len({match[1] for match in found}) != wanted:
        raise CheckpointError(
            f"{prefix}: of {wanted} files {prefix}.data-?????-of-?????, {len(found)} are there."
        )
    size = sum(tf.io.gfile.stat(path).length for path in paths)
    if size < total:
        raise CheckpointError(
            f"{prefix} ends early: its variables have {total} bytes, its files of values {size}."
        )


def _line(error: Exception) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0][:300]

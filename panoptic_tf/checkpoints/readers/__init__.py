"""Files of weights from anywhere, read lazily and without running or importing what they name.

Kinds are `.pkl`, files of `torch.save` (PyTorch is not needed), safetensors, HDF5 of Keras and
checkpoints of TensorFlow; what a file is, is seen from its content.
"""

from __future__ import annotations

import os
from typing import Callable, Dict

from panoptic_tf.checkpoints.readers import (
    content,
    hdf5_file,
    keras_applications,
    pickle_file,
    safetensors_file,
    sharded,
    tensorflow_file,
    torch_file,
)
from panoptic_tf.checkpoints.readers.arrays import CheckpointError, StoredArray, StoredCheckpoint
from panoptic_tf.checkpoints.readers.copies import local_copy
from panoptic_tf.checkpoints.readers.mapped import MappedFile, open_mapped

__all__ = ["CheckpointError", "StoredArray", "StoredCheckpoint", "read_checkpoint"]

_READERS: Dict[str, Callable[[MappedFile], StoredCheckpoint]] = {
    "zip": torch_file.read_zip,
    "torch": torch_file.read_stream,
    "pickle": pickle_file.read,
    "hdf5": hdf5_file.read,
    "safetensors": safetensors_file.read,
}
_INDEX = ".index"


def read_checkpoint(path: str) -> StoredCheckpoint:
    """Opens a file of weights; arrays are read when asked for.

    Args:
      path: of a file, also in a place that tf.io.gfile knows; of a TensorFlow checkpoint, its
        prefix, its `.index` file, or its folder, of which the latest is taken; or
        `keras:<application>`, whose weights Keras downloads and keeps.

    Returns:
      Arrays by flat name, where pickles have their weights' containers taken off, and strings and
      numbers beside them. Files must stay as they are for as long as arrays are read.

    Raises:
      CheckpointError: it does not exist, is not whole, or holds what weights do not.
    """
    if path.startswith(keras_applications.PREFIX):
        return keras_applications.read_keras(path)
    # What lies beside a file, and the names of its folders, may say more of it.
    path = path if "://" in path else os.path.abspath(path)
    prefix = tensorflow_file.find_prefix(path)
    if prefix is not None:
        return tensorflow_file.read(prefix)
    with local_copy(path) as local:
        file = open_mapped(local, path)
        kind = content.recognise(file)
        if kind == "json":
            return sharded.read(file, _read_part)
        if kind == "tensorflow":
            return _read_index(file)
        return _READERS[kind](file)


def _read_part(path: str) -> StoredCheckpoint:
    """One of several files, which is no index of others."""
    with local_copy(path) as local:
        file = open_mapped(local, path)
        kind = content.recognise(file)
        if kind not in _READERS:
            raise file.error("is named by an index, but holds no arrays itself.")
        return _READERS[kind](file)


def _read_index(file: MappedFile) -> StoredCheckpoint:
    if not file.path.endswith(_INDEX):
        raise file.error(f"is the index of a TensorFlow checkpoint, but not named *{_INDEX}.")
    return tensorflow_file.read(file.path[: -len(_INDEX)])

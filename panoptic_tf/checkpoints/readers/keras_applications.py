"""Networks of tf.keras.applications with the weights that Keras itself downloads and keeps."""

from __future__ import annotations

import difflib
from typing import Callable, Dict

import numpy as np
import tensorflow as tf

from panoptic_tf.checkpoints.readers.arrays import CheckpointError, StoredArray, StoredCheckpoint

PREFIX = "keras:"

NAMES = (
    *("ResNet50", "ResNet101", "ResNet152"),
    *("MobileNetV2", "MobileNetV3Large", "MobileNetV3Small"),
    *(f"EfficientNetB{i}" for i in range(8)),
)
"""Applications that a backbone here is equal to."""


def read_keras(name: str) -> StoredCheckpoint:
    """ImageNet weights of an application, under the names of its `.h5` file.

    Args:
      name: one of `NAMES`, in capitals or not, also after `keras:`.

    Raises:
      CheckpointError: there is no such application, or Keras cannot get its weights.
    """
    path = name if name.startswith(PREFIX) else PREFIX + name
    name = path[len(PREFIX) :]
    name = {known.lower(): known for known in NAMES}.get(name.lower(), name)
    if name not in NAMES:
        close = difflib.get_close_matches(name.lower(), [known.lower() for known in NAMES], n=1)
        meant = [known for known in NAMES if known.lower() in close]
        hint = f" Did you mean {PREFIX}{meant[0]}?" if meant else ""
        raise CheckpointError(
            f"{path}: {name!r} is no application with a backbone here; known: "
            f"{', '.join(NAMES)}.{hint}"
        )
    try:
        model = getattr(tf.keras.applications, name)(weights="imagenet", include_top=False)
    except Exception as error:  # of the download, of many kinds
        raise CheckpointError(
            f"{path}: Keras could not get the weights ({error}). Without a network connection put "
            "the .h5 file that Keras names there, and give its path."
        ) from error
    arrays: Dict[str, StoredArray] = {}
    for variable in model.weights:
        shape, dtype = tuple(variable.shape), np.dtype(variable.dtype.as_numpy_dtype)
        arrays[variable.name.partition(":")[0]] = StoredArray(shape, dtype, _reading(variable))
    return StoredCheckpoint(path, arrays, {})


def _reading(variable: tf.Variable) -> Callable[[], np.ndarray]:
    return lambda: variable.numpy()

"""What every reader returns: arrays by name, read when asked for."""

from __future__ import annotations

import dataclasses
from typing import Any, Callable, Dict, Tuple

import numpy as np


class CheckpointError(ValueError):
    """A file of weights that cannot be read or does not fit; the message names the file."""


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """An array in a file.

    Attributes:
      shape: of the array.
      dtype: of what `read` returns, in the machine's byte order; bfloat16 is given out as float32.
      read: returns the array, contiguous; it may be a read-only view of the file.
    """

    shape: Tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


@dataclasses.dataclass
class StoredCheckpoint:
    """A file of weights.

    Attributes:
      path: as it was given; of a folder with TensorFlow checkpoints, the prefix of the latest.
      arrays: by flat name, in the file's order.
      metadata: strings and numbers beside the arrays. Of a TensorFlow checkpoint with an object
        graph, `variable_names` has the names that variables had when they were saved, by array, and
        `averages` the moving averages of those that have one.
    """

    path: str
    arrays: Dict[str, StoredArray]
    metadata: Dict[str, Any]

"""Pickled arrays: `.pkl` files, as Detectron and detectron2's zoo have them."""

from __future__ import annotations

from panoptic_tf.checkpoints.readers import restricted_pickle
from panoptic_tf.checkpoints.readers.arrays import StoredCheckpoint
from panoptic_tf.checkpoints.readers.flatten import flatten
from panoptic_tf.checkpoints.readers.mapped import MappedFile


def read(file: MappedFile) -> StoredCheckpoint:
    """Reads a pickle."""
    content, _ = restricted_pickle.load(file)
    return flatten(file, content)

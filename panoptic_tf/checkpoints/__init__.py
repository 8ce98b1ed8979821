"""Published weights: what reads their files, and how their names map to ours."""

from panoptic_tf.checkpoints.loading import Loaded, describe, load_weights
from panoptic_tf.checkpoints.matching import MODULES
from panoptic_tf.checkpoints.names import as_overrides
from panoptic_tf.checkpoints.readers.arrays import CheckpointError

__all__ = ["MODULES", "CheckpointError", "Loaded", "as_overrides", "describe", "load_weights"]

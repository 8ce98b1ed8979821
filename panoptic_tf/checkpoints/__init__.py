"""Published weights: what reads their files, and how their names map to ours."""

from panoptic_tf.checkpoints.loading import (
    MODULES,
    CheckpointError,
    Loaded,
    describe,
    load_weights,
)

__all__ = ["MODULES", "CheckpointError", "Loaded", "describe", "load_weights"]

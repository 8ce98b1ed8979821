"""Tables, one for each kind of file. Importing registers them all; the order is of recognition."""

from panoptic_tf.checkpoints.sources import (  # isort: skip
    own,
    panoptic_fcn,
    detectron2,
    pytorch_resnets,
)

__all__ = ["detectron2", "own", "panoptic_fcn", "pytorch_resnets"]

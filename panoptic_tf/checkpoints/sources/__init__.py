"""Tables, one for each kind of file. Importing registers them all; the order is of recognition."""

from panoptic_tf.checkpoints.sources import (  # isort: skip
    own,
    panoptic_fcn,
    detectron2,
    pytorch_resnets,
    pytorch_mobile,
    pytorch_others,
    swin,
    mask_transformers,
    vision_transformers,
    keras_applications,
    deeplab2,
    # Before the backbones that its files hold.
    model_garden,
    official_vision,
)

__all__ = [
    "deeplab2",
    "detectron2",
    "keras_applications",
    "mask_transformers",
    "model_garden",
    "official_vision",
    "own",
    "panoptic_fcn",
    "pytorch_mobile",
    "pytorch_others",
    "pytorch_resnets",
    "swin",
    "vision_transformers",
]

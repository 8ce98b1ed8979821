"""Importers: whatever people annotate with, to the same records. One module a format."""

from panoptic_tf.datasets.importers import (  # noqa: F401
    ade20k_panoptic,
    cityscapes,
    coco_instances,
    coco_panoptic,
    cvat,
    labelme,
    mapillary_vistas,
    semantic_and_instance_masks,
    semantic_masks,
    yolo,
)
from panoptic_tf.datasets.importers.registry import FORMATS, options_of, read, register

__all__ = ["FORMATS", "options_of", "read", "register"]

"""Importers: whatever people annotate with, to the same records. One module a format."""

from panoptic_tf.datasets.importers import coco_panoptic  # noqa: F401
from panoptic_tf.datasets.importers.registry import FORMATS, options_of, read, register

__all__ = ["FORMATS", "options_of", "read", "register"]

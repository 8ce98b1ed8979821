"""Panoptic FPN (arXiv:1901.02446); importing it registers its task and experiments."""

from panoptic_tf.systems.panoptic_fpn import experiments as _experiments  # noqa: F401
from panoptic_tf.systems.panoptic_fpn import task as _task  # noqa: F401

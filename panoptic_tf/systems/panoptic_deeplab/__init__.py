"""Panoptic-DeepLab (arXiv:1911.10194); importing it registers its task and experiments."""

from panoptic_tf.systems.panoptic_deeplab import experiments as _experiments  # noqa: F401
from panoptic_tf.systems.panoptic_deeplab import task as _task  # noqa: F401

"""Panoptic FCN (arXiv:2012.00720); importing it registers its task and experiments."""

from panoptic_tf.systems.panoptic_fcn import experiments as _experiments  # noqa: F401
from panoptic_tf.systems.panoptic_fcn import task as _task  # noqa: F401

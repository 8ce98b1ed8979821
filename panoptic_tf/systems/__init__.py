"""The systems; importing this package registers their tasks and experiments: one line each."""

from panoptic_tf.systems import mask_transformer as _mask_transformer  # noqa: F401
from panoptic_tf.systems import panoptic_deeplab as _panoptic_deeplab  # noqa: F401
from panoptic_tf.systems import panoptic_fcn as _panoptic_fcn  # noqa: F401
from panoptic_tf.systems import panoptic_fpn as _panoptic_fpn  # noqa: F401

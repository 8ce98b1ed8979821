"""Forms of TFLite's builtin operators; each registers itself with its operation."""

from panoptic_tf.ops.tflite import (  # noqa: F401
    blocks,
    deformable_conv2d,
    roi_align,
    sum_by_row,
)

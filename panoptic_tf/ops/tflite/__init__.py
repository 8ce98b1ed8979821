"""Forms of TFLite's builtin operators, some for ONNX too; each registers itself."""

from panoptic_tf.ops.tflite import (  # noqa: F401
    blocks,
    deformable_conv2d,
    depthwise,
    roi_align,
    sampled_sum,
    sum_by_row,
)

"""Forms for CPUs; each registers itself with its operation."""

from panoptic_tf.ops.cpu import (  # noqa: F401
    argmax_in_image,
    conv2d,
    deformable_conv2d,
    depthwise,
    nearest_center,
    nms,
    roi_align,
    roi_mask_targets,
    sampled_sum,
    trim,
)

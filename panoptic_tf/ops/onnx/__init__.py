"""Forms for ONNX alone; each registers itself with its operation."""

from panoptic_tf.ops.onnx import sigmoid  # noqa: F401

"""Operations on tensors: the mathematics once, exact and plain, with tuned forms beside it."""

from panoptic_tf.ops import cpu, onnx, tflite  # noqa: F401  (they register themselves)

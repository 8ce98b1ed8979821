"""Blocks of rows for small devices."""

from __future__ import annotations

from panoptic_tf.ops import blocks, forms


@forms.register(blocks.values_at_once, forms.Form.TFLITE, forms.Form.ONNX)
def values_at_once() -> int:
    """What stays in the cache of a processor; TFLite's memory is that of the largest block."""
    return 2**21

"""Deformable convolution for TFLite, a corner at a time.

TFLite takes longer to put the four corners side by side, and to multiply a small matrix for each
sample, than for all of this. ONNX has no loop in it.
"""

from __future__ import annotations

from typing import Optional, Sequence

import tensorflow as tf

from panoptic_tf.ops import chunks, forms
from panoptic_tf.ops import deformable_conv2d as reference


@forms.register(reference.index_dtype, forms.Form.TFLITE, forms.Form.ONNX)
def index_dtype() -> tf.DType:
    """See the reference."""
    return tf.int32


@forms.register(reference.sampled_product, forms.Form.TFLITE, forms.Form.ONNX)
def sampled_product(
    cells: tf.Tensor,
    corners: Sequence[reference.Corner],
    kernel: tf.Tensor,
    *,
    training: Optional[bool] = None,
) -> tf.Tensor:
    """See the reference."""
    del training
    count = chunks.count_for_cache(corners[0].index, cells)
    samples = corners[0].index.shape[2]
    split = [
        [chunks.split(tf.reshape(x, [-1, samples]), count) for x in corner] for corner in corners
    ]
    parts = []
    for i in range(len(split[0][0])):
        terms = [
            tf.gather(cells, tf.reshape(index[i], [-1])) * tf.reshape(weight[i], [-1, 1])
            for index, weight in split
        ]  # [n * S, C]
        total = (terms[0] + terms[1]) + (terms[2] + terms[3])
        parts.append(reference.columns(total, kernel) @ kernel)
    return tf.concat(parts, axis=0)

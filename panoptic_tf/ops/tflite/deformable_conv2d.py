"""Deformable convolution for TFLite, a corner at a time.

TFLite takes longer to put the four corners side by side, and to multiply a small matrix for each
sample, than for all of this.
"""

from __future__ import annotations

from typing import Optional, Sequence

import tensorflow as tf

from panoptic_tf.ops import chunks, forms
from panoptic_tf.ops import deformable_conv2d as reference


@forms.register(reference.deform_conv2d, forms.Form.TFLITE)
def deform_conv2d(
    inputs: tf.Tensor,
    offsets: tf.Tensor,
    kernel: tf.Tensor,
    *,
    modulation: Optional[tf.Tensor] = None,
    strides: int = 1,
    dilation_rate: int = 1,
    deformable_groups: int = 1,
    training: Optional[bool] = None,
) -> tf.Tensor:
    """See the reference."""
    del training
    return reference.convolve_by(
        _product,
        inputs,
        offsets,
        kernel,
        modulation=modulation,
        strides=strides,
        dilation_rate=dilation_rate,
        deformable_groups=deformable_groups,
        index_dtype=tf.int32,
    )


def _product(cells: tf.Tensor, corners: Sequence[reference.Corner], kernel: tf.Tensor) -> tf.Tensor:
    count = chunks.count_for(corners[0].index, cells)
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

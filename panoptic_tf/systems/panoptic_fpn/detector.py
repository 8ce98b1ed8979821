"""From the box head's outputs to detections, as a layer of the inference network."""

from __future__ import annotations

from typing import Any, Dict, Optional

import tensorflow as tf

from panoptic_tf.postprocess.detections import generate_detections


class Detector(tf.keras.layers.Layer):
    """See `postprocess.detections.generate_detections`, whose options the constructor takes."""

    def __init__(self, *, name: str = "detector", **options: Any):
        super().__init__(name=name, dtype=tf.float32, trainable=False)
        self._options = options

    def call(
        self,
        class_logits: tf.Tensor,
        deltas: tf.Tensor,
        proposals: tf.Tensor,
        proposal_valid: tf.Tensor,
        image_size: tf.Tensor,
        training: Optional[bool] = None,
    ) -> Dict[str, tf.Tensor]:
        """Returns `boxes` [B, K, 4], `scores`, `classes` and `valid` [B, K]."""
        del training
        return generate_detections(
            class_logits, deltas, proposals, proposal_valid, image_size, **self._options
        )._asdict()

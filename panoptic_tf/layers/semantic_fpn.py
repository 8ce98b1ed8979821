"""Semantic branch of Panoptic FPN (arXiv:1901.02446, section 3.2 and figure 3)."""

from __future__ import annotations

from typing import Any, Mapping, Optional

import tensorflow as tf

from panoptic_tf.layers import convolution, resize


@tf.keras.utils.register_keras_serializable(package="panoptic_tf")
class SemanticFPN(tf.keras.layers.Layer):
    """Brings every pyramid level to the finest one's size and sums them.

    A level k steps above the finest passes k stages of 3x3 convolution, norm, ReLU and bilinear x2;
    the finest passes one convolution without upsampling. Each stage grows to the size of the next
    finer level, so odd sizes work too.

    Args:
      filters: channels.
      min_level: finest level, the output's.
      max_level: coarsest level.
      num_classes: channels of a 1x1 predictor, or None: the sum itself is the output.
      norm: a name of `normalization.build_norm`.
      kernel_initializer: see `convolution.build_initializer`.
      norm_momentum: see `normalization.build_norm`.
      norm_epsilon: see `normalization.build_norm`.
      **kwargs: of the Keras layer.
    """

    def __init__(
        self,
        filters: int = 128,
        *,
        min_level: int = 2,
        max_level: int = 5,
        num_classes: Optional[int] = None,
        norm: str = "group",
        kernel_initializer: convolution.Initializer = "msra",
        norm_momentum: float = 0.9,
        norm_epsilon: float = 1e-5,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        options = {
            "norm": norm,
            "kernel_initializer": kernel_initializer,
            "norm_momentum": norm_momentum,
            "norm_epsilon": norm_epsilon,
        }
        self._levels = tuple(range(min_level, max_level + 1))
        self.convs = []
        for level in self._levels:
            names = [f"level_{level}_{i}" for i in range(max(1, level - min_level))]
            conv = convolution.ConvNormAct
            self.convs.append([conv(filters, 3, name=name, **options) for name in names])
        self.predictor = None
        if num_classes is not None:
            self.predictor = convolution.ConvNormAct(
                num_classes,
                norm="none",
                activation=None,
                kernel_initializer=kernel_initializer,
                name="predictor",
            )

    def call(self, inputs: Mapping[str, tf.Tensor], training: Optional[bool] = None) -> tf.Tensor:
        """{level: [B, H/2^level, W/2^level, C]} -> [B, H/2^min_level, W/2^min_level, filters].

        With a predictor: float32 logits [B, H/2^min_level, W/2^min_level, num_classes].
        """
        total = None
        for level, convs in zip(self._levels, self.convs):
            x = self._ascend(inputs, level, convs, training)
            total = x if total is None else total + x
        if self.predictor is None:
            return total
        return tf.cast(self.predictor(total), tf.float32)

    def _ascend(
        self,
        inputs: Mapping[str, tf.Tensor],
        level: int,
        convs: list[convolution.ConvNormAct],
        training: Optional[bool],
    ) -> tf.Tensor:
        x = inputs[str(level)]
        for i, conv in enumerate(convs):
            x = conv(x, training=training)
            if level > self._levels[0]:
                x = resize.upsample_like(x, inputs[str(level - 1 - i)])
        return x

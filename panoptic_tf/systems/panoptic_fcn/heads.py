"""The heads of Panoptic FCN (arXiv:2012.00720), shared by all levels.

Recorded structure: the authors' implementation; parameter counts and the initial values of the
predictors are theirs. Convolutions before them start as those of the backbone, offsets at zero.
"""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional

import tensorflow as tf

from panoptic_tf.layers import resize
from panoptic_tf.layers.conv2d import Conv2D
from panoptic_tf.layers.convolution import ConvNormAct
from panoptic_tf.layers.coordinates import Coordinates
from panoptic_tf.layers.deformable import DeformableConvNormAct

# A probability of 0.1.
_PRIOR_BIAS = -2.19


class ConvStack(tf.keras.layers.Layer):
    """3x3 convolutions with norm and ReLU, on coordinates too where asked for.

    Args:
      filters: channels of each.
      num_convs: how many.
      norm: a name of `normalization.build_norm`.
      deformable: whether they are modulated deformable convolutions.
      coordinates: whether the first one also sees each cell's row and column.
      **kwargs: of the Keras layer.
    """

    def __init__(
        self,
        filters: int,
        *,
        num_convs: int = 3,
        norm: str = "group",
        deformable: bool = False,
        coordinates: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        conv = DeformableConvNormAct if deformable else ConvNormAct
        self._coordinates = Coordinates(name="coordinates") if coordinates else None
        self.convs = [conv(filters, 3, norm=norm, name=f"conv{i + 1}") for i in range(num_convs)]

    def call(self, inputs: tf.Tensor, training: Optional[bool] = None) -> tf.Tensor:
        """[B, h, w, C] -> [B, h, w, filters]."""
        x = inputs if self._coordinates is None else self._coordinates(inputs)
        for conv in self.convs:
            x = conv(x, training=training)
        return x


class PositionHead(tf.keras.layers.Layer):
    """Logits of object centers and of stuff regions.

    Args:
      num_things: T, 0: no centers.
      num_stuff: S, 0: no regions.
      stack: arguments of `ConvStack`.
      **kwargs: of the Keras layer.
    """

    def __init__(self, num_things: int, num_stuff: int, *, stack: Mapping[str, Any], **kwargs: Any):
        super().__init__(**kwargs)
        self.stack = ConvStack(name="stack", **stack)
        bias = tf.keras.initializers.Constant(_PRIOR_BIAS)
        self.predictors = {
            name: _predictor(count, bias=bias, name=name)
            for name, count in (("centers", num_things), ("stuff", num_stuff))
            if count
        }

    def call(
        self, inputs: Mapping[str, tf.Tensor], training: Optional[bool] = None
    ) -> Dict[str, Dict[str, tf.Tensor]]:
        """{level: [B, h, w, C]} -> float32 {level: [B, h, w, n]} of centers and of stuff.

        Args:
          inputs: see above.
          training: whether gradients will be asked for.

        Returns:
          `center_logits` with n = T and `stuff_logits` with n = S, those that are there.
        """
        features = {level: self.stack(x, training=training) for level, x in inputs.items()}
        outputs = {}
        for key, name in (("center_logits", "centers"), ("stuff_logits", "stuff")):
            if name in self.predictors:
                predictor = self.predictors[name]
                outputs[key] = {
                    level: tf.cast(predictor(x, training=training), tf.float32)
                    for level, x in features.items()
                }
        return outputs


class KernelHead(tf.keras.layers.Layer):
    """The kernel of every cell.

    Args:
      stack: arguments of `ConvStack`; a kernel has as many channels as its `filters`.
      **kwargs: of the Keras layer.
    """

    def __init__(self, *, stack: Mapping[str, Any], **kwargs: Any):
        super().__init__(**kwargs)
        self.stack = ConvStack(name="stack", **stack)
        self.predictor = _predictor(stack["filters"], bias="zeros", name="predictor")

    def call(
        self, inputs: Mapping[str, tf.Tensor], training: Optional[bool] = None
    ) -> Dict[str, tf.Tensor]:
        """{level: [B, h, w, C]} -> {level: float32 [B, h, w, D]}."""
        return {
            level: tf.cast(
                self.predictor(self.stack(x, training=training), training=training), tf.float32
            )
            for level, x in inputs.items()
        }


class FeatureEncoder(tf.keras.layers.Layer):
    """The map that kernels are convolved with.

    Args:
      stack: arguments of `ConvStack`.
      **kwargs: of the Keras layer.
    """

    def __init__(self, *, stack: Mapping[str, Any], **kwargs: Any):
        super().__init__(**kwargs)
        self.stack = ConvStack(name="stack", **stack)

    def call(self, inputs: tf.Tensor, training: Optional[bool] = None) -> tf.Tensor:
        """[B, h, w, C] -> float32 [B, h, w, filters]."""
        return tf.cast(self.stack(inputs, training=training), tf.float32)


class LevelSum(tf.keras.layers.Layer):
    """Levels resized to the finest and summed; no variables."""

    def call(self, inputs: Mapping[str, tf.Tensor], training: Optional[bool] = None) -> tf.Tensor:
        """{level: [B, h, w, C]}, the finest first -> [B, h, w, C] of the finest."""
        del training
        finest, *others = inputs.values()
        return tf.add_n([finest, *(resize.upsample_like(x, finest) for x in others)])


def build_embedding(filters: int, *, name: str) -> tf.keras.layers.Layer:
    """Brings kernels [..., D] to the channels of the encoded feature [..., C], in float32."""
    return tf.keras.layers.Dense(filters, kernel_initializer=_normal(), dtype=tf.float32, name=name)


def _predictor(filters: int, *, bias: Any, name: str) -> Conv2D:
    return Conv2D(filters, 3, kernel_initializer=_normal(), bias_initializer=bias, name=name)


def _normal() -> tf.keras.initializers.Initializer:
    return tf.keras.initializers.RandomNormal(stddev=0.01)

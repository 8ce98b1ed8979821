"""A plain vision transformer (arXiv:2010.11929) as DINOv2 has it, called in steps.

With register tokens (arXiv:2309.16588) and scaled residual branches (arXiv:2103.17239). Between its
steps, queries join its tokens.
"""

from __future__ import annotations

from typing import Any, Optional, Sequence

import tensorflow as tf

from panoptic_tf.layers import attention
from panoptic_tf.layers.dense import Dense

_MLP_RATIO = 4
_EPSILON = 1e-6
NORM = "norm"
"""The step that normalises tokens."""


@tf.keras.utils.register_keras_serializable(package="panoptic_tf")
class VisionTransformer(tf.keras.layers.Layer):
    """Patches of an image, a class token and registers before them, through blocks of attention.

    Variables are named `<backbone>/patch_embedding/kernel`, `<backbone>/positions`,
    `<backbone>/block_3/attention/query/kernel`, `<backbone>/block_3/hidden/kernel`,
    `<backbone>/norm/gamma`.

    Args:
      channels: C.
      num_blocks: of the whole encoder.
      num_heads: of every attention.
      patch_size: side of a patch in pixels.
      num_registers: R.
      num_joint_blocks: the last blocks, each a step of its own.
      **kwargs: of the Keras layer.

    Attributes:
      grid: rows and columns of patches; importers of weights resize positions to it.
    """

    def __init__(
        self,
        *,
        channels: int,
        num_blocks: int,
        num_heads: int,
        patch_size: int,
        num_registers: int,
        num_joint_blocks: int,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self._channels, self._patch_size = channels, patch_size
        self._num_registers, self._num_joint_blocks = num_registers, num_joint_blocks
        self.patch_embedding = tf.keras.layers.Conv2D(
            channels, patch_size, strides=patch_size, name="patch_embedding"
        )
        self.blocks = [
            _Block(channels, num_heads=num_heads, name=f"block_{i}") for i in range(num_blocks)
        ]
        self.norm = tf.keras.layers.LayerNormalization(epsilon=_EPSILON, name="norm")

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the tokens before the patches, and a position for each patch of [B, H, W, 3].

        Raises:
          ValueError: patches do not tile the image.
        """
        height, width = input_shape[1:3]
        if None in (height, width) or height % self._patch_size or width % self._patch_size:
            raise ValueError(
                "The size of the images must be known and a multiple of "
                f"task.model.encoder.patch_size ({self._patch_size}), got {height} x {width}."
            )
        self.class_token = self._tokens("class_token", [1, 1, self._channels])
        self.registers = self._tokens("registers", [1, self._num_registers, self._channels])
        self.grid = (height // self._patch_size, width // self._patch_size)
        patches = self.grid[0] * self.grid[1]
        self.positions = self._tokens("positions", [patches, self._channels])
        super().build(input_shape)

    def _tokens(self, name: str, shape: Sequence[int]) -> tf.Variable:
        initializer = tf.keras.initializers.TruncatedNormal(stddev=0.02)
        return self.add_weight(name, shape=shape, initializer=initializer)

    def call(
        self, inputs: tf.Tensor, step: Any = None, bias: Optional[tf.Tensor] = None
    ) -> tf.Tensor:
        """Runs a step.

        Args:
          inputs: images [B, H, W, 3], normalised, or tokens [B, N, C].
          step: None: an image to tokens [B, 1 + R + patches, C], by way of all blocks but the last
            joint ones; a number: that one of the joint blocks; `NORM`: the final norm.
          bias: float32, broadcast to [B, heads, N, N], of a joint block's attention.

        Returns:
          tokens [B, N, C].
        """
        if step == NORM:
            return self.norm(inputs)
        joint = len(self.blocks) - self._num_joint_blocks
        if step is not None:
            return self.blocks[joint + step](inputs, bias=bias)
        x = attention.flatten_cells(self.patch_embedding(inputs))
        x += tf.cast(self.positions, x.dtype)
        before = tf.cast(tf.concat([self.class_token, self.registers], axis=1), x.dtype)
        x = tf.concat([tf.tile(before, [tf.shape(x)[0], 1, 1]), x], axis=1)
        for block in self.blocks[:joint]:
            x = block(x)
        return x


class _Block(tf.keras.layers.Layer):
    """x + scale1 attention(norm(x)), then x + scale2 mlp(norm(x)); [B, N, C] -> [B, N, C]."""

    def __init__(self, channels: int, *, num_heads: int, **kwargs: Any):
        super().__init__(**kwargs)
        norm = tf.keras.layers.LayerNormalization
        self.norm1 = norm(epsilon=_EPSILON, name="norm1")
        self.attention = attention.Attention(channels, num_heads, name="attention")
        self.norm2 = norm(epsilon=_EPSILON, name="norm2")
        self.hidden = Dense(_MLP_RATIO * channels, name="hidden")
        self.output_projection = Dense(channels, name="output")

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the scales of the two branches, [C] each."""
        shape = [input_shape[-1]]
        self.scale1 = self.add_weight("scale1", shape=shape, initializer="ones")
        self.scale2 = self.add_weight("scale2", shape=shape, initializer="ones")
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, bias: Optional[tf.Tensor] = None) -> tf.Tensor:
        """See the class."""
        x = self.norm1(inputs)
        x = inputs + tf.cast(self.scale1, inputs.dtype) * self.attention(x, x, x, bias)
        y = tf.nn.gelu(self.hidden(self.norm2(x)), approximate=False)
        return x + tf.cast(self.scale2, x.dtype) * self.output_projection(y)

"""Swin Transformers (arXiv:2103.14030): attention within windows, which every other block shifts.

A stem embeds patches of 4x4 pixels; four stages of blocks follow, at strides 4 to 32, of which the
last three first merge 2x2 cells into one of twice the channels. As in the segmentation networks of
the paper's authors, Mask2Former and MaskFormer, every level ends in a layer norm of its own, and
maps that windows do not tile are padded; maps of a single window are shifted, too, which the
classifiers' code leaves out. No classifier, no absolute positions.
"""

from __future__ import annotations

from typing import Any, Dict, Optional, Sequence

import numpy as np
import tensorflow as tf

from panoptic_tf.backbones import window_attention

_LEVELS = ("2", "3", "4", "5")
_PATCH_SIZE = 4
_MLP_RATIO = 4


def _dense(units: int, name: str, **options: Any) -> tf.keras.layers.Dense:
    initializer = window_attention.initializer()
    return tf.keras.layers.Dense(units, kernel_initializer=initializer, name=name, **options)


class _Mlp(tf.keras.layers.Layer):
    """[N, C] -> [N, C] by way of 4C channels; variables `hidden` and `output`."""

    def __init__(self, channels: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.hidden = _dense(_MLP_RATIO * channels, "hidden")
        self.output_dense = _dense(channels, "output")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """See the class."""
        return self.output_dense(tf.nn.gelu(self.hidden(inputs), approximate=False))


class SwinBlock(tf.keras.layers.Layer):
    """x + attention(norm(x)), then x + mlp(norm(x)) (equation 3); an image may skip either.

    Args:
      channels: C.
      num_heads: of the attention.
      window_size: of the attention.
      shift: of its windows, 0 for none.
      drop_path_rate: how often an image skips, in training.
      norm_epsilon: of the norms.
      **kwargs: of the Keras layer.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int,
        window_size: int,
        shift: int,
        drop_path_rate: float,
        norm_epsilon: float,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.shift = shift
        norm = tf.keras.layers.LayerNormalization
        self.norm1 = norm(epsilon=norm_epsilon, name="norm1")
        self.attention = window_attention.WindowAttention(
            channels, num_heads=num_heads, window_size=window_size, name="attention"
        )
        self.norm2 = norm(epsilon=norm_epsilon, name="norm2")
        self.mlp = _Mlp(channels, name="mlp")
        self.drop_path = tf.keras.layers.Dropout(drop_path_rate, noise_shape=(None, 1, 1, 1))

    def call(
        self,
        inputs: tf.Tensor,
        shift_mask: Optional[tf.Tensor] = None,
        training: Optional[bool] = None,
    ) -> tf.Tensor:
        """[B, H, W, C] -> [B, H, W, C]; for the mask see `WindowAttention`."""
        shape = [-1, *inputs.shape[1:]]
        y = self.attention(self.norm1(inputs), shift=self.shift, shift_mask=shift_mask)
        x = inputs + self.drop_path(y, training=training)
        y = self.mlp(self.norm2(tf.reshape(x, [-1, shape[-1]])))
        return x + self.drop_path(tf.reshape(y, shape), training=training)


class PatchMerging(tf.keras.layers.Layer):
    """[B, H, W, C] -> [B, ceil(H / 2), ceil(W / 2), 2C]: a norm and a dense layer on 2x2 cells.

    The 4C channels are those of the cells (0, 0), (0, 1), (1, 0) and (1, 1). Variables: `norm` and
    `reduction/kernel`.

    Args:
      channels: C.
      norm_epsilon: of the norm.
      **kwargs: of the Keras layer.
    """

    def __init__(self, channels: int, *, norm_epsilon: float, **kwargs: Any):
        super().__init__(**kwargs)
        self.norm = tf.keras.layers.LayerNormalization(epsilon=norm_epsilon, name="norm")
        self.reduction = _dense(2 * channels, "reduction", use_bias=False)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """See the class."""
        height, width, channels = inputs.shape[1:]
        cells = tf.reshape(window_attention.to_windows(inputs, 2, shift=0), [-1, 4 * channels])
        x = self.reduction(self.norm(cells))
        return tf.reshape(x, [-1, (height + 1) // 2, (width + 1) // 2, 2 * channels])


class _Stem(tf.keras.layers.Layer):
    """[B, H, W, 3] -> [B, ceil(H / 4), ceil(W / 4), C]: a 4x4 convolution that strides, a norm."""

    def __init__(self, width: int, *, norm_epsilon: float, **kwargs: Any):
        super().__init__(**kwargs)
        self.conv = tf.keras.layers.Conv2D(width, _PATCH_SIZE, strides=_PATCH_SIZE, name="conv")
        self.norm = tf.keras.layers.LayerNormalization(epsilon=norm_epsilon, name="norm")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """See the class."""
        bottom, right = (-size % _PATCH_SIZE for size in inputs.shape[1:3])
        if bottom or right:
            inputs = tf.pad(inputs, [[0, 0], [0, bottom], [0, right], [0, 0]])
        return self.norm(self.conv(inputs))


class _Stage(tf.keras.layers.Layer):
    """Merges patches, but for the first stage, then blocks; every second one shifts its windows."""

    def __init__(
        self,
        channels: int,
        *,
        is_merging: bool,
        drop_path_rates: Sequence[float],
        window_size: int,
        norm_epsilon: float,
        num_heads: int,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self._window_size = window_size
        self.merge = None
        if is_merging:
            self.merge = PatchMerging(channels // 2, norm_epsilon=norm_epsilon, name="merge")
        self.blocks = [
            SwinBlock(
                channels,
                num_heads=num_heads,
                window_size=window_size,
                shift=window_size // 2 if i % 2 else 0,
                drop_path_rate=rate,
                norm_epsilon=norm_epsilon,
                name=f"block{i}",
            )
            for i, rate in enumerate(drop_path_rates)
        ]

    def call(self, inputs: tf.Tensor, training: Optional[bool] = None) -> tf.Tensor:
        """[B, H, W, C'] -> [B, H', W', C]."""
        x = inputs if self.merge is None else self.merge(inputs)
        windows = tuple(-(-side // self._window_size) for side in x.shape[1:3])
        shift = self._window_size // 2
        mask = (
            window_attention.shift_mask(windows, self._window_size, shift)
            if len(self.blocks) > 1
            else None
        )
        if not self.trainable:  # What is frozen skips nothing.
            training = False
        for block in self.blocks:
            x = block(x, shift_mask=mask if block.shift else None, training=training)
        return x


@tf.keras.utils.register_keras_serializable(package="panoptic_tf")
class Swin(tf.keras.layers.Layer):
    """Images to the normalised outputs of the four stages.

    The batch may be of any size, and images too, but their size has to be known when the network
    is built.

    Variables are named `<backbone>/stem/conv/kernel`, `<backbone>/stage3/merge/reduction/kernel`,
    `<backbone>/stage3/block1/attention/qkv/kernel`, `<backbone>/stage3/block1/mlp/hidden/kernel`,
    `<backbone>/norm3/gamma`; a stage is numbered as the level it ends in.

    Args:
      width: channels of stage 2; every further stage has twice as many.
      num_blocks: of stages 2 to 5.
      num_heads: of the attention in stages 2 to 5; each divides the channels.
      window_size: 7, or 12 (weights trained on images of 384x384).
      drop_path_rate: how often an image skips the last block's attention or perceptron in training
        (stochastic depth, arXiv:1603.09382); it grows evenly from 0 at the first block.
      output_stride: 32 only.
      frozen_stages: 0 trains all, 1 freezes the stem, 2 the stem and stage 2 with its norm, ...,
        5 everything.
      norm_epsilon: of the layer norms.
      **kwargs: of the Keras layer.

    Attributes:
      output_channels: channels by level, `{'2': width, '3': 2 * width, ...}`.
      output_strides: stride by level, `{'2': 4, ...}`.
    """

    def __init__(
        self,
        *,
        width: int = 96,
        num_blocks: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        drop_path_rate: float = 0.3,
        output_stride: int = 32,
        frozen_stages: int = 0,
        norm_epsilon: float = 1e-5,
        name: str = "backbone",
        **kwargs: Any,
    ):
        super().__init__(name=name, **kwargs)
        _check(
            width=width,
            num_blocks=num_blocks,
            num_heads=num_heads,
            window_size=window_size,
            drop_path_rate=drop_path_rate,
            output_stride=output_stride,
            frozen_stages=frozen_stages,
        )
        self.stem = _Stem(width, norm_epsilon=norm_epsilon, name="stem")
        rates = np.linspace(0.0, drop_path_rate, sum(num_blocks)).tolist()
        self.stages, self.norms = [], []
        self.output_channels, self.output_strides = {}, {}
        for i, level in enumerate(_LEVELS):
            channels, first = width * 2**i, sum(num_blocks[:i])
            self.stages.append(
                _Stage(
                    channels,
                    is_merging=i > 0,
                    drop_path_rates=rates[first : first + num_blocks[i]],
                    num_heads=num_heads[i],
                    window_size=window_size,
                    norm_epsilon=norm_epsilon,
                    name=f"stage{level}",
                )
            )
            norm = tf.keras.layers.LayerNormalization(epsilon=norm_epsilon, name=f"norm{level}")
            self.norms.append(norm)
            self.output_channels[level] = channels
            self.output_strides[level] = 4 * 2**i
        self._freeze(frozen_stages)

    def _freeze(self, frozen_stages: int) -> None:
        for part in [[self.stem], *zip(self.stages, self.norms)][:frozen_stages]:
            for layer in part:
                layer.trainable = False

    @tf.autograph.experimental.do_not_convert
    def call(self, inputs: tf.Tensor, training: Optional[bool] = None) -> Dict[str, tf.Tensor]:
        """Normalised images [B, H, W, 3] -> {'2': [B, ceil(H / 4), ceil(W / 4), C], ..., '5'}.

        Raises:
          ValueError: height or width is not known.
        """
        if None in inputs.shape[1:3]:
            raise ValueError(
                "A Swin Transformer needs images of a size that is known when it is built, got "
                f"{tuple(inputs.shape)}."
            )
        x, outputs = self.stem(inputs), {}
        for level, stage, norm in zip(_LEVELS, self.stages, self.norms):
            x = stage(x, training=training)
            outputs[level] = norm(x)
        return outputs


def _check(
    *,
    width: int,
    num_blocks: Sequence[int],
    num_heads: Sequence[int],
    window_size: int,
    drop_path_rate: float,
    output_stride: int,
    frozen_stages: int,
) -> None:
    if len(num_blocks) != 4 or len(num_heads) != 4 or min(width, *num_blocks, *num_heads) < 1:
        raise ValueError(
            "width must be positive and num_blocks and num_heads four positive numbers each "
            f"(stages 2 to 5), got {width}, {tuple(num_blocks)} and {tuple(num_heads)}."
        )
    if any(width * 2**i % heads for i, heads in enumerate(num_heads)):
        raise ValueError(
            "num_heads must divide the channels of their stage, width times 1, 2, 4 and 8, got "
            f"{tuple(num_heads)} for width {width}."
        )
    if window_size < 2 or not 0.0 <= drop_path_rate < 1.0:
        raise ValueError(
            "window_size must be at least 2 and drop_path_rate at least 0 and below 1, got "
            f"{window_size} and {drop_path_rate}."
        )
    if output_stride != 32:
        raise ValueError(f"output_stride must be 32 for a Swin Transformer, got {output_stride}.")
    if not 0 <= frozen_stages <= 5:
        raise ValueError(f"frozen_stages must be 0 to 5, got {frozen_stages}.")

"""Aligned Xception as the DeepLab family modified it (arXiv:1802.02611, section 3.2 and figure 4).

Every convolution of the original Xception (arXiv:1610.02357) is separable, strides replace max
pooling, and the depthwise part has a batch norm of its own. A ReLU stands before each separable
convolution; in the last block, which has no shortcut, after both parts of each instead. The
shortcut starts before the ReLU. Padding is symmetric, and an output stride of 8 or 16 replaces
strides by dilation, from the block after the one that would have strided.

Xception-41 and Xception-71 are the published ones: 8 middle blocks instead of 16, and two more
entry blocks. The published weights were trained with a norm_epsilon of 1e-3 and images scaled to
-1..1. No classifier.
"""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence, Tuple

import tensorflow as tf

from panoptic_tf.backbones import group_norms
from panoptic_tf.layers import convolution

_LEVELS = ("2", "3", "4", "5")


class XceptionBlock(tf.keras.layers.Layer):
    """Three separable 3x3 convolutions, the last of which may stride, and a shortcut around them.

    Args:
      widths: output channels of the three.
      strides: of the last, and of the shortcut.
      dilation_rates: of the three.
      shortcut: `conv` (1x1, normalised), `identity` or `none`.
      activates_within: ReLU after both parts of each convolution, else before each convolution.
      norm_options: keywords of `ConvNormAct`.
      **kwargs: of the Keras layer.
    """

    def __init__(
        self,
        widths: Sequence[int],
        *,
        strides: int = 1,
        dilation_rates: Sequence[int] = (1, 1, 1),
        shortcut: str = "identity",
        activates_within: bool = False,
        norm_options: Dict[str, Any],
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self._activates_within = activates_within
        self._has_identity = shortcut == "identity"
        self.convs = [
            convolution.SeparableConvNormAct(
                widths[i],
                3,
                strides=strides if i == 2 else 1,
                dilation_rate=dilation_rates[i],
                activation="relu" if activates_within else None,
                name=f"conv{i + 1}",
                **norm_options,
            )
            for i in range(3)
        ]
        self.shortcut = None
        if shortcut == "conv":
            self.shortcut = convolution.ConvNormAct(
                widths[-1], strides=strides, activation=None, name="shortcut", **norm_options
            )

    def call(
        self, inputs: tf.Tensor, training: Optional[bool] = None
    ) -> Tuple[tf.Tensor, tf.Tensor]:
        """[B, H, W, C] -> [B, ceil(H / strides), ceil(W / strides), D], and after two convolutions.

        The latter is [B, H, W, C'] before a ReLU, unless the block activates within.
        """
        x = within = inputs
        for conv in self.convs:
            within = x  # at last what the third reads
            x = conv(x if self._activates_within else tf.nn.relu(x), training=training)
        if self.shortcut is not None:
            x += self.shortcut(inputs, training=training)
        elif self._has_identity:
            x += inputs
        return x, within


@tf.keras.utils.register_keras_serializable(package="panoptic_tf")
class Xception(tf.keras.layers.Layer):
    """Images to feature maps: the input of the strided convolutions, and of what follows the last.

    Levels 2, 3 and 4 are what the next block with a stride (in the undilated network) computes
    before its strided convolution: in Xception-65 after two convolutions of blocks 1, 2 and of the
    first exit block, so 256, 728 and 1024 channels. Level 5 is the output, 2048 channels. Level 2
    is what DeepLabv3+ decodes (`entry_flow/block2/unit_1/xception_module/
    separable_conv2_pointwise`; block 3 of Xception-71), and with the ReLU that follows it there.

    Variables are named `<backbone>/stem/conv1/conv/kernel`,
    `<backbone>/block_0/conv1/depthwise/conv/depthwise_kernel`,
    `<backbone>/block_0/conv1/pointwise/norm/gamma`, `<backbone>/block_0/shortcut/...`, with the
    blocks of entry, middle and exit flow counted through.

    Args:
      stem_widths: channels of the two 3x3 convolutions before the blocks; the first strides.
      entry_widths: channels of the entry flow's blocks.
      entry_strides: of these; three must be 2.
      num_middle_blocks: blocks of the middle flow, as wide as the last entry block.
      exit_widths: channels of the three convolutions of the two exit blocks; the first strides.
      activates_levels: ReLU on levels 2 to 4, as the convolution that follows has; else without,
        as the original DeepLab's decoder reads level 2.
      output_stride: 8, 16 or 32.
      multi_grid: dilation of the three convolutions of the last block, times what the output stride
        asks for.
      frozen_stages: 0 trains all, 1 freezes the stem, 2 what level 2 needs, ..., 5 everything.
      norm: a name of `normalization.build_norm`; `group` has 8 groups (728 channels).
      norm_momentum: see `normalization.build_norm`.
      norm_epsilon: see `normalization.build_norm`.
      **kwargs: of the Keras layer.

    Attributes:
      output_channels: channels by level, `{'2': 256, ...}`.
      output_strides: stride by level, `{'2': 4, ...}`.
    """

    def __init__(
        self,
        *,
        stem_widths: Sequence[int] = (32, 64),
        entry_widths: Sequence[int] = (128, 256, 728),
        entry_strides: Sequence[int] = (2, 2, 2),
        num_middle_blocks: int = 16,
        exit_widths: Sequence[Sequence[int]] = ((728, 1024, 1024), (1536, 1536, 2048)),
        activates_levels: bool = True,
        output_stride: int = 32,
        multi_grid: Optional[Sequence[int]] = None,
        frozen_stages: int = 0,
        norm: str = "batch",
        norm_momentum: float = 0.9,
        norm_epsilon: float = 1e-5,
        name: str = "backbone",
        **kwargs: Any,
    ):
        super().__init__(name=name, **kwargs)
        norm_options = {"norm": norm, "norm_momentum": norm_momentum, "norm_epsilon": norm_epsilon}
        _check(
            stem_widths=stem_widths,
            entry_widths=entry_widths,
            entry_strides=entry_strides,
            num_middle_blocks=num_middle_blocks,
            exit_widths=exit_widths,
            output_stride=output_stride,
            multi_grid=multi_grid,
            frozen_stages=frozen_stages,
        )
        self._activates_levels = activates_levels
        self.stem = _Stem(stem_widths, norm_options=norm_options, name="stem")
        self.blocks: List[XceptionBlock] = []
        self._level_blocks: Dict[str, int] = {}
        self.output_channels: Dict[str, int] = {}
        self.output_strides: Dict[str, int] = {}
        rows = [((c,) * 3, s) for c, s in zip(entry_widths, entry_strides)]
        rows += [((entry_widths[-1],) * 3, 1)] * num_middle_blocks
        rows += [(exit_widths[0], 2), (exit_widths[1], 1)]
        self._build_blocks(
            rows,
            channels=stem_widths[-1],
            output_stride=output_stride,
            multi_grid=multi_grid or (1, 1, 1),
            norm_options=norm_options,
        )
        channels = [*stem_widths, *entry_widths, *(c for widths in exit_widths for c in widths)]
        group_norms.fit_groups(self, channels, epsilon=norm_epsilon)
        self._freeze(frozen_stages)

    def _build_blocks(
        self,
        rows: Sequence[Tuple[Sequence[int], int]],
        *,
        channels: int,
        output_stride: int,
        multi_grid: Sequence[int],
        norm_options: Dict[str, Any],
    ) -> None:
        """Of the widths and strides of all blocks, and the channels before them."""
        stride, rate = 2, 1
        for i, (widths, strides) in enumerate(rows):
            is_last = i == len(rows) - 1
            if strides == 2 and stride > 2:
                self._add_level(i, channels=widths[-2], stride=stride, rate=rate)
            next_stride, next_rate = stride * strides, rate
            if next_stride > output_stride:
                next_stride, next_rate = stride, rate * strides
            needs_conv = strides > 1 or channels != widths[-1]
            grid = multi_grid if is_last else (1, 1, 1)
            self.blocks.append(
                XceptionBlock(
                    widths,
                    strides=next_stride // stride,
                    dilation_rates=[rate * dilation for dilation in grid],
                    shortcut="none" if is_last else "conv" if needs_conv else "identity",
                    activates_within=is_last,
                    norm_options=norm_options,
                    name=f"block_{i}",
                )
            )
            channels, stride, rate = widths[-1], next_stride, next_rate
        self.output_channels["5"], self.output_strides["5"] = channels, stride

    def _add_level(self, block: int, *, channels: int, stride: int, rate: int) -> None:
        """Level 2, 3 or 4 by the stride that the undilated network has before a block."""
        level = str((stride * rate).bit_length() - 1)
        self._level_blocks[level] = block
        self.output_channels[level] = channels
        self.output_strides[level] = stride

    def _freeze(self, frozen_stages: int) -> None:
        parts: List[List[tf.keras.layers.Layer]] = [[self.stem]]
        ends = set(self._level_blocks.values())
        parts.append([])
        for i, block in enumerate(self.blocks):
            rest = [] if block.shortcut is None else [block.shortcut]
            if i in ends:
                parts[-1] += block.convs[:2]
                parts.append([block.convs[2], *rest])
            else:
                parts[-1] += [*block.convs, *rest]
        for part in parts[:frozen_stages]:
            for layer in part:
                layer.trainable = False

    @tf.autograph.experimental.do_not_convert
    def call(self, inputs: tf.Tensor, training: Optional[bool] = None) -> Dict[str, tf.Tensor]:
        """Normalised images [B, H, W, 3] -> {'2': [B, ceil(H / 4), ceil(W / 4), C], ..., '5'}."""
        x = self.stem(inputs, training=training)
        levels = {block: level for level, block in self._level_blocks.items()}
        outputs = {}
        for i, block in enumerate(self.blocks):
            x, within = block(x, training=training)
            if i in levels:
                outputs[levels[i]] = tf.nn.relu(within) if self._activates_levels else within
        return {**outputs, "5": x}


class _Stem(tf.keras.layers.Layer):
    """[B, H, W, 3] -> [B, ceil(H / 2), ceil(W / 2), C]: two 3x3 convolutions."""

    def __init__(self, widths: Sequence[int], *, norm_options: Dict[str, Any], **kwargs: Any):
        super().__init__(**kwargs)
        conv = convolution.ConvNormAct
        self.convs = [
            conv(widths[0], 3, strides=2, name="conv1", **norm_options),
            conv(widths[1], 3, name="conv2", **norm_options),
        ]

    def call(self, inputs: tf.Tensor, training: Optional[bool] = None) -> tf.Tensor:
        """See the class."""
        x = inputs
        for conv in self.convs:
            x = conv(x, training=training)
        return x


def _check(
    *,
    stem_widths: Sequence[int],
    entry_widths: Sequence[int],
    entry_strides: Sequence[int],
    num_middle_blocks: int,
    exit_widths: Sequence[Sequence[int]],
    output_stride: int,
    multi_grid: Optional[Sequence[int]],
    frozen_stages: int,
) -> None:
    expected_strides = [1] * (len(entry_widths) - 3) + [2, 2, 2]
    if sorted(entry_strides) != expected_strides:
        raise ValueError(
            "entry_widths and entry_strides must be of one length, three strides 2 and the others "
            f"1, got {tuple(entry_widths)} and {tuple(entry_strides)}."
        )
    if len(stem_widths) != 2 or [len(widths) for widths in exit_widths] != [3, 3]:
        raise ValueError(
            "stem_widths must be two numbers and exit_widths two times three, got "
            f"{tuple(stem_widths)} and {tuple(exit_widths)}."
        )
    if num_middle_blocks < 0:
        raise ValueError(f"num_middle_blocks must not be negative, got {num_middle_blocks}.")
    if output_stride not in (8, 16, 32):
        raise ValueError(f"output_stride must be 8, 16 or 32, got {output_stride}.")
    if multi_grid and len(multi_grid) != 3:
        raise ValueError(
            "multi_grid must hold one dilation for each of the 3 convolutions of the last block, "
            f"got {tuple(multi_grid)}."
        )
    if not 0 <= frozen_stages <= 5:
        raise ValueError(f"frozen_stages must be 0 to 5, got {frozen_stages}.")

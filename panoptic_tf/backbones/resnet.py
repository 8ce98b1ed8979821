"""Residual networks (arXiv:1512.03385) as detection and segmentation use them, ResNeXt too.

Padding is symmetric, the stride sits in the 1x1 or the 3x3 convolution, the deep stem is DeepLab's
(three 3x3 convolutions), and an output stride of 8 or 16 replaces strides by dilation
(DeepLabv3, arXiv:1706.05587). ResNeXt (arXiv:1611.05431) groups the 3x3 convolutions of wider
bottlenecks. Deformable ConvNets (arXiv:1703.06211, arXiv:1811.11168) move the taps of the 3x3
convolutions of some stages. No classifier.
"""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Type

import tensorflow as tf

from panoptic_tf.backbones.resnet_checks import STAGES, check_resnet
from panoptic_tf.layers import convolution, deformable


class Stem(tf.keras.layers.Layer):
    """[B, H, W, 3] -> [B, ceil(H / 4), ceil(W / 4), C]: convolutions, then 3x3 max pooling.

    Without the pooling the result has stride 2.

    Args:
      kind: `basic`, one 7x7 with `width` channels, or `deep`, three 3x3 with `width`, `width` and
        2 * `width` channels.
      width: see above.
      has_pooling: see above.
      norm_options: keywords of `ConvNormAct`.
      **kwargs: of the Keras layer.
    """

    def __init__(
        self,
        kind: str,
        *,
        width: int,
        has_pooling: bool = True,
        norm_options: Dict[str, Any],
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self._has_pooling = has_pooling
        if kind not in ("basic", "deep"):
            raise ValueError(f"stem must be 'basic' or 'deep', got {kind!r}.")
        conv = convolution.ConvNormAct
        self.output_channels = 2 * width if kind == "deep" else width
        if kind == "basic":
            self.convs = [conv(width, 7, strides=2, name="conv1", **norm_options)]
        else:
            self.convs = [
                conv(width, 3, strides=2, name="conv1", **norm_options),
                conv(width, 3, name="conv2", **norm_options),
                conv(2 * width, 3, name="conv3", **norm_options),
            ]

    def call(self, inputs: tf.Tensor, training: Optional[bool] = None) -> tf.Tensor:
        """See the class."""
        x = inputs
        for conv in self.convs:
            x = conv(x, training=training)
        if not self._has_pooling:
            return x
        # After ReLU zero is as good as minus infinity.
        x = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
        return tf.nn.max_pool2d(x, ksize=3, strides=2, padding="VALID")


class _Block(tf.keras.layers.Layer):
    """Residual plus shortcut, then ReLU; a subclass fills `convs`."""

    def __init__(
        self,
        *,
        output_channels: int,
        has_projection: bool,
        strides: int,
        norm_options: Dict[str, Any],
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.convs = []
        self.shortcut = None
        if has_projection:
            self.shortcut = convolution.ConvNormAct(
                output_channels, strides=strides, activation=None, name="shortcut", **norm_options
            )

    def call(self, inputs: tf.Tensor, training: Optional[bool] = None) -> tf.Tensor:
        """[B, H, W, C] -> [B, ceil(H / strides), ceil(W / strides), output channels]."""
        x = inputs
        for conv in self.convs:
            x = conv(x, training=training)
        if self.shortcut is not None:
            inputs = self.shortcut(inputs, training=training)
        return tf.nn.relu(x + inputs)


def _conv3x3(
    filters: int, *, deformable_version: int, groups: int = 1, **options: Any
) -> tf.keras.layers.Layer:
    if not deformable_version:
        return convolution.ConvNormAct(filters, 3, groups=groups, **options)
    return deformable.DeformableConvNormAct(
        filters, 3, modulated=deformable_version == 2, **options
    )


class BasicBlock(_Block):
    """Two 3x3 convolutions.

    Args:
      width: channels.
      strides: of the first convolution.
      dilation_rate: of both.
      has_projection: whether the shortcut is a 1x1 convolution.
      deformable_version: of the second convolution: 0 (an ordinary one), 1 or 2.
      norm_options: keywords of `ConvNormAct`.
      **kwargs: of the Keras layer.
    """

    EXPANSION = 1

    def __init__(
        self,
        width: int,
        *,
        strides: int = 1,
        dilation_rate: int = 1,
        has_projection: bool = False,
        deformable_version: int = 0,
        norm_options: Dict[str, Any],
        **kwargs: Any,
    ):
        super().__init__(
            output_channels=width,
            has_projection=has_projection,
            strides=strides,
            norm_options=norm_options,
            **kwargs,
        )
        options = {"dilation_rate": dilation_rate, **norm_options}
        second = {"deformable_version": deformable_version, "activation": None, **options}
        self.convs = [
            convolution.ConvNormAct(width, 3, strides=strides, name="conv1", **options),
            _conv3x3(width, name="conv2", **second),
        ]


class BottleneckBlock(_Block):
    """1x1, 3x3, 1x1 convolutions.

    The first two have groups * width_per_group / 64 * width channels, which is the width itself in
    a ResNet, and the last has 4 * width.

    Args:
      width: see above.
      groups: of the 3x3.
      width_per_group: channels of a group in a block of width 64.
      strides: of the block.
      dilation_rate: of the 3x3.
      has_projection: whether the shortcut is a 1x1 convolution.
      stride_in_1x1: the first 1x1 strides (MSRA's weights), else the 3x3.
      deformable_version: of the 3x3: 0 (an ordinary one), 1 or 2; groups must be 1 with the latter.
      norm_options: keywords of `ConvNormAct`.
      **kwargs: of the Keras layer.
    """

    EXPANSION = 4

    def __init__(
        self,
        width: int,
        *,
        groups: int = 1,
        width_per_group: int = 64,
        strides: int = 1,
        dilation_rate: int = 1,
        has_projection: bool = False,
        stride_in_1x1: bool = False,
        deformable_version: int = 0,
        norm_options: Dict[str, Any],
        **kwargs: Any,
    ):
        super().__init__(
            output_channels=width * self.EXPANSION,
            has_projection=has_projection,
            strides=strides,
            norm_options=norm_options,
            **kwargs,
        )
        first, second = (strides, 1) if stride_in_1x1 else (1, strides)
        inner = groups * (width_per_group * width // 64)
        conv, options = convolution.ConvNormAct, norm_options
        spatial = {"strides": second, "dilation_rate": dilation_rate, "groups": groups}
        spatial["deformable_version"] = deformable_version
        self.convs = [
            conv(inner, 1, strides=first, name="conv1", **options),
            _conv3x3(inner, name="conv2", **spatial, **options),
            conv(width * self.EXPANSION, 1, activation=None, name="conv3", **options),
        ]


BLOCKS: Dict[str, Type[_Block]] = {"basic": BasicBlock, "bottleneck": BottleneckBlock}


@tf.keras.utils.register_keras_serializable(package="panoptic_tf")
class ResNet(tf.keras.layers.Layer):
    """Images to the feature maps of the four stages.

    Variables are named `<backbone>/stem/conv1/conv/kernel`, `<backbone>/res2_0/conv1/norm/gamma`,
    `<backbone>/res2_0/shortcut/...`.

    Args:
      block: `basic` or `bottleneck`.
      num_blocks: blocks of stages 2 to 5.
      widths: channels of the stages' blocks; a bottleneck's output has four times as many.
      groups: of the bottlenecks' 3x3 convolutions, 1 is ResNet.
      width_per_group: see `BottleneckBlock`.
      stem: `basic` (7x7) or `deep` (three 3x3).
      stem_width: channels of the stem's first convolution.
      output_stride: 8, 16 or 32.
      has_pooling: a max pooling ends the stem, else stage 2 strides (deeplab2's weights).
      dilates_first_blocks: where a stage dilates instead of striding, its first block does so, too;
        else it dilates as the stage before: what deeplab2 and torchvision do, and exactly the
        strided network, read at every cell instead of every second.
      multi_grid: dilation of the blocks of stage 5, times what the output stride asks for.
      stride_in_1x1: see `BottleneckBlock`.
      deformable_stages: stages, of 2 to 5, whose 3x3 convolution (of a basic block the second) is
        deformable; at first an ordinary one, in version 2 half of it.
      deformable_version: 1, or 2 for modulated ones.
      frozen_stages: 0 trains all, 1 freezes the stem, 2 the stem and stage 2, ..., 5 everything.
      norm: a name of `normalization.build_norm`.
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
        block: str = "bottleneck",
        num_blocks: Sequence[int] = (3, 4, 6, 3),
        widths: Sequence[int] = (64, 128, 256, 512),
        groups: int = 1,
        width_per_group: int = 64,
        stem: str = "basic",
        stem_width: int = 64,
        output_stride: int = 32,
        has_pooling: bool = True,
        dilates_first_blocks: bool = True,
        multi_grid: Optional[Sequence[int]] = None,
        stride_in_1x1: bool = False,
        deformable_stages: Sequence[int] = (),
        deformable_version: int = 2,
        frozen_stages: int = 0,
        norm: str = "batch",
        norm_momentum: float = 0.9,
        norm_epsilon: float = 1e-5,
        name: str = "backbone",
        **kwargs: Any,
    ):
        super().__init__(name=name, **kwargs)
        check_resnet(
            block=block,
            known_blocks=tuple(BLOCKS),
            num_blocks=num_blocks,
            widths=widths,
            groups=groups,
            width_per_group=width_per_group,
            output_stride=output_stride,
            multi_grid=multi_grid,
            deformable_stages=deformable_stages,
            deformable_version=deformable_version,
            frozen_stages=frozen_stages,
        )
        norm_options = {"norm": norm, "norm_momentum": norm_momentum, "norm_epsilon": norm_epsilon}
        options: Dict[str, Any] = {"norm_options": norm_options}
        self.stem = Stem(stem, width=stem_width, has_pooling=has_pooling, name="stem", **options)
        if block == "bottleneck":
            options.update(
                groups=groups, width_per_group=width_per_group, stride_in_1x1=stride_in_1x1
            )
        self.stages = []
        self.output_channels = {}
        self.output_strides = {}
        channels = self.stem.output_channels
        plan = _plan_stages(
            num_blocks,
            stride=4 if has_pooling else 2,
            output_stride=output_stride,
            dilates_first_blocks=dilates_first_blocks,
            multi_grid=multi_grid,
        )
        for level, width, stage in zip(STAGES, widths, plan):
            self.stages.append(
                _build_stage(
                    BLOCKS[block],
                    f"res{level}",
                    width=width,
                    channels=channels,
                    strides=stage.strides,
                    dilations=stage.dilations,
                    deformable_version=deformable_version if level in deformable_stages else 0,
                    **options,
                )
            )
            channels = width * BLOCKS[block].EXPANSION
            self.output_channels[str(level)] = channels
            self.output_strides[str(level)] = stage.output_stride
        self._freeze(frozen_stages)

    def _freeze(self, frozen_stages: int) -> None:
        for part in [[self.stem], *self.stages][:frozen_stages]:
            for layer in part:
                layer.trainable = False

    # Nothing here depends on data, and without AutoGraph a network builds ten times faster.
    @tf.autograph.experimental.do_not_convert
    def call(self, inputs: tf.Tensor, training: Optional[bool] = None) -> Dict[str, tf.Tensor]:
        """Normalised images [B, H, W, 3] -> {'2': [B, ceil(H / 4), ceil(W / 4), C], ..., '5'}."""
        x = self.stem(inputs, training=training)
        outputs = {}
        for level, blocks in zip(STAGES, self.stages):
            for block in blocks:
                x = block(x, training=training)
            outputs[str(level)] = x
        return outputs


class _Stage(NamedTuple):
    """Stride of the first block, dilation of each, and the stride of the network up to here."""

    strides: int
    dilations: List[int]
    output_stride: int


def _plan_stages(
    num_blocks: Sequence[int],
    *,
    stride: int,
    output_stride: int,
    dilates_first_blocks: bool,
    multi_grid: Optional[Sequence[int]],
) -> List[_Stage]:
    """Stages behind a stem of some stride; beyond the output stride they dilate instead."""
    stages, dilation = [], 1
    for level, count in zip(STAGES, num_blocks):
        strides, first_dilation = 1 if stride == 4 and level == 2 else 2, dilation
        if stride * strides > output_stride:
            strides, dilation = 1, 2 * dilation
        stride *= strides
        first = dilation if dilates_first_blocks else first_dilation
        grid = multi_grid if level == 5 and multi_grid else [1] * count
        dilations = [(dilation if i else first) * rate for i, rate in enumerate(grid)]
        stages.append(_Stage(strides, dilations, stride))
    return stages


def _build_stage(
    block: Type[_Block],
    name: str,
    *,
    width: int,
    channels: int,
    strides: int,
    dilations: Sequence[int],
    **options: Any,
) -> List[_Block]:
    """Blocks of a stage that gets `channels`, with a dilation each; the first of them strides."""
    blocks = []
    for i, dilation in enumerate(dilations):
        is_first = i == 0
        blocks.append(
            block(
                width,
                strides=strides if is_first else 1,
                dilation_rate=dilation,
                has_projection=is_first and (strides > 1 or channels != width * block.EXPANSION),
                name=f"{name}_{i}",
                **options,
            )
        )
    return blocks

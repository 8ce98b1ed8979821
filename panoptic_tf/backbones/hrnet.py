"""High-resolution networks (arXiv:1908.07919): four resolutions side by side, fused repeatedly.

A stem to stride 4 and a stage of bottlenecks, then stages of two, three and four branches, the
branch at stride 4 * 2^i with 2^i * width channels. A stage is a sequence of modules: residual
blocks on each branch, then every branch gets the sum of all, brought to its own size by strided 3x3
convolutions or by 1x1 convolutions and repeated cells. The segmentation networks of the paper's
authors resize bilinearly where ImageNet's classifiers, and detection, repeat: `upsampling` chooses.
No classifier, and none of the convolutions that widen the branches before it.
"""

from __future__ import annotations

import functools
from typing import Any, Dict, List, Optional, Sequence

import tensorflow as tf

from panoptic_tf.backbones import group_norms, resnet
from panoptic_tf.layers import convolution, resize

UPSAMPLINGS = ("nearest", "bilinear")
_STEM_WIDTH = 64


class _Chain(tf.keras.layers.Layer):
    """Layers one after the other, named below this one."""

    def __init__(self, layers: Sequence[tf.keras.layers.Layer], **kwargs: Any):
        super().__init__(**kwargs)
        self.layers = list(layers)

    def call(self, inputs: tf.Tensor, training: Optional[bool] = None) -> tf.Tensor:
        """See the class."""
        x = inputs
        for layer in self.layers:
            x = layer(x, training=training)
        return x


class HighResolutionModule(tf.keras.layers.Layer):
    """Residual blocks on each branch, then the sum of all branches on each.

    Args:
      widths: channels of the branches, finest first.
      num_blocks: basic blocks of each branch.
      upsampling: `nearest` or `bilinear`.
      norm_options: keywords of `ConvNormAct`.
      **kwargs: of the Keras layer.
    """

    def __init__(
        self,
        widths: Sequence[int],
        *,
        num_blocks: int,
        upsampling: str,
        norm_options: Dict[str, Any],
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self._upsampling = upsampling
        self._norm_options = norm_options
        block = resnet.BasicBlock
        self.branches = [
            [
                block(width, norm_options=norm_options, name=f"branch{i}_{k}")
                for k in range(num_blocks)
            ]
            for i, width in enumerate(widths)
        ]
        # To branch i from branch j, finest first.
        self.fusions = [
            [self._build_fusion(widths, i, j) for j in range(len(widths))]
            for i in range(len(widths))
        ]

    def _build_fusion(self, widths: Sequence[int], i: int, j: int) -> List[convolution.ConvNormAct]:
        conv, options = convolution.ConvNormAct, self._norm_options
        if j == i:
            return []
        if j > i:
            return [conv(widths[i], activation=None, name=f"fuse{i}_{j}_0", **options)]
        steps = i - j
        return [
            conv(
                widths[i] if k == steps - 1 else widths[j],
                3,
                strides=2,
                activation=None if k == steps - 1 else "relu",
                name=f"fuse{i}_{j}_{k}",
                **options,
            )
            for k in range(steps)
        ]

    def call(self, inputs: Sequence[tf.Tensor], training: Optional[bool] = None) -> List[tf.Tensor]:
        """[B, H / 2^i, W / 2^i, widths[i]] by branch -> the same."""
        branches = []
        for x, blocks in zip(inputs, self.branches):
            for block in blocks:
                x = block(x, training=training)
            branches.append(x)
        outputs = []
        for i, fusions in enumerate(self.fusions):
            terms = []
            for j, convs in enumerate(fusions):
                x = branches[j]
                for conv in convs:
                    x = conv(x, training=training)
                terms.append(self._upsample(x, branches[i], 2 ** (j - i)) if j > i else x)
            outputs.append(tf.nn.relu(functools.reduce(tf.add, terms)))
        return outputs

    def _upsample(self, x: tf.Tensor, reference: tf.Tensor, factor: int) -> tf.Tensor:
        if self._upsampling == "bilinear":
            return resize.upsample_like(x, reference)
        return resize.repeat_like(x, reference, factor)


@tf.keras.utils.register_keras_serializable(package="panoptic_tf")
class HRNet(tf.keras.layers.Layer):
    """Images to the four branches of the last stage.

    Any image size works: a map that is repeated beyond an odd size loses its last row or column.

    Variables are named `<backbone>/stem/conv1/conv/kernel`, `<backbone>/stage1_0/conv1/...` (the
    bottlenecks), `<backbone>/transition2_0/conv/kernel` (to branch 0 of stage 2),
    `<backbone>/stage2_0/branch1_3/conv2/norm/gamma` (module 0, branch 1, block 3) and
    `<backbone>/stage3_1/fuse2_0_1/conv/kernel` (to branch 2 from 0, the second convolution).

    Args:
      width: channels of the finest branch; 18, 32 and 48 are published.
      num_modules: of stages 2, 3 and 4.
      num_blocks: basic blocks of every branch in a module.
      stage1_blocks: bottlenecks of stage 1.
      stage1_width: channels of these; their output has four times as many.
      upsampling: `nearest` (the published ImageNet weights) or `bilinear`.
      output_stride: 32 only.
      frozen_stages: 0 trains all, 1 freezes the stem, 2 stage 1 too, 3 stage 2 with what leads to
        it, 4 stage 3, 5 everything. These are not levels: the levels are all of stage 4.
      norm: a name of `normalization.build_norm`; `group` has as many groups as divide the width.
      norm_momentum: see `normalization.build_norm`.
      norm_epsilon: see `normalization.build_norm`.
      **kwargs: of the Keras layer.

    Attributes:
      output_channels: channels by level, `{'2': width, '3': 2 * width, ...}`.
      output_strides: stride by level, `{'2': 4, ...}`.
    """

    def __init__(
        self,
        *,
        width: int = 48,
        num_modules: Sequence[int] = (1, 4, 3),
        num_blocks: int = 4,
        stage1_blocks: int = 4,
        stage1_width: int = 64,
        upsampling: str = "nearest",
        output_stride: int = 32,
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
            width=width,
            num_modules=num_modules,
            num_blocks=num_blocks,
            stage1_blocks=stage1_blocks,
            upsampling=upsampling,
            output_stride=output_stride,
            frozen_stages=frozen_stages,
        )
        conv, widths = convolution.ConvNormAct, [width * 2**i for i in range(4)]
        stage1_output = stage1_width * resnet.BottleneckBlock.EXPANSION
        self.stem = _Chain(
            [
                conv(_STEM_WIDTH, 3, strides=2, name="conv1", **norm_options),
                conv(_STEM_WIDTH, 3, strides=2, name="conv2", **norm_options),
            ],
            name="stem",
        )
        self.stage1 = [
            resnet.BottleneckBlock(
                stage1_width,
                has_projection=i == 0 and stage1_output != _STEM_WIDTH,
                norm_options=norm_options,
                name=f"stage1_{i}",
            )
            for i in range(stage1_blocks)
        ]
        self.transitions = [
            _build_transition(stage, widths, norm_options=norm_options) for stage in (2, 3, 4)
        ]
        self.stages = [
            [
                HighResolutionModule(
                    widths[: i + 2],
                    num_blocks=num_blocks,
                    upsampling=upsampling,
                    norm_options=norm_options,
                    name=f"stage{i + 2}_{k}",
                )
                for k in range(count)
            ]
            for i, count in enumerate(num_modules)
        ]
        self.output_channels = {str(i + 2): channels for i, channels in enumerate(widths)}
        self.output_strides = {str(i + 2): 4 * 2**i for i in range(4)}
        channels = (_STEM_WIDTH, stage1_width, *widths)
        group_norms.fit_groups(self, channels, epsilon=norm_epsilon)
        self._freeze(frozen_stages)

    def _freeze(self, frozen_stages: int) -> None:
        parts = [[self.stem], self.stage1]
        parts += [[*convs, *modules] for convs, modules in zip(self.transitions, self.stages)]
        for part in parts[:frozen_stages]:
            for layer in part:
                layer.trainable = False

    @tf.autograph.experimental.do_not_convert
    def call(self, inputs: tf.Tensor, training: Optional[bool] = None) -> Dict[str, tf.Tensor]:
        """Normalised images [B, H, W, 3] -> {'2': [B, ceil(H / 4), ceil(W / 4), C], ..., '5'}."""
        x = self.stem(inputs, training=training)
        for block in self.stage1:
            x = block(x, training=training)
        branches = [x]
        for transition, modules in zip(self.transitions, self.stages):
            new = [conv(branches[-1], training=training) for conv in transition]
            branches = new if len(branches) == 1 else [*branches, *new]
            for module in modules:
                branches = module(branches, training=training)
        return {str(i + 2): x for i, x in enumerate(branches)}


def _build_transition(
    stage: int, widths: Sequence[int], *, norm_options: Dict[str, Any]
) -> List[convolution.ConvNormAct]:
    """The new branch from the last one; before stage 2 the first branch from stage 1 too."""
    conv = convolution.ConvNormAct
    first = [conv(widths[0], 3, name="transition2_0", **norm_options)] if stage == 2 else []
    name = f"transition{stage}_{stage - 1}"
    return [*first, conv(widths[stage - 1], 3, strides=2, name=name, **norm_options)]


def _check(
    *,
    width: int,
    num_modules: Sequence[int],
    num_blocks: int,
    stage1_blocks: int,
    upsampling: str,
    output_stride: int,
    frozen_stages: int,
) -> None:
    if min(width, num_blocks, stage1_blocks) < 1 or len(num_modules) != 3 or min(num_modules) < 1:
        raise ValueError(
            "width, num_blocks and stage1_blocks must be positive and num_modules three positive "
            f"numbers (stages 2 to 4), got {width}, {num_blocks}, {stage1_blocks} and "
            f"{tuple(num_modules)}."
        )
    if upsampling not in UPSAMPLINGS:
        raise ValueError(f"upsampling must be one of {', '.join(UPSAMPLINGS)}, got {upsampling!r}.")
    if output_stride != 32:
        raise ValueError(
            f"output_stride must be 32 for an HRNet, whose finest branch is at stride 4 anyway, "
            f"got {output_stride}."
        )
    if not 0 <= frozen_stages <= 5:
        raise ValueError(f"frozen_stages must be 0 to 5, got {frozen_stages}.")

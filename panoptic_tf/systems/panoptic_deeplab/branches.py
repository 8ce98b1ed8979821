"""The two branches of Panoptic-DeepLab (arXiv:1911.10194, figure 2): ASPP, decoder, heads each.

Recorded structure: detectron2's Panoptic-DeepLab; its parameter counts are ours.
"""

from __future__ import annotations

from typing import Any, Dict, Optional, Sequence

import tensorflow as tf

from panoptic_tf.layers.aspp import ASPP
from panoptic_tf.layers.convolution import ConvNormAct, SeparableConvNormAct
from panoptic_tf.layers.resize import upsample_like


class WideConv(tf.keras.layers.Layer):
    """A 5x5 receptive field: one 5x5 depthwise-separable convolution, or two plain 3x3.

    Args:
      channels: of the output.
      hidden_channels: between the two 3x3; None is `channels`.
      use_separable_conv: see above.
      norm_options: keywords of `ConvNormAct`.
      **kwargs: of the Keras layer.
    """

    def __init__(
        self,
        channels: int,
        *,
        hidden_channels: Optional[int] = None,
        use_separable_conv: bool,
        norm_options: Dict[str, Any],
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if use_separable_conv:
            self.convs = [SeparableConvNormAct(channels, 5, name="separable", **norm_options)]
        else:
            options = {"kernel_initializer": "xavier", **norm_options}
            self.convs = [
                ConvNormAct(hidden_channels or channels, 3, name="conv1", **options),
                ConvNormAct(channels, 3, name="conv2", **options),
            ]

    def call(self, inputs: tf.Tensor, training: Optional[bool] = None) -> tf.Tensor:
        """[B, H, W, C] -> [B, H, W, channels]."""
        x = inputs
        for conv in self.convs:
            x = conv(x, training=training)
        return x


class Decoder(tf.keras.layers.Layer):
    """ASPP on level 5, then one fusion with each low-level feature, deepest first.

    Args:
      low_level_features: names of the backbone's levels.
      low_level_channels: to which each is projected.
      decoder_channels: of every fusion.
      use_separable_conv: in the fusions.
      align_corners: how features are resized; see `resize`.
      norm_options: keywords of `ConvNormAct`.
      aspp: further arguments of `ASPP`.
      **kwargs: of the Keras layer.
    """

    def __init__(
        self,
        *,
        low_level_features: Sequence[str],
        low_level_channels: Sequence[int],
        decoder_channels: int,
        use_separable_conv: bool,
        norm_options: Dict[str, Any],
        align_corners: bool = False,
        aspp: Dict[str, Any],
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self._levels = tuple(low_level_features)
        self._align_corners = align_corners
        self.aspp = ASPP(align_corners=align_corners, name="aspp", **norm_options, **aspp)
        options = {"kernel_initializer": "xavier", **norm_options}
        self.projections = [
            ConvNormAct(channels, name=f"project_{level}", **options)
            for level, channels in zip(self._levels, low_level_channels)
        ]
        self.fusions = [
            WideConv(
                decoder_channels,
                use_separable_conv=use_separable_conv,
                norm_options=norm_options,
                name=f"fuse_{level}",
            )
            for level in self._levels
        ]

    def call(self, inputs: Dict[str, tf.Tensor], training: Optional[bool] = None) -> tf.Tensor:
        """{'2': [B, H/4, W/4, C], ...} -> [B, H/4, W/4, decoder_channels]."""
        x = self.aspp(inputs["5"], training=training)
        for level, project, fuse in zip(self._levels, self.projections, self.fusions):
            low = project(inputs[level], training=training)
            x = upsample_like(x, low, align_corners=self._align_corners)
            x = tf.concat([low, x], axis=-1)
            x = fuse(x, training=training)
        return x


def _predictor(channels: int) -> tf.keras.layers.Layer:
    """1x1 convolution with bias; the output is float32 under every policy."""
    return tf.keras.layers.Conv2D(
        channels,
        1,
        kernel_initializer=tf.keras.initializers.RandomNormal(stddev=0.001),
        dtype=tf.float32,
        name="predictor",
    )


class Head(tf.keras.layers.Layer):
    """A `WideConv` and a 1x1 predictor.

    Args:
      outputs: channels predicted.
      head_channels: channels before the predictor.
      decoder_channels: of the input, and between two plain convolutions.
      use_separable_conv: see `WideConv`.
      norm_options: keywords of `ConvNormAct`.
      **kwargs: of the Keras layer.
    """

    def __init__(
        self,
        outputs: int,
        *,
        head_channels: int,
        decoder_channels: int,
        use_separable_conv: bool,
        norm_options: Dict[str, Any],
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.conv = WideConv(
            head_channels,
            hidden_channels=decoder_channels,
            use_separable_conv=use_separable_conv,
            norm_options=norm_options,
            name="conv",
        )
        self.predictor = _predictor(outputs)

    def call(self, inputs: tf.Tensor, training: Optional[bool] = None) -> tf.Tensor:
        """[B, h, w, C] -> float32 [B, h, w, outputs]."""
        return self.predictor(self.conv(inputs, training=training))


class SemanticBranch(tf.keras.layers.Layer):
    """Decoder and semantic head.

    Args:
      num_categories: channels of the logits.
      head_channels: see `Head`.
      decoder: arguments of `Decoder`.
      **kwargs: of the Keras layer.
    """

    def __init__(
        self, num_categories: int, *, head_channels: int, decoder: Dict[str, Any], **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.decoder = Decoder(name="decoder", **decoder)
        self.head = Head(
            num_categories,
            head_channels=head_channels,
            decoder_channels=decoder["decoder_channels"],
            use_separable_conv=decoder["use_separable_conv"],
            norm_options=decoder["norm_options"],
            name="semantic_head",
        )

    def call(
        self, inputs: Dict[str, tf.Tensor], training: Optional[bool] = None
    ) -> Dict[str, tf.Tensor]:
        """Levels -> `semantic_logits` float32 [B, H/4, W/4, N]."""
        x = self.decoder(inputs, training=training)
        return {"semantic_logits": self.head(x, training=training)}


class InstanceBranch(tf.keras.layers.Layer):
    """Decoder, center head and offset head.

    Args:
      output_stride: of the heads, to turn cells into pixels.
      head_channels: see `Head`.
      decoder: arguments of `Decoder`.
      center_use_separable_conv: as of `WideConv`; detectron2's keeps plain 3x3 convolutions in this
        head even where the rest is separable.
      **kwargs: of the Keras layer.
    """

    def __init__(
        self,
        *,
        output_stride: int,
        head_channels: int,
        decoder: Dict[str, Any],
        center_use_separable_conv: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self._output_stride = float(output_stride)
        self.decoder = Decoder(name="decoder", **decoder)
        options = {
            "head_channels": head_channels,
            "decoder_channels": decoder["decoder_channels"],
            "norm_options": decoder["norm_options"],
        }
        self.center_head = Head(
            1, use_separable_conv=center_use_separable_conv, name="center_head", **options
        )
        self.offset_head = Head(
            2, use_separable_conv=decoder["use_separable_conv"], name="offset_head", **options
        )

    def call(
        self, inputs: Dict[str, tf.Tensor], training: Optional[bool] = None
    ) -> Dict[str, tf.Tensor]:
        """Levels -> `center_heatmap` [B, h, w, 1], `offsets` [B, h, w, 2] in input pixels."""
        x = self.decoder(inputs, training=training)
        offsets = self.offset_head(x, training=training)
        return {
            "center_heatmap": self.center_head(x, training=training),
            "offsets": offsets * self._output_stride,
        }

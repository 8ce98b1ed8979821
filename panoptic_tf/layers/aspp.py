"""Atrous spatial pyramid pooling (DeepLabv3, arXiv:1706.05587; DeepLabv3+, arXiv:1802.02611)."""

from __future__ import annotations

from typing import Any, Optional, Sequence

import tensorflow as tf

from panoptic_tf.layers import convolution, resize


@tf.keras.utils.register_keras_serializable(package="panoptic_tf")
class ASPP(tf.keras.layers.Layer):
    """One 1x1, three dilated 3x3 and one image pooling branch, concatenated and projected.

    Image pooling: average over the whole map, or over a fixed window moved by one cell, then a 1x1
    convolution and activation, then bilinear resizing to the input's size. A fixed window ties the
    statistics to the training crop: window = crop / output stride.

    Args:
      filters: channels of every branch and of the output.
      dilation_rates: of the three 3x3 branches.
      use_separable_conv: the three 3x3 branches are depthwise-separable.
      pool_size: (height, width) of the pooling window in cells, or None: the whole map.
      pool_norm: norm of the pooling branch; none (and a bias) in the published networks.
      align_corners: how the pooling branch is resized; see `resize`.
      dropout_rate: after the projection.
      norm: a name of `normalization.build_norm`.
      activation: of all branches and the projection.
      kernel_initializer: see `convolution.build_initializer`.
      norm_momentum: see `normalization.build_norm`.
      norm_epsilon: see `normalization.build_norm`.
      **kwargs: of the Keras layer.
    """

    def __init__(
        self,
        filters: int = 256,
        *,
        dilation_rates: Sequence[int] = (6, 12, 18),
        use_separable_conv: bool = False,
        pool_size: Optional[Sequence[int]] = None,
        pool_norm: str = "none",
        align_corners: bool = False,
        dropout_rate: float = 0.1,
        norm: str = "batch",
        activation: Any = "relu",
        kernel_initializer: convolution.Initializer = "xavier",
        norm_momentum: float = 0.9,
        norm_epsilon: float = 1e-5,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        common = {
            "activation": activation,
            "kernel_initializer": kernel_initializer,
            "norm_momentum": norm_momentum,
            "norm_epsilon": norm_epsilon,
        }
        self._align_corners = align_corners
        self._pool_size = tuple(pool_size) if pool_size else None
        separable = convolution.SeparableConvNormAct
        dilated = separable if use_separable_conv else convolution.ConvNormAct
        self.branches = [convolution.ConvNormAct(filters, norm=norm, name="branch_0", **common)]
        for i, rate in enumerate(dilation_rates, start=1):
            self.branches.append(
                dilated(filters, 3, dilation_rate=rate, norm=norm, name=f"branch_{i}", **common)
            )
        self.pool = convolution.ConvNormAct(filters, norm=pool_norm, name="pool", **common)
        self.project = convolution.ConvNormAct(filters, norm=norm, name="project", **common)
        self.dropout = tf.keras.layers.Dropout(dropout_rate, name="dropout")

    def build(self, input_shape: tf.TensorShape) -> None:
        """Checks that the pooling window fits.

        Raises:
          ValueError: the feature map is smaller than the window.
        """
        sizes = zip(input_shape[1:3], self._pool_size or (1, 1))
        if any(size is not None and size < window for size, window in sizes):
            raise ValueError(
                f"{self.name}: pool_size {self._pool_size} does not fit into a feature map of "
                f"{tuple(input_shape[1:3])} cells. Use a smaller window, or None for the whole map."
            )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training: Optional[bool] = None) -> tf.Tensor:
        """[B, H, W, C] -> [B, H, W, filters]."""
        features = [branch(inputs, training=training) for branch in self.branches]
        pooled = self.pool(self._average(inputs), training=training)
        features.append(resize.upsample_like(pooled, inputs, align_corners=self._align_corners))
        x = self.project(tf.concat(features, axis=-1), training=training)
        return self.dropout(x, training=training)

    def _average(self, x: tf.Tensor) -> tf.Tensor:
        """[B, H, W, C] -> [B, 1, 1, C], or [B, H - h + 1, W - w + 1, C] with a window of [h, w]."""
        if self._pool_size is None:
            # A sum over the map may leave the range of half precision.
            mean = tf.reduce_mean(tf.cast(x, tf.float32), axis=[1, 2], keepdims=True)
            return tf.cast(mean, x.dtype)
        return tf.nn.avg_pool2d(x, self._pool_size, strides=1, padding="VALID")

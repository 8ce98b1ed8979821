"""Feature pyramid network (arXiv:1612.03144), with the extra levels of its descendants."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional

import tensorflow as tf

from panoptic_tf.layers import convolution, resize

EXTRA_LEVELS = {"none": 0, "max_pool": 1, "convolutions": 2}


@tf.keras.utils.register_keras_serializable(package="panoptic_tf")
class FPN(tf.keras.layers.Layer):
    """1x1 lateral and 3x3 output convolutions around a top-down sum, nearest x2.

    No activation, and by default no norm but biases. The levels must halve; an odd size is legal
    (the doubled map loses its last row or column), so any image size works.

    Args:
      filters: channels of every output.
      min_level: finest level.
      max_level: coarsest level of the backbone.
      extra_levels: `none`; `max_pool`, one more by taking every second cell of the coarsest output
        (arXiv:1612.03144); `convolutions`, two more by 3x3 stride 2 convolutions from the coarsest
        output, with ReLU before the second only (RetinaNet, arXiv:1708.02002).
      norm: a name of `normalization.build_norm`.
      kernel_initializer: see `convolution.build_initializer`.
      norm_momentum: see `normalization.build_norm`.
      norm_epsilon: see `normalization.build_norm`.
      **kwargs: of the Keras layer.

    Raises:
      ValueError: an unknown `extra_levels`.
    """

    def __init__(
        self,
        filters: int = 256,
        *,
        min_level: int = 2,
        max_level: int = 5,
        extra_levels: str = "none",
        norm: str = "none",
        kernel_initializer: convolution.Initializer = "xavier",
        norm_momentum: float = 0.9,
        norm_epsilon: float = 1e-5,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if extra_levels not in EXTRA_LEVELS:
            known = ", ".join(EXTRA_LEVELS)
            raise ValueError(f"extra_levels must be one of {known}, got {extra_levels!r}.")
        options = {
            "norm": norm,
            "kernel_initializer": kernel_initializer,
            "norm_momentum": norm_momentum,
            "norm_epsilon": norm_epsilon,
        }
        self._levels = tuple(range(min_level, max_level + 1))
        self._extra_levels = extra_levels
        conv, options = convolution.ConvNormAct, {"activation": None, **options}
        self.laterals = [conv(filters, 1, name=f"lateral_{k}", **options) for k in self._levels]
        self.outputs = [conv(filters, 3, name=f"output_{k}", **options) for k in self._levels]
        self.extras = []
        if extra_levels == "convolutions":
            options["norm"] = "none"
            for level in (max_level + 1, max_level + 2):
                extra = conv(filters, 3, strides=2, name=f"output_{level}", **options)
                self.extras.append(extra)

    def build(self, input_shape: Mapping[str, tf.TensorShape]) -> None:
        """Checks that each level has half the cells of the one before, rounded up.

        Raises:
          ValueError: a level is missing or does not halve.
        """
        missing = [str(k) for k in self._levels if str(k) not in input_shape]
        if missing:
            raise ValueError(
                f"{self.name} needs level(s) {', '.join(missing)}, got {', '.join(input_shape)}."
            )
        for level in self._levels[:-1]:
            fine, coarse = (tuple(input_shape[str(k)])[1:3] for k in (level, level + 1))
            if any(
                f is not None and c is not None and c != -(-f // 2) for f, c in zip(fine, coarse)
            ):
                raise ValueError(
                    f"{self.name} needs levels that halve, got {fine} cells at level {level} and "
                    f"{coarse} at {level + 1}. Use a backbone with output_stride 32."
                )
        super().build(input_shape)

    def call(
        self, inputs: Mapping[str, tf.Tensor], training: Optional[bool] = None
    ) -> Dict[str, tf.Tensor]:
        """{level: [B, H/2^level, W/2^level, C]} -> the same levels and the extra, C = filters."""
        x = None
        outputs = {}
        for i in reversed(range(len(self._levels))):
            level = str(self._levels[i])
            lateral = self.laterals[i](inputs[level], training=training)
            x = lateral if x is None else lateral + resize.repeat_like(x, lateral, 2)
            outputs[level] = self.outputs[i](x, training=training)
        outputs = {str(level): outputs[str(level)] for level in self._levels}
        return {**outputs, **self._extend(outputs[str(self._levels[-1])], training)}

    def _extend(self, x: tf.Tensor, training: Optional[bool]) -> Dict[str, tf.Tensor]:
        top = self._levels[-1]
        if self._extra_levels == "none":
            return {}
        if self._extra_levels == "max_pool":
            return {str(top + 1): tf.nn.max_pool2d(x, ksize=1, strides=2, padding="VALID")}
        first = self.extras[0](x, training=training)
        second = self.extras[1](tf.nn.relu(first), training=training)
        return {str(top + 1): first, str(top + 2): second}

"""The layer of `ops.roi_align`; the level of a box by FPN (arXiv:1612.03144), equation 1."""

from __future__ import annotations

from typing import Any, List, Mapping, Optional, Tuple

import tensorflow as tf

from panoptic_tf.layers import resize
from panoptic_tf.ops.roi_align import Regions, roi_align


@tf.keras.utils.register_keras_serializable(package="panoptic_tf")
class MultiLevelROIAlign(tf.keras.layers.Layer):
    """Average of bilinear samples in each of S x S bins of a box, read at the level of its size.

    Level k has strides of 2^k pixels. Computes in float32. The gradient goes to the features only.
    See `ops.roi_align`.

    Args:
      output_size: S.
      sampling_ratio: samples per bin and axis; 0: the bin's length in cells, rounded up.
      min_level: finest level, an argument of `assign_levels`.
      max_level: see `assign_levels`.
      canonical_level: see `assign_levels`.
      canonical_size: see `assign_levels`.
      **kwargs: of the Keras layer.

    Raises:
      ValueError: sizes that are not positive.
    """

    def __init__(
        self,
        *,
        output_size: int,
        sampling_ratio: int = 0,
        min_level: int = 2,
        max_level: int = 5,
        canonical_level: int = 4,
        canonical_size: int = 224,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if output_size < 1 or sampling_ratio < 0 or max_level < min_level:
            raise ValueError(
                "output_size must be positive, sampling_ratio not negative and max_level at least "
                f"min_level, got {output_size}, {sampling_ratio} and {min_level}..{max_level}."
            )
        self._sampling = {"output_size": output_size, "sampling_ratio": sampling_ratio}
        self._assignment = {
            "min_level": min_level,
            "max_level": max_level,
            "canonical_level": canonical_level,
            "canonical_size": canonical_size,
        }
        self._levels = range(min_level, max_level + 1)

    def build(self, input_shape: Mapping[str, tf.TensorShape]) -> None:
        """Checks that every level is there.

        Raises:
          ValueError: a level is missing.
        """
        missing = [str(k) for k in self._levels if str(k) not in input_shape]
        if missing:
            raise ValueError(
                f"{self.name} needs level(s) {', '.join(missing)}, got {', '.join(input_shape)}."
            )
        super().build(input_shape)

    def call(
        self,
        features: Mapping[str, tf.Tensor],
        boxes: tf.Tensor,
        training: Optional[bool] = None,
    ) -> tf.Tensor:
        """Pools the boxes.

        Args:
          features: {level: [B, h, w, C]}; levels out of range are ignored.
          boxes: float32 [B, R, 4]; any position, an empty or non-finite one reads 0 or the border.
          training: makes no difference.

        Returns:
          [B, R, S, S, C] of the features' dtype.
        """
        maps = [features[str(k)] for k in self._levels]
        size, channels = self._sampling["output_size"], maps[0].shape[-1]
        cells = tf.concat([tf.reshape(x, [-1, channels]) for x in maps], axis=0)
        regions = _locate(maps, tf.stop_gradient(boxes), **self._assignment)
        pooled = roi_align(tf.cast(cells, tf.float32), regions, **self._sampling)
        pooled = tf.reshape(pooled, [*_leading_sizes(boxes), size, size, channels])
        return tf.cast(pooled, maps[0].dtype)


def assign_levels(
    boxes: tf.Tensor,
    *,
    min_level: int = 2,
    max_level: int = 5,
    canonical_level: int = 4,
    canonical_size: int = 224,
) -> tf.Tensor:
    """Level of each box: floor(canonical_level + log2(sqrt(area) / canonical_size + 1e-8)).

    Clamped to the levels that there are; a box without area gets the finest.

    Args:
      boxes: float32 [..., 4].
      min_level: finest level.
      max_level: coarsest level.
      canonical_level: level of a box as large as the images that classifiers are trained on.
      canonical_size: pixels a side of those.

    Returns:
      int64 [...].
    """
    height, width = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    ratio = tf.sqrt(tf.maximum(height * width, 0.0)) / canonical_size + 1e-8
    levels = tf.fill(tf.shape(ratio), tf.constant(min_level, tf.int64))
    for level in range(min_level + 1, max_level + 1):
        # Comparisons are exact at the powers of two, where log2 may be a rounding error below.
        levels += tf.cast(ratio >= 2.0 ** (level - canonical_level), tf.int64)
    return levels


def _leading_sizes(boxes: tf.Tensor) -> Tuple[Any, Any]:
    """(B, R) of [B, R, 4]: plain integers where static."""
    shape = tf.shape(boxes)
    return tuple(shape[i] if n is None else n for i, n in enumerate(boxes.shape[:2]))


def _locate(
    maps: List[tf.Tensor], boxes: tf.Tensor, *, min_level: int, **assignment: int
) -> Regions:
    batch, count = _leading_sizes(boxes)
    images = tf.repeat(tf.range(batch, dtype=tf.int64), count)  # [N]
    boxes = tf.reshape(boxes, [-1, 4])
    levels = assign_levels(boxes, min_level=min_level, **assignment) - min_level
    sizes = tf.convert_to_tensor([resize.spatial_size(x) for x in maps])  # [L, 2]
    areas = tf.cast(sizes[:, 0] * sizes[:, 1], tf.int64)
    bases = tf.cumsum(areas * tf.cast(batch, tf.int64), exclusive=True)
    scales = tf.constant([0.5 ** (min_level + i) for i in range(len(maps))])
    scaled = boxes * tf.gather(scales, levels)[:, tf.newaxis] - 0.5
    base = tf.gather(bases, levels) + images * tf.gather(areas, levels)
    return Regions(
        scaled[:, :2], scaled[:, 2:], tf.gather(tf.cast(sizes, tf.float32), levels), base
    )

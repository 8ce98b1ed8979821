"""ROI align over the levels of a feature pyramid.

Mask R-CNN (arXiv:1703.06870), section 3; the level of a box by FPN (arXiv:1612.03144), equation 1.
All levels and images are one matrix [cells, C], and all bins one product with a sparse matrix of
weights: no copy of the cells that a box covers, and a gradient that is the transposed product.
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

import tensorflow as tf

from panoptic_tf.layers import bin_taps, operators, resize

# Boxes of up to this many cells a side are sampled exactly in the portable form. FPN's rule gives
# a box of 20 (14..28) cells a side, more along the longer one.
_PORTABLE_SIDE = 35
_CELLS_AT_ONCE = 2**15


@tf.keras.utils.register_keras_serializable(package="panoptic_tf")
class MultiLevelROIAlign(tf.keras.layers.Layer):
    """Average of bilinear samples in each of S x S bins of a box, read at the level of its size.

    Level k has strides of 2^k pixels. Computes in float32. The gradient goes to the features only.
    In the form for TFLite and XLA, adaptive sampling is exact for boxes of up to 35 cells a side;
    bins of longer ones read cells that lie further apart.

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

    @tf.autograph.experimental.do_not_convert
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
        align = _align_portably if operators.only_portable_operators() else _align
        pooled = align(tf.cast(cells, tf.float32), regions, **self._sampling)  # [B * R * S * S, C]
        pooled = tf.reshape(pooled, [*_leading_sizes(boxes), size, size, channels])
        return tf.cast(pooled, maps[0].dtype)

    def get_config(self) -> Dict[str, Any]:
        """Arguments of the constructor."""
        return {**super().get_config(), **self._sampling, **self._assignment}


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
      int32 [...].
    """
    height, width = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    ratio = tf.sqrt(tf.maximum(height * width, 0.0)) / canonical_size + 1e-8
    levels = tf.fill(tf.shape(ratio), min_level)
    for level in range(min_level + 1, max_level + 1):
        # Comparisons are exact at the powers of two, where log2 may be a rounding error below.
        levels += tf.cast(ratio >= 2.0 ** (level - canonical_level), tf.int32)
    return levels


def _leading_sizes(boxes: tf.Tensor) -> Tuple[Any, Any]:
    """(B, R) of [B, R, 4]: plain integers where static."""
    shape = tf.shape(boxes)
    return tuple(shape[i] if n is None else n for i, n in enumerate(boxes.shape[:2]))


class _Regions(NamedTuple):
    """N = B * R boxes, each on the map of its level and image.

    Attributes:
      start: float32 [N, 2], (y, x) in cells, the center of the first cell being 0.
      end: float32 [N, 2].
      size: int32 [N, 2], cells of the map.
      base: int32 [N], index of the map's first cell.
    """

    start: tf.Tensor
    end: tf.Tensor
    size: tf.Tensor
    base: tf.Tensor


def _locate(
    maps: List[tf.Tensor], boxes: tf.Tensor, *, min_level: int, **assignment: int
) -> _Regions:
    batch, count = _leading_sizes(boxes)
    images = tf.repeat(tf.range(batch), count)  # [N]
    boxes = tf.reshape(boxes, [-1, 4])
    levels = assign_levels(boxes, min_level=min_level, **assignment) - min_level
    sizes = tf.convert_to_tensor([resize.spatial_size(x) for x in maps])  # [L, 2]
    areas = sizes[:, 0] * sizes[:, 1]
    bases = tf.cumsum(areas * batch, exclusive=True)
    scales = tf.constant([0.5 ** (min_level + i) for i in range(len(maps))])
    scaled = boxes * tf.gather(scales, levels)[:, tf.newaxis] - 0.5
    base = tf.gather(bases, levels) + images * tf.gather(areas, levels)
    return _Regions(scaled[:, :2], scaled[:, 2:], tf.gather(sizes, levels), base)


def _align(
    cells: tf.Tensor, regions: _Regions, *, output_size: int, sampling_ratio: int
) -> tf.Tensor:
    """The product with a sparse matrix: [cells, C] -> [N * S * S, C]."""
    y, x = (
        bin_taps.axis_taps(
            regions.start[:, i],
            regions.end[:, i],
            regions.size[:, i],
            bins=output_size,
            sampling_ratio=sampling_ratio,
        )
        for i in range(2)
    )
    region = y.bin // output_size
    first = tf.gather(regions.base, region) + y.cell * tf.gather(regions.size[:, 1], region)
    y_index = tf.stack([y.bin * output_size, first], axis=-1)  # (row, column) of the matrix
    x_index = tf.stack([x.bin % output_size, x.cell], axis=-1)
    # Every tap along y meets all taps along x of its box: neighbours in memory, read in order.
    starts = tf.gather(x.row_splits, region)
    counts = tf.gather(x.row_splits, region + 1) - starts
    pairs = bin_taps.ragged_ranges(tf.range(tf.size(region)), starts, counts)
    of_y, of_x = tf.unstack(pairs, axis=-1)
    index = tf.gather(y_index, of_y) + tf.gather(x_index, of_x)
    weight = tf.gather(y.weight, of_y) * tf.gather(x.weight, of_x)
    rows = tf.size(regions.base) * output_size**2
    return bin_taps.sparse_product(index, weight, cells, rows=rows)


def _align_portably(
    cells: tf.Tensor, regions: _Regions, *, output_size: int, sampling_ratio: int
) -> tf.Tensor:
    """The same by gathering a fixed number of cells per bin, a static number of bins at a time."""
    (y_cell, y_weight), (x_cell, x_weight) = (
        bin_taps.fixed_axis_taps(
            regions.start[:, i],
            regions.end[:, i],
            regions.size[:, i],
            bins=output_size,
            sampling_ratio=sampling_ratio,
            cells=-(-_PORTABLE_SIDE // output_size) + 1,
        )
        for i in range(2)
    )
    taps = y_cell.shape[-1]
    first = y_cell * regions.size[:, 1, tf.newaxis, tf.newaxis]
    first += regions.base[:, tf.newaxis, tf.newaxis]

    def along_y(value: tf.Tensor) -> tf.Tensor:  # [N, S, K] -> [N * S, 1, K, 1]
        return tf.reshape(value, [-1, 1, taps, 1])

    def along_x(value: tf.Tensor) -> tf.Tensor:  # [N, S, K] -> [N * S, S, 1, K]
        return tf.expand_dims(tf.repeat(value, output_size, axis=0), axis=2)

    index = tf.reshape(along_y(first) + along_x(x_cell), [-1, taps**2])
    weight = tf.reshape(along_y(y_weight) * along_x(x_weight), [-1, 1, taps**2])
    step = max(_CELLS_AT_ONCE // taps**2, 1)
    sizes = [min(step, index.shape[0] - i) for i in range(0, index.shape[0], step)] or [0]
    # Neither slices nor [:, 0]: TFLite copies those a value at a time.
    parts = [
        tf.squeeze(tf.matmul(w, tf.gather(cells, i)), axis=1)  # [bins, K * K, C] -> [bins, C]
        for i, w in zip(tf.split(index, sizes), tf.split(weight, sizes))
    ]
    return tf.concat(parts, axis=0)

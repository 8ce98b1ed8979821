"""ROI align over the levels of a feature pyramid.

Mask R-CNN (arXiv:1703.06870), section 3. All levels and images are one matrix [cells, C].
"""

from __future__ import annotations

from typing import Any, Callable, NamedTuple, Tuple

import tensorflow as tf

from panoptic_tf.ops import bin_weights, forms


class Regions(NamedTuple):
    """N boxes, each on the map of its level and image.

    Attributes:
      start: float32 [N, 2], (y, x) in cells, the center of the first cell being 0.
      end: float32 [N, 2].
      size: float32 [N, 2], cells of the map.
      base: int64 [N], index of the map's first cell.
    """

    start: tf.Tensor
    end: tf.Tensor
    size: tf.Tensor
    base: tf.Tensor


@forms.op
def roi_align(
    cells: tf.Tensor, regions: Regions, *, output_size: int, sampling_ratio: int
) -> tf.Tensor:
    """Averages of bilinear samples in S x S bins of each box; see `bin_weights`.

    The reference adds one cell to every bin at a time. The gradient goes to the cells only.

    Args:
      cells: float32 [M, C], of all maps.
      regions: of N boxes.
      output_size: S.
      sampling_ratio: samples per bin and axis; 0: the bin's length in cells, rounded up.

    Returns:
      float32 [N * S * S, C].
    """
    y, x = (
        _Axis(regions, i, output_size=output_size, sampling_ratio=sampling_ratio) for i in range(2)
    )
    most = tf.reduce_max(y.count * x.count)  # cells of a bin
    first = regions.base[:, tf.newaxis]  # [N, 1]
    stride = tf.cast(regions.size[:, 1], tf.int64)[:, tf.newaxis]

    def taps(t: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
        """The t-th cell of every bin and its weight: int64 and float32 [N * S * S]."""
        row = tf.floor((t + 0.5) / x.count)  # [N]
        y_cell, y_weight = y.tap(row)  # [N, S]
        x_cell, x_weight = x.tap(t - row * x.count)
        index = (first + y_cell * stride)[:, :, tf.newaxis] + x_cell[:, tf.newaxis]
        weight = y_weight[:, :, tf.newaxis] * x_weight[:, tf.newaxis]
        return tf.reshape(index, [-1]), tf.reshape(weight, [-1])

    def loop(add: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor], start: tf.Tensor) -> Any:
        return tf.while_loop(
            lambda t, _: t < most,
            lambda t, total: (t + 1.0, add(total, *taps(t))),
            (tf.constant(0.0), start),
            parallel_iterations=1,
        )[1]

    @tf.custom_gradient
    def pool(cells: tf.Tensor) -> Tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        def gather(total: tf.Tensor, index: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
            return total + weight[:, tf.newaxis] * tf.gather(cells, index)

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            def scatter(total: tf.Tensor, index: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
                added = weight[:, tf.newaxis] * upstream
                return tf.tensor_scatter_nd_add(total, index[:, tf.newaxis], added)

            return loop(scatter, tf.zeros_like(cells))

        rows = tf.shape(regions.base)[0] * output_size**2
        return loop(gather, tf.zeros([rows, cells.shape[-1]])), gradient

    return pool(cells)


class _Axis:
    """The bins of all boxes along one axis."""

    def __init__(self, regions: Regions, axis: int, *, output_size: int, sampling_ratio: int):
        self._sampling_ratio = sampling_ratio
        self._bins = bin_weights.split(
            regions.start[:, axis],
            regions.end[:, axis],
            regions.size[:, axis],
            bins=output_size,
            sampling_ratio=sampling_ratio,
        )
        self._first, last = bin_weights.first_and_last(self._bins)  # [N, S]
        # float32 [N], at least 1: cells of the longest bin of each box.
        self.count = tf.reduce_max(last - self._first, axis=1) + 1.0

    def tap(self, number: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
        """A cell of every bin and its weight: int64 and float32 [N, S], of numbers [N]."""
        cell = self._first + number[:, tf.newaxis]
        is_there = cell <= self._bins.last_cell
        cell = tf.minimum(cell, self._bins.last_cell)
        weight = bin_weights.cell_weights(
            bin_weights.expand(self._bins), cell, self._sampling_ratio
        )
        return tf.cast(cell, tf.int64), tf.where(is_there, weight, 0.0)

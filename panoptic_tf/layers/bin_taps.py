"""Which cells the bins of a region read along one axis, and how much each weighs.

ROI align (Mask R-CNN, arXiv:1703.06870, section 3) averages bilinear samples over bins of a box.
Bilinear weights and a regular grid of samples are both products over the axes, so a bin is
sum over cells (y, x) of weight_y * weight_x * feature[y, x]: the samples of one axis are merged
into weights of the cells between the first and the last, far fewer than the corners of all samples.

Conventions of torchvision and detectron2 ("aligned"): intervals are in cells whose centers are the
integers; a sample up to one cell outside reads the border, one further out reads zero and counts;
an interval without length reads nothing where the number of samples adapts. One that is not finite
reads zero.
"""

from __future__ import annotations

from typing import Callable, NamedTuple, Tuple

import tensorflow as tf

# Where samples adapt they lie more than half a cell apart (or there is one), so that at most four
# fall within a cell of a cell; one more for rounding.
_SAMPLES_NEAR_A_CELL = 5
_FAR = 1e8
_OUTSIDE = -2.0
_HIGH_WORD = 1 << 32


class AxisTaps(NamedTuple):
    """T taps along one axis of N intervals with S bins each, ordered by bin.

    Attributes:
      bin: int32 [T], interval * S + bin of the interval.
      cell: int32 [T].
      weight: float32 [T], 1 in sum over a bin whose samples all lie inside.
      row_splits: int32 [N + 1], where the taps of each interval start, and T.
    """

    bin: tf.Tensor
    cell: tf.Tensor
    weight: tf.Tensor
    row_splits: tf.Tensor


class _Bins(NamedTuple):
    """Sampling of the bins; every field broadcasts to [N, S].

    Attributes:
      start: float32, where the bin starts.
      length: float32, of a bin.
      samples: float32, how many; 0 for an empty interval where they adapt.
      last_cell: float32, of the axis.
    """

    start: tf.Tensor
    length: tf.Tensor
    samples: tf.Tensor
    last_cell: tf.Tensor

    def position(self, index: tf.Tensor) -> tf.Tensor:
        """Where the samples lie."""
        return self.start + (index + 0.5) * self.length / tf.maximum(self.samples, 1.0)

    def clamp(self, position: tf.Tensor) -> tf.Tensor:
        """Positions moved onto the axis."""
        return tf.minimum(tf.maximum(position, 0.0), self.last_cell)

    def share(self, index: tf.Tensor) -> tf.Tensor:
        """What the samples weigh in the mean: nothing outside, or where there is no such sample."""
        position = self.position(index)
        inside = (position >= -1.0) & (position <= self.last_cell + 1.0)
        return tf.where(inside & (index < self.samples), 1.0 / tf.maximum(self.samples, 1.0), 0.0)


def axis_taps(
    start: tf.Tensor, end: tf.Tensor, size: tf.Tensor, *, bins: int, sampling_ratio: int
) -> AxisTaps:
    """Taps of any number per bin, for operators that take a ragged number.

    Args:
      start: float32 [N], in cells, the center of the first cell being 0.
      end: float32 [N].
      size: int32 [N], cells along the axis.
      bins: S.
      sampling_ratio: samples per bin; 0 takes the bin's length, rounded up.

    Returns:
      `AxisTaps`.
    """
    sampled = _split(start, end, size, bins=bins, sampling_ratio=sampling_ratio)
    first, last = _first_and_last(sampled)  # [N, S]
    counts = tf.where(sampled.samples > 0.0, last - first + 1.0, 0.0)
    counts = tf.cast(tf.reshape(counts, [-1]), tf.int32)
    rows = tf.range(tf.size(counts))
    pairs = ragged_ranges(rows, tf.cast(tf.reshape(first, [-1]), tf.int32), counts)
    bin_, cell = tf.unstack(pairs, axis=-1)
    fields = [tf.reshape(tf.broadcast_to(x, tf.shape(first)), [-1]) for x in sampled]
    fields = tf.gather(tf.stack(fields, axis=-1), bin_)  # [T, 4]
    weight = _merge(_Bins(*tf.split(fields, 4, axis=-1)), tf.cast(cell, tf.float32), sampling_ratio)
    ends = tf.cumsum(counts)[bins - 1 :: bins]  # [N]
    return AxisTaps(bin_, cell, weight, tf.pad(ends, [[1, 0]]))


def _merge(sampled: _Bins, cell: tf.Tensor, sampling_ratio: int) -> tf.Tensor:
    """Sums the weights that the samples near each cell give it: float32 [T]."""
    cell = cell[:, tf.newaxis]
    if sampling_ratio:
        index = tf.range(sampling_ratio, dtype=tf.float32)[tf.newaxis]
    else:
        step = sampled.length / tf.maximum(sampled.samples, 1.0)
        first = tf.floor((cell - 1.0 - sampled.start) / step - 0.5)  # at or before cell - 1
        index = tf.maximum(first, 0.0) + tf.range(_SAMPLES_NEAR_A_CELL, dtype=tf.float32)
    distance = tf.abs(sampled.clamp(sampled.position(index)) - cell)
    return tf.reduce_sum(sampled.share(index) * tf.nn.relu(1.0 - distance), axis=-1)


def fixed_axis_taps(
    start: tf.Tensor,
    end: tf.Tensor,
    size: tf.Tensor,
    *,
    bins: int,
    sampling_ratio: int,
    cells: int,
) -> Tuple[tf.Tensor, tf.Tensor]:
    """Taps of a fixed number per bin, from operators that TFLite has.

    Equal to `axis_taps` for a given `sampling_ratio`. Where it adapts, equal for bins that are at
    most `cells - 1` long; a longer bin reads cells that lie further apart.

    Args:
      start: see `axis_taps`.
      end: see `axis_taps`.
      size: see `axis_taps`.
      bins: see `axis_taps`.
      sampling_ratio: see `axis_taps`.
      cells: K where the number of samples adapts; else K is twice the `sampling_ratio`.

    Returns:
      int32 cells and float32 weights, [N, S, K].
    """
    sampled = _split(start, end, size, bins=bins, sampling_ratio=sampling_ratio)
    if sampling_ratio:
        low, high = _corners(sampled, sampling_ratio)
        return tf.concat([low[0], high[0]], axis=-1), tf.concat([low[1], high[1]], axis=-1)
    sampled = sampled._replace(samples=tf.minimum(sampled.samples, cells - 1.0))
    first, last = (x[..., tf.newaxis] for x in _first_and_last(sampled))  # [N, S, 1]
    spacing = tf.maximum((last - first) / (cells - 1.0), 1.0)
    read = first + spacing * tf.range(cells, dtype=tf.float32)  # [N, S, K]
    weight = tf.zeros_like(read)
    for i in range(cells - 1):
        index = tf.fill([1, 1], float(i))
        position = sampled.clamp(sampled.position(index))[..., tf.newaxis]
        near = tf.nn.relu(1.0 - tf.abs(position - read) / spacing)
        weight += sampled.share(index)[..., tf.newaxis] * near
    read = tf.minimum(tf.floor(read + 0.5), sampled.last_cell[..., tf.newaxis])
    return tf.cast(read, tf.int32), weight


def dense_axis_weights(
    start: tf.Tensor, end: tf.Tensor, *, size: int, bins: int, sampling_ratio: int
) -> tf.Tensor:
    """The weights of all cells, for operators of static shape; equal to `axis_taps`.

    Args:
      start: see `axis_taps`.
      end: see `axis_taps`.
      size: static, cells along the axis, of all intervals.
      bins: see `axis_taps`.
      sampling_ratio: see `axis_taps`.

    Returns:
      float32 [N, S, size].
    """
    sizes = tf.fill(tf.shape(start), size)
    sampled = _split(start, end, sizes, bins=bins, sampling_ratio=sampling_ratio)
    shape = [tf.size(start), bins, size]
    fields = [tf.reshape(tf.broadcast_to(x[..., tf.newaxis], shape), [-1, 1]) for x in sampled]
    cell = tf.broadcast_to(tf.range(size, dtype=tf.float32), shape)
    return tf.reshape(_merge(_Bins(*fields), tf.reshape(cell, [-1]), sampling_ratio), shape)


def _corners(sampled: _Bins, sampling_ratio: int) -> Tuple[Tuple[tf.Tensor, tf.Tensor], ...]:
    """(cell, weight) below and above every sample: [N, S, sampling_ratio] each."""
    sampled = _Bins(*(x[..., tf.newaxis] for x in sampled))
    index = tf.range(sampling_ratio, dtype=tf.float32)
    position, share = sampled.clamp(sampled.position(index)), sampled.share(index)
    low = tf.floor(position)
    high = tf.minimum(low + 1.0, sampled.last_cell)
    above = position - low
    return (
        (tf.cast(low, tf.int32), share * (1.0 - above)),
        (tf.cast(high, tf.int32), share * above),
    )


def _split(
    start: tf.Tensor, end: tf.Tensor, size: tf.Tensor, *, bins: int, sampling_ratio: int
) -> _Bins:
    usable = (tf.abs(start) < _FAR) & (tf.abs(end) < _FAR)  # and is a number
    start, end = (tf.where(usable, x, _OUTSIDE) for x in (start, end))
    length = (tf.maximum(end - start, 0.0) / bins)[:, tf.newaxis]  # [N, 1]
    starts = start[:, tf.newaxis] + tf.range(bins, dtype=tf.float32) * length
    fixed = tf.fill(tf.shape(length), float(sampling_ratio))
    samples = fixed if sampling_ratio else tf.math.ceil(length)
    return _Bins(starts, length, samples, tf.cast(size, tf.float32)[:, tf.newaxis] - 1.0)


def _first_and_last(sampled: _Bins) -> Tuple[tf.Tensor, tf.Tensor]:
    """First and last cell that the samples of each bin touch: whole float32 [N, S]."""
    first = tf.floor(sampled.clamp(sampled.position(tf.zeros([1, 1]))))
    last = tf.floor(sampled.clamp(sampled.position(sampled.samples - 1.0)))
    return first, tf.minimum(tf.maximum(last, first) + 1.0, sampled.last_cell)


def ragged_ranges(labels: tf.Tensor, starts: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
    """(label, start), (label, start + 1), ...: each row of the arguments as often as it counts.

    Args:
      labels: int32 [N], not negative.
      starts: int32 [N], not negative.
      counts: int32 [N].

    Returns:
      int32 [sum of counts, 2].
    """
    # One integer holds label and start, low word first, and steps by one in the high word: a
    # single pass over memory, where repeating the labels would mask [N, largest count].
    start = tf.cast(labels, tf.int64) + tf.cast(starts, tf.int64) * _HIGH_WORD
    limit = start + tf.cast(counts, tf.int64) * _HIGH_WORD
    ranges = tf.raw_ops.RaggedRange(starts=start, limits=limit, deltas=_HIGH_WORD)
    return tf.bitcast(ranges.rt_dense_values, tf.int32)


def sparse_product(
    index: tf.Tensor, weight: tf.Tensor, cells: tf.Tensor, *, rows: tf.Tensor
) -> tf.Tensor:
    """Weighted sums of rows of a matrix; the gradient goes to the matrix only.

    Args:
      index: int32 [T, 2], row of the result and row of `cells`, in any order; pairs may repeat.
      weight: float32 [T].
      cells: float32 [N, C].
      rows: scalar, M.

    Returns:
      float32 [M, C].
    """
    shape = tf.cast(tf.stack([rows, tf.shape(cells)[0]]), tf.int64)

    def product(x: tf.Tensor, transpose: bool) -> tf.Tensor:
        return tf.raw_ops.SparseTensorDenseMatMul(
            a_indices=index, a_values=weight, a_shape=shape, b=x, adjoint_a=transpose
        )

    @tf.custom_gradient
    def forward(x: tf.Tensor) -> Tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        # The operator's own gradient also computes that of the weights: two gathers of [T, C].
        return product(x, False), lambda upstream: product(upstream, True)

    return forward(cells)

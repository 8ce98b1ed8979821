"""ROI align by a fixed number of cells per bin, a static number of bins at a time.

Equal to the reference for a given `sampling_ratio`. Where it adapts, equal for boxes of up to 35
cells a side; bins of longer ones read cells that lie further apart.
"""

from __future__ import annotations

from typing import Tuple

import tensorflow as tf

from panoptic_tf.ops import bin_weights, forms
from panoptic_tf.ops import roi_align as reference

# FPN's rule gives a box of 20 (14..28) cells a side, more along the longer one.
_SIDE = 35
_CELLS_AT_ONCE = 2**15


@forms.register(reference.roi_align, forms.Form.TFLITE)
def roi_align(
    cells: tf.Tensor, regions: reference.Regions, *, output_size: int, sampling_ratio: int
) -> tf.Tensor:
    """See the reference and the module."""
    (y_cell, y_weight), (x_cell, x_weight) = (
        _axis_taps(
            regions.start[:, i],
            regions.end[:, i],
            regions.size[:, i],
            bins=output_size,
            sampling_ratio=sampling_ratio,
            cells=-(-_SIDE // output_size) + 1,
        )
        for i in range(2)
    )
    taps = y_cell.shape[-1]
    base, width = (tf.cast(x, tf.int32) for x in (regions.base, regions.size[:, 1]))
    first = y_cell * width[:, tf.newaxis, tf.newaxis] + base[:, tf.newaxis, tf.newaxis]

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


def _axis_taps(
    start: tf.Tensor,
    end: tf.Tensor,
    size: tf.Tensor,
    *,
    bins: int,
    sampling_ratio: int,
    cells: int,
) -> Tuple[tf.Tensor, tf.Tensor]:
    """Cells and what they weigh, int32 and float32 [N, S, K].

    K is `cells` where the number of samples adapts, else twice the `sampling_ratio`.
    """
    sampled = bin_weights.split(start, end, size, bins=bins, sampling_ratio=sampling_ratio)
    if sampling_ratio:
        low, high = _corners(sampled, sampling_ratio)
        return tf.concat([low[0], high[0]], axis=-1), tf.concat([low[1], high[1]], axis=-1)
    sampled = sampled._replace(samples=tf.minimum(sampled.samples, cells - 1.0))
    first, last = (x[..., tf.newaxis] for x in bin_weights.first_and_last(sampled))  # [N, S, 1]
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


def _corners(
    sampled: bin_weights.Bins, sampling_ratio: int
) -> Tuple[Tuple[tf.Tensor, tf.Tensor], ...]:
    """(cell, weight) below and above every sample: [N, S, sampling_ratio] each."""
    sampled = bin_weights.expand(sampled)
    index = tf.range(sampling_ratio, dtype=tf.float32)
    position, share = sampled.clamp(sampled.position(index)), sampled.share(index)
    low = tf.floor(position)
    high = tf.minimum(low + 1.0, sampled.last_cell)
    above = position - low
    return (
        (tf.cast(low, tf.int32), share * (1.0 - above)),
        (tf.cast(high, tf.int32), share * above),
    )

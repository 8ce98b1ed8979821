"""Maps of a fixed stride in the frame of the image, rows of the output band by band.

Panoptic FCN (arXiv:2012.00720) goes from its maps to the image in two steps: bilinearly to the
pixels of the network's input, cut to the image, then bilinearly to the size of the answer. Both
steps are linear in rows and columns apart, so here they are one matrix for each. Between bands of
rows and rows of a map that matrix is narrow.
"""

from __future__ import annotations

from typing import NamedTuple, Tuple

import tensorflow as tf

from panoptic_tf.postprocess import rescale

Size = Tuple[int, int]

_ROWS_OF_BAND = 32


class Upsampling(NamedTuple):
    """Weights from maps [h, w] to N bands of R rows; 0 beyond the image.

    Attributes:
      columns: float32 [B, w, W], W being the width of the output rounded up.
      bands: float32 [B, N, R, c], weights of c rows of the map, c dynamic; N * R is the height of
        the output rounded up.
      rows: int32 [B, N, c], these rows.
    """

    columns: tf.Tensor
    bands: tf.Tensor
    rows: tf.Tensor


class BandRange(NamedTuple):
    """Bands [start, end) of each of K maps, and rows [top, bottom) that they read: int32 [B, K]."""

    start: tf.Tensor
    end: tf.Tensor
    top: tf.Tensor
    bottom: tf.Tensor


class _Taps(NamedTuple):
    """Positions on the map that output pixels lie between, float32 [B, n], and the share of `high`.

    Attributes:
      low, high: of the nearest pixels of the network's frame.
      share: of `high`.
      inside: 1 where the output pixel belongs to the image.
    """

    low: tf.Tensor
    high: tf.Tensor
    share: tf.Tensor
    inside: tf.Tensor


def build_upsampling(
    image_info: tf.Tensor,
    output_size: Size,
    *,
    map_size: Size,
    stride: int,
    width_multiple: int = 1,
) -> Upsampling:
    """Weights for the images of a batch.

    Args:
      image_info: float32 [B, 4, 2].
      output_size: static (height, width).
      map_size: static (h, w) of the maps; they begin where the network's frame begins.
      stride: pixels of the network's frame per cell.
      width_multiple: what W is a multiple of.
    """
    height, width = map_size
    rows_of_band = min(_ROWS_OF_BAND, output_size[0])
    count = -(-output_size[0] // rows_of_band)
    rows = _taps(image_info, output_size, 0, count * rows_of_band, height, stride)
    rows = _Taps(*(tf.reshape(x, [-1, count, rows_of_band]) for x in rows))
    first = tf.floor(rows.low[..., 0])  # [B, N]
    last = tf.minimum(tf.floor(rows.high[..., -1]) + 1.0, height - 1.0)
    most = tf.reduce_max(last - first) + 1.0
    row = first[:, :, tf.newaxis] + tf.range(most)  # [B, N, c]

    wide = -(-output_size[1] // width_multiple) * width_multiple
    columns = _taps(image_info, output_size, 1, wide, width, stride)
    column = tf.range(width, dtype=tf.float32)
    return Upsampling(
        columns=tf.transpose(_weights(columns, column), [0, 2, 1]),
        bands=_weights(rows, row),
        rows=tf.cast(tf.minimum(row, height - 1.0), tf.int32),
    )


def band_range(upsampling: Upsampling, is_row_used: tf.Tensor) -> BandRange:
    """The bands that read any of some rows of a map, at least one.

    Args:
      upsampling: of B images.
      is_row_used: bool [B, K, h], of K maps of each image.
    """
    height = is_row_used.shape[-1]
    first, last = (upsampling.rows[:, tf.newaxis, :, i] for i in (0, -1))  # [B, 1, N]
    row = tf.range(height)
    low = tf.reduce_min(tf.where(is_row_used, row, height - 1), axis=-1, keepdims=True)
    high = tf.reduce_max(tf.where(is_row_used, row, 0), axis=-1, keepdims=True)
    start = tf.reduce_sum(tf.cast(last < low, tf.int32), axis=-1)
    start = tf.minimum(start, first.shape[-1] - 1)
    end = tf.maximum(tf.reduce_sum(tf.cast(first <= high, tf.int32), axis=-1), start + 1)
    return BandRange(
        start=start,
        end=end,
        top=tf.gather(first[:, 0], start, axis=1, batch_dims=1),
        bottom=tf.gather(last[:, 0], end - 1, axis=1, batch_dims=1) + 1,
    )


def upsample_bands(
    upsampling: Upsampling, one_map: tf.Tensor, bands: BandRange, k: tf.Tensor
) -> tf.Tensor:
    """A part of one map, in the frame of its image.

    Args:
      upsampling: of one image, without the dimension of the batch.
      one_map: float32 [h, w].
      bands: of all maps of this image, without the dimension of the batch.
      k: int32 [], which it is of them.

    Returns:
      float32 [end - start, R, W].
    """
    start, end, top, bottom = (x[k] for x in bands)
    # [rows, w] x [w, W] -> [rows, W]
    wide = tf.matmul(one_map[top:bottom], upsampling.columns)
    # [n, R, c] x [n, c, W] -> [n, R, W]
    return tf.matmul(upsampling.bands[start:end], tf.gather(wide, upsampling.rows[start:end] - top))


def best_of_maps(
    upsampling: Upsampling, maps: tf.Tensor, numbers: tf.Tensor
) -> Tuple[tf.Tensor, tf.Tensor]:
    """Which map is largest at each pixel of the image.

    Args:
      upsampling: of B images.
      maps: float32 [B, S, h, w], positive.
      numbers: int32 [B, S], of the maps, rising from 1; then 0: no map.

    Returns:
      int32 [B, N * R, W], the number of the largest, the first of equals; 0 beyond the image or
      where there is no map. And float32 [B, N * R, W], the largest value, 0 there.
    """
    count = tf.reduce_max(tf.reduce_sum(tf.cast(numbers > 0, tf.int32), axis=1))
    _, bands, rows, _ = upsampling.bands.shape
    shape = [tf.shape(maps)[0], bands * rows, upsampling.columns.shape[2]]

    def compare(i: tf.Tensor, best: tf.Tensor, found: tf.Tensor) -> Tuple[tf.Tensor, ...]:
        number = tf.cast(numbers[:, i], tf.float32)[:, tf.newaxis, tf.newaxis]
        is_map = tf.cast(number > 0, tf.float32)
        values = tf.reshape(_upsample(upsampling, maps[:, i] * is_map), shape)
        # Numbers rise, so the last that was larger is the largest of them.
        found = tf.maximum(found, tf.cast(values > best, tf.float32) * number)
        return i + 1, tf.maximum(best, values), found

    # Not known when the graph is built: else a TFLite file stores the blank maps.
    zero = tf.cast(tf.minimum(count, 0), tf.float32)
    _, best, found = tf.while_loop(
        lambda i, *_: i < count,
        compare,
        [tf.constant(0), tf.fill(shape, zero), tf.fill(shape, zero)],
        parallel_iterations=1,
    )
    return tf.cast(found, tf.int32), best


def _upsample(upsampling: Upsampling, maps: tf.Tensor) -> tf.Tensor:
    """One map [B, h, w] of each image: [B, N, R, W]."""
    wide = tf.matmul(maps, upsampling.columns)  # [B, h, W]
    return tf.matmul(upsampling.bands, tf.gather(wide, upsampling.rows, axis=1, batch_dims=1))


def _taps(
    image_info: tf.Tensor,
    output_size: Size,
    axis: int,
    count: int,
    map_length: int,
    stride: int,
) -> _Taps:
    """Of pixels 0..count - 1 of the output along an axis."""

    def to_map(pixel: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_value((pixel + 0.5) / stride - 0.5, 0.0, map_length - 1.0)

    taps = rescale.two_step_taps(image_info, output_size, axis, count=count, to_map=to_map)
    size = rescale.size_in_output(image_info, output_size)[:, axis, tf.newaxis]
    return _Taps(*taps, inside=tf.cast(tf.range(count) < size, tf.float32))


def _weights(taps: _Taps, cells: tf.Tensor) -> tf.Tensor:
    """Bilinear weights of cells [..., c] for taps [..., n]: [..., n, c]."""

    def near(position: tf.Tensor) -> tf.Tensor:
        distance = tf.abs(position[..., tf.newaxis] - cells[..., tf.newaxis, :])
        return tf.nn.relu(1.0 - distance)

    share = taps.share[..., tf.newaxis]
    weights = near(taps.low) * (1.0 - share) + near(taps.high) * share
    return weights * taps.inside[..., tf.newaxis]

"""Painting overlapping instances, given as maps of probabilities, in the order of score.

It is the overlap rule of `score_order` for masks that have no box (Panoptic FCN, arXiv:2012.00720):
each of them is interpolated once, in the bands of rows where it may be, and all that is asked of it
is taken from there.
"""

from __future__ import annotations

from typing import NamedTuple, Optional, Tuple

import tensorflow as tf

from panoptic_tf.postprocess import lanes as lanes_lib
from panoptic_tf.postprocess import upsampling as upsampling_lib

_BITS_OF_PLANE = 32


class Painted(NamedTuple):
    """Results, in the frame of the output.

    Attributes:
      owner: int32 [B, H, W], the instance that takes each pixel, 0..K - 1; -1 where free.
      bit_masks: int32 [B, H, W, ceil(K / 32)], bit i % 32 of plane i // 32 is the mask of instance
        i, whether or not it takes its pixels; None where not asked for.
      boxes: float32 [B, K, 4], tight around these masks, 0 where empty; None likewise.
    """

    owner: tf.Tensor
    bit_masks: Optional[tf.Tensor] = None
    boxes: Optional[tf.Tensor] = None


def paint_by_score(
    maps: tf.Tensor,
    upsampling: upsampling_lib.Upsampling,
    *,
    output_size: Tuple[int, int],
    valid: tf.Tensor,
    takes_part: tf.Tensor,
    mask_threshold: float,
    overlap_threshold: float,
    with_masks: bool,
) -> Painted:
    """Gives each pixel to the first instance on it that is not dropped.

    One after the other, an instance is dropped if its mask is empty or if more than
    `overlap_threshold` of it is taken; else it takes the free pixels of its mask.

    Args:
      maps: float32 [B, K, h, w], probabilities, by descending score; K < 65536.
      upsampling: from these to the output, whose width is a multiple of `lanes.WIDTH_MULTIPLE`.
      output_size: static (height, width).
      valid: bool [B, K], which there are: the first ones.
      takes_part: bool [B, K], which of them may take pixels: the first ones.
      mask_threshold: largest probability outside of a mask, at least 0.
      overlap_threshold: see above.
      with_masks: whether to answer masks and boxes.
    """
    count = maps.shape[1]
    painter = _Painter(count, upsampling, mask_threshold, overlap_threshold, with_masks)
    is_used = tf.reduce_max(maps, axis=3) > mask_threshold  # [B, K, h]
    drawn = valid if with_masks else takes_part
    arguments = (
        maps,
        upsampling_lib.band_range(upsampling, is_used),
        tf.reduce_sum(tf.cast(drawn, tf.int32), axis=1),
        takes_part,
        upsampling,
    )
    if maps.shape[0] == 1:
        first = tf.nest.map_structure(lambda x: x[0], arguments)
        canvas = tf.nest.map_structure(lambda x: x[tf.newaxis], painter.paint_image(*first))
    else:
        canvas = tf.map_fn(
            lambda image: painter.paint_image(*image),
            arguments,
            fn_output_signature=painter.signature(),
            parallel_iterations=1,
        )
    return painter.results(canvas, output_size)


class _Canvas(NamedTuple):
    """What is known of one image when it is painted, R rows of W pixels; see `lanes`.

    Attributes:
      owner: lanes [R, w], k + 1 where instance k is.
      bits: lanes [G, R, w], the masks of some instances in the bits of each lane.
      in_row: float32 [K, R], not 0 where an instance has pixels.
      in_column: float32 [K, W], likewise.
    """

    owner: tf.Tensor
    bits: tf.Tensor
    in_row: tf.Tensor
    in_column: tf.Tensor


class _Painter:
    """Shapes and options, and the loop over the instances of one image."""

    def __init__(
        self,
        count: int,
        upsampling: upsampling_lib.Upsampling,
        mask_threshold: float,
        overlap_threshold: float,
        with_masks: bool,
    ):
        self._count = count
        _, bands, self._rows_of_band, _ = upsampling.bands.shape
        self._height, self._width = bands * self._rows_of_band, upsampling.columns.shape[2]
        self._lanes = lanes_lib.Lanes(count)
        self._mask_threshold = mask_threshold
        self._overlap_threshold = overlap_threshold
        self._with_masks = with_masks
        groups = -(-count // _BITS_OF_PLANE) * (_BITS_OF_PLANE // self._lanes.bits)
        lanes = (self._height, self._width // self._lanes.pixels)
        # What masks are written to; nothing where they are not asked for.
        self._shapes = (
            (groups if with_masks else 0, *lanes),
            (count if with_masks else 0, self._height),
            (count if with_masks else 0, self._width),
        )

    def signature(self) -> _Canvas:
        """Of `paint_image`."""
        bits, in_row, in_column = self._shapes
        return _Canvas(
            tf.TensorSpec(bits[1:], self._lanes.dtype),
            tf.TensorSpec(bits, self._lanes.dtype),
            tf.TensorSpec(in_row, tf.float32),
            tf.TensorSpec(in_column, tf.float32),
        )

    def paint_image(
        self,
        maps: tf.Tensor,
        band_range: upsampling_lib.BandRange,
        end: tf.Tensor,
        takes_part: tf.Tensor,
        upsampling: upsampling_lib.Upsampling,
    ) -> _Canvas:
        """Paints instances 0..end - 1 of one image."""
        lanes = self._lanes
        free = lanes.ones(self._height, self._width)
        owner = lanes.zeros(self._height, self._width)

        def paint(k, free, owner, written):
            values = upsampling_lib.upsample_bands(upsampling, maps[k], band_range, k)
            mask = lanes.pack(tf.reshape(values > self._mask_threshold, [-1, self._width]))
            row = band_range.start[k] * self._rows_of_band
            last = band_range.end[k] * self._rows_of_band
            visible = lanes.both(mask, free[row:last])
            columns = self._column_sums(mask)
            area, visible_area = (tf.reduce_sum(x) for x in (columns, self._column_sums(visible)))
            overlap = tf.math.divide_no_nan(area - visible_area, area)
            keep = tf.logical_and(overlap <= self._overlap_threshold, takes_part[k])
            taken = visible * tf.cast(keep, lanes.dtype)
            free = _add_rows(free, row, last, -taken)
            owner = _add_rows(owner, row, last, taken * tf.cast(k + 1, lanes.dtype))
            if self._with_masks:
                written = self._write(written, k, row, last, mask, columns)
            return k + 1, free, owner, written

        _, _, owner, written = tf.while_loop(
            lambda k, *_: k < end,
            paint,
            [tf.constant(0), free, owner, self._blank()],
            parallel_iterations=1,
        )
        return _Canvas(owner, *(x.stack() for x in written))

    def _blank(self) -> Tuple[tf.TensorArray, ...]:
        """`bits`, `in_row` and `in_column` of a `_Canvas`, all 0."""
        dtypes = (self._lanes.dtype, tf.float32, tf.float32)
        return tuple(
            tf.TensorArray(dtype, shape[0], element_shape=shape[1:], clear_after_read=False)
            for dtype, shape in zip(dtypes, self._shapes)
        )

    def _write(self, written, k, row, last, mask, columns) -> Tuple[tf.TensorArray, ...]:
        """Adds one mask, lanes [last - row, w]."""
        bits, in_row, in_column = written
        group, bit = k // self._lanes.bits, k % self._lanes.bits
        weights = tf.constant([1 << i for i in range(self._lanes.bits)], self._lanes.dtype)
        bits = bits.write(group, _add_rows(bits.read(group), row, last, mask * weights[bit]))
        rows = tf.cast(tf.reduce_any(tf.not_equal(mask, 0), axis=1), tf.float32)
        rows = tf.pad(rows, [[row, self._height - last]])
        return bits, in_row.write(k, rows), in_column.write(k, columns)

    def _column_sums(self, mask: tf.Tensor) -> tf.Tensor:
        """Pixels of a mask [rows, w] by column: float32 [W]."""
        bands = tf.reshape(mask, [-1, self._rows_of_band, mask.shape[-1]])
        return tf.reduce_sum(self._lanes.column_sums(bands), axis=0)

    def results(self, canvas: _Canvas, output_size: Tuple[int, int]) -> Painted:
        """Reads the canvases of a batch."""
        height, width = output_size
        owner = self._pixels(canvas.owner[:, tf.newaxis])[:, 0, :height, :width] - 1
        if not self._with_masks:
            return Painted(owner)
        (top, bottom), (left, right) = _extent(canvas.in_row), _extent(canvas.in_column)
        planes = self._planes(self._pixels(canvas.bits))  # [B, P, R, W]
        return Painted(
            owner=owner,
            bit_masks=tf.transpose(planes, [0, 2, 3, 1])[:, :height, :width],
            boxes=tf.stack([top, left, bottom, right], axis=-1),
        )

    def _pixels(self, lanes: tf.Tensor) -> tf.Tensor:
        """Lanes [B, G, R, w] to int32 [B, G, R, W]."""
        values = self._lanes.unpack(tf.reshape(lanes, [-1, lanes.shape[-1]]))
        return tf.reshape(values, [-1, lanes.shape[1], self._height, self._width])

    def _planes(self, groups: tf.Tensor) -> tf.Tensor:
        """Joins int32 [B, G, R, W] of a few bits each to int32 [B, P, R, W]."""
        bits = self._lanes.bits
        groups = tf.reshape(groups, [-1, _BITS_OF_PLANE // bits, *groups.shape[2:]])
        groups = tf.unstack(groups, axis=1)  # [B * P, R, W] each
        planes = tf.add_n([x * _as_int32(1 << bits * i) for i, x in enumerate(groups)])
        return tf.reshape(planes, [-1, -(-self._count // _BITS_OF_PLANE), *planes.shape[1:]])


def _add_rows(canvas: tf.Tensor, row: tf.Tensor, last: tf.Tensor, lanes: tf.Tensor) -> tf.Tensor:
    """Adds to rows [row, last)."""
    added = tf.concat([canvas[:row], canvas[row:last] + lanes, canvas[last:]], axis=0)
    added.set_shape(canvas.shape)  # TFLite has no operator that checks shapes
    return added


def _as_int32(value: int) -> int:
    return value - (value >> 31 << 32)


def _extent(is_there: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
    """First and one past the last non-zero of [B, K, n]: float32 [B, K] each, 0 if none."""
    count = is_there.shape[-1]
    index = tf.range(count, dtype=tf.float32)
    end = tf.reduce_max(tf.where(is_there > 0, index + 1.0, 0.0), axis=-1)
    start = tf.reduce_min(tf.where(is_there > 0, index, float(count)), axis=-1)
    return tf.minimum(start, end), end

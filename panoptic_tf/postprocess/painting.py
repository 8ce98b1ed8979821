"""Painting overlapping instances, given as maps of probabilities, in the order of score.

It is the overlap rule of `score_order` for masks that have no box (Panoptic FCN, arXiv:2012.00720):
each of them is interpolated once, in the bands of rows where it may be, and all that is asked of it
is taken from there.
"""

from __future__ import annotations

from typing import Any, Callable, NamedTuple, Optional, Tuple

import tensorflow as tf

from panoptic_tf.postprocess import lanes as lanes_lib
from panoptic_tf.postprocess import upsampling as upsampling_lib


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
        first = tf.nest.map_structure(lambda x: tf.squeeze(x, axis=0), arguments)
        painted = [tf.expand_dims(x, axis=0) for x in painter.paint_image(*first)]
    else:
        painted = tf.map_fn(
            lambda image: painter.paint_image(*image),
            arguments,
            fn_output_signature=painter.signature(),
            parallel_iterations=1,
        )
    return painter.results(painted, output_size)


class _Loop(NamedTuple):
    """What the loop over the instances of one image carries, R rows of W pixels; see `lanes`.

    Attributes:
      free: lanes [R, w], 1 where no instance is.
      owner: lanes [R, w], k + 1 where instance k is.
      bits: lanes [R, w], the masks of a group of instances, one in each bit of a lane.
      in_row: K times float32 [R], 1 where instance k has pixels.
      in_column: K times float32 [W], its number of pixels.
    """

    free: tf.Tensor
    owner: tf.Tensor
    bits: tf.Tensor
    in_row: tf.TensorArray
    in_column: tf.TensorArray


class _Painter:
    """Shapes and options, and the loop."""

    def __init__(
        self,
        count: int,
        upsampling: upsampling_lib.Upsampling,
        mask_threshold: float,
        overlap_threshold: float,
        with_masks: bool,
    ):
        _, bands, self._rows_of_band, _ = upsampling.bands.shape
        self._count = count
        self._height, self._width = bands * self._rows_of_band, upsampling.columns.shape[2]
        self._lanes = lanes_lib.Lanes(count)
        self._groups = self._lanes.groups(count)
        self._mask_threshold = mask_threshold
        self._overlap_threshold = overlap_threshold
        self._with_masks = with_masks

    def signature(self) -> Tuple[tf.TensorSpec, ...]:
        """Of what `paint_image` answers."""
        lanes = [self._height, self._width // self._lanes.pixels]
        owner = tf.TensorSpec(lanes, self._lanes.dtype)
        if not self._with_masks:
            return (owner,)
        return (
            owner,
            tf.TensorSpec([self._groups, *lanes], self._lanes.dtype),
            tf.TensorSpec([self._count, self._height], tf.float32),
            tf.TensorSpec([self._count, self._width], tf.float32),
        )

    def paint_image(
        self,
        maps: tf.Tensor,
        band_range: upsampling_lib.BandRange,
        end: tf.Tensor,
        takes_part: tf.Tensor,
        upsampling: upsampling_lib.Upsampling,
    ) -> Tuple[tf.Tensor, ...]:
        """Paints instances 0..end - 1 of one image.

        Returns:
          The last `owner` of `_Loop` and, with masks, the `bits` of all groups, `in_row` and
          `in_column`.
        """
        # Not known when the graph is built: else a TFLite file stores all that is blank.
        zero = tf.minimum(end, 0)

        def blank(value: int = 0) -> tf.Tensor:
            return self._lanes.filled(zero + value, self._height, self._width)

        def paint(k: tf.Tensor, loop: _Loop) -> Tuple[tf.Tensor, _Loop]:
            values = upsampling_lib.upsample_bands(upsampling, maps[k], band_range, k)
            row, last = (x[k] * self._rows_of_band for x in (band_range.start, band_range.end))
            return k + 1, self._paint(loop, k, values, row, last, takes_part[k])

        def paint_group(group: tf.Tensor, loop: _Loop, groups: tf.TensorArray) -> Tuple:
            start = group * bits
            last = tf.minimum(start + bits, end)
            loop = _while_below(last, paint, start, loop._replace(bits=blank()))
            return group + 1, loop, groups.write(group, loop.bits)

        sizes = (self._height, self._width)
        arrays = (tf.TensorArray(tf.float32, zero + self._count, element_shape=[n]) for n in sizes)
        loop = _Loop(blank(1), blank(), blank(), *arrays)
        if not self._with_masks:
            return (_while_below(end, paint, tf.constant(0), loop).owner,)
        bits, shape = self._lanes.bits, loop.bits.shape
        groups = tf.TensorArray(self._lanes.dtype, zero + self._groups, element_shape=shape)
        used = (end + bits - 1) // bits
        loop, groups = _while_below(used, paint_group, tf.constant(0), loop, groups)
        found = (loop.owner, *(x.stack() for x in (groups, loop.in_row, loop.in_column)))
        return tuple(tf.reshape(x, y.shape) for x, y in zip(found, self.signature()))

    def _paint(
        self,
        loop: _Loop,
        k: tf.Tensor,
        values: tf.Tensor,
        row: tf.Tensor,
        last: tf.Tensor,
        takes_part: tf.Tensor,
    ) -> _Loop:
        """Paints instance k, of probabilities [n, rows, W] in rows [row, last)."""
        lanes = self._lanes
        mask = lanes.pack(tf.reshape(values > self._mask_threshold, [-1, self._width]))
        visible = lanes.both(mask, loop.free[row:last])
        columns = self._column_sums(mask)
        area, visible_area = (tf.reduce_sum(x) for x in (columns, self._column_sums(visible)))
        overlap = tf.math.divide_no_nan(area - visible_area, area)
        keep = tf.logical_and(overlap <= self._overlap_threshold, takes_part)
        taken = visible * tf.cast(keep, lanes.dtype)
        loop = loop._replace(
            free=_add_rows(loop.free, row, last, -taken),
            owner=_add_rows(loop.owner, row, last, taken * tf.cast(k + 1, lanes.dtype)),
        )
        if not self._with_masks:
            return loop
        rows = tf.cast(tf.reduce_any(tf.not_equal(mask, 0), axis=1), tf.float32)
        return loop._replace(
            bits=_add_rows(loop.bits, row, last, mask * lanes.bit(k)),
            in_row=loop.in_row.write(k, tf.pad(rows, [[row, self._height - last]])),
            in_column=loop.in_column.write(k, columns),
        )

    def _column_sums(self, mask: tf.Tensor) -> tf.Tensor:
        """Pixels of a mask, lanes [rows, w], by column: float32 [W]."""
        bands = tf.reshape(mask, [-1, self._rows_of_band, mask.shape[-1]])
        return tf.reduce_sum(self._lanes.column_sums(bands), axis=0)

    def results(self, painted: Tuple[tf.Tensor, ...], output_size: Tuple[int, int]) -> Painted:
        """Reads what `paint_image` answered, of a batch."""
        height, width = output_size
        owner = self._lanes.unpack(painted[0])[:, :height, :width] - 1
        if not self._with_masks:
            return Painted(owner)
        _, groups, in_row, in_column = painted
        (top, bottom), (left, right) = _extent(in_row), _extent(in_column)
        planes = tf.transpose(self._lanes.join_bits(groups), [0, 2, 3, 1])  # [B, R, W, P]
        return Painted(
            owner=owner,
            bit_masks=planes[:, :height, :width],
            boxes=tf.stack([top, left, bottom, right], axis=-1),
        )


def _while_below(end: tf.Tensor, body: Callable, start: tf.Tensor, *state: Any) -> Any:
    """The state after body(i, *state) for start <= i < end."""
    _, *state = tf.while_loop(lambda i, *_: i < end, body, [start, *state], parallel_iterations=1)
    return state[0] if len(state) == 1 else state


def _add_rows(canvas: tf.Tensor, row: tf.Tensor, last: tf.Tensor, lanes: tf.Tensor) -> tf.Tensor:
    """Adds to rows [row, last)."""
    added = tf.concat([canvas[:row], canvas[row:last] + lanes, canvas[last:]], axis=0)
    added.set_shape(canvas.shape)  # TFLite has no operator that checks shapes
    return added


def _extent(is_there: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
    """First and one past the last non-zero of [B, K, n]: float32 [B, K] each, 0 if none."""
    count = is_there.shape[-1]
    index = tf.range(count, dtype=tf.float32)
    end = tf.reduce_max(tf.where(is_there > 0, index + 1.0, 0.0), axis=-1)
    start = tf.reduce_min(tf.where(is_there > 0, index, float(count)), axis=-1)
    return tf.minimum(start, end), end

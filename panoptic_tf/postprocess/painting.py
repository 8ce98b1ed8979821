"""Painting overlapping instances, given as maps of probabilities, in the order of score.

It is the overlap rule of `score_order` for masks that have no box (Panoptic FCN, arXiv:2012.00720):
each of them is interpolated once, in the bands of rows where it may be, and everything that is
asked of it is taken from there.
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


class _State(NamedTuple):
    """What the loop carries, R' rows of W' pixels for an image; see `lanes`.

    Attributes:
      free: [B * R', w], 1 where no instance is.
      owner: [B * R', w], k + 1 where instance k is.
      bits: [B * G * R', w], the bits of a group of instances of one image.
      in_row: float32 [B * K * R', 1], 1 on rows where an instance has pixels.
      in_column: float32 [B * K, W'], number of an instance's pixels.
    """

    free: tf.Tensor
    owner: tf.Tensor
    bits: tf.Tensor
    in_row: tf.Tensor
    in_column: tf.Tensor


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
      upsampling: from these to the output, with a width of whole `lanes`.
      output_size: static (height, width).
      valid: bool [B, K], which there are.
      takes_part: bool [B, K], those of them that may take pixels.
      mask_threshold: largest probability outside of a mask, at least 0.
      overlap_threshold: see above.
      with_masks: whether to answer masks and boxes.
    """
    painter = _Painter(maps, upsampling, with_masks)
    drawn = valid if with_masks else takes_part
    takes_part = tf.reshape(takes_part, [-1])
    order, count = _true_first(tf.reshape(drawn, [-1]))
    lanes = painter.lanes

    def paint(i: tf.Tensor, state: _State) -> Tuple[tf.Tensor, _State]:
        found = painter.find(order[i], mask_threshold)
        visible = lanes.both(found.mask, state.free[found.row : found.row + found.rows])
        area = tf.reduce_sum(found.columns)
        visible_area = tf.reduce_sum(painter.column_sums(visible))
        overlap = tf.math.divide_no_nan(area - visible_area, area)
        keep = tf.logical_and(overlap <= overlap_threshold, takes_part[order[i]])
        taken = visible * tf.cast(keep, lanes.dtype)
        state = state._replace(
            free=lanes.add(state.free, found.row, -taken),
            owner=lanes.add(state.owner, found.row, taken * tf.cast(found.k + 1, lanes.dtype)),
        )
        return i + 1, painter.write_mask(state, found) if with_masks else state

    _, state = tf.while_loop(
        lambda i, _: i < count, paint, [tf.constant(0), painter.state()], parallel_iterations=1
    )
    return painter.results(state, output_size)


class _Found(NamedTuple):
    """The mask of one instance in the bands where it may be.

    Attributes:
      pair: int32 [], image * K + k.
      image, k: int32 [].
      row: int32 [], where the bands begin among the rows of all images.
      rows: int32 [], of the bands.
      mask: lanes [rows, w].
      columns: float32 [W'], pixels of the mask by column.
    """

    pair: tf.Tensor
    image: tf.Tensor
    k: tf.Tensor
    row: tf.Tensor
    rows: tf.Tensor
    mask: tf.Tensor
    columns: tf.Tensor


class _Painter:
    """Shapes and tensors that stay the same in all steps of the loop."""

    def __init__(self, maps: tf.Tensor, upsampling: upsampling_lib.Upsampling, with_masks: bool):
        self._batch, self._count = tf.shape(maps)[0], maps.shape[1]
        self._maps = tf.reshape(maps, [-1, *maps.shape[2:]])  # [B * K, h, w]
        self._upsampling = upsampling
        self._with_masks = with_masks
        self._rows_of_band = upsampling.bands.shape[2]
        self._height = upsampling.bands.shape[1] * self._rows_of_band
        self._width = upsampling.columns.shape[2]
        self.lanes = lanes_lib.Lanes(self._count)
        self._groups = -(-self._count // _BITS_OF_PLANE) * (_BITS_OF_PLANE // self.lanes.bits)

    def state(self) -> _State:
        """Before the first instance."""
        rows, lanes = self._batch * self._height, self.lanes
        groups = rows * self._groups if self._with_masks else 1
        pairs = self._batch * self._count if self._with_masks else 1
        return _State(
            free=lanes.ones(rows, self._width),
            owner=lanes.zeros(rows, self._width),
            bits=lanes.zeros(groups, self._width),
            in_row=tf.zeros([pairs * self._height, 1]),
            in_column=tf.zeros([pairs, self._width]),
        )

    def find(self, pair: tf.Tensor, threshold: float) -> _Found:
        """Computes the mask of a pair of image and instance."""
        image, one_map = pair // self._count, self._maps[pair]
        is_used = tf.reduce_max(one_map, axis=1) > threshold
        start, end = upsampling_lib.band_range(self._upsampling, is_used, image)
        values = upsampling_lib.upsample_bands(self._upsampling, one_map, image, start, end)
        mask = self.lanes.pack(tf.reshape(values > threshold, [-1, self._width]))
        return _Found(
            pair=pair,
            image=image,
            k=pair % self._count,
            row=image * self._height + start * self._rows_of_band,
            rows=tf.shape(mask)[0],
            mask=mask,
            columns=self.column_sums(mask),
        )

    def column_sums(self, mask: tf.Tensor) -> tf.Tensor:
        """Pixels of a mask [rows, w] by column: float32 [W']."""
        bands = tf.reshape(mask, [-1, self._rows_of_band, mask.shape[-1]])
        return tf.reduce_sum(self.lanes.column_sums(bands), axis=0)

    def write_mask(self, state: _State, found: _Found) -> _State:
        """Adds one mask to the bits, and its extent."""
        lanes = self.lanes
        group, bit = found.k // lanes.bits, found.k % lanes.bits
        weight = tf.gather(tf.constant([1 << i for i in range(lanes.bits)], lanes.dtype), bit)
        above = (found.image * (self._groups - 1) + group) * self._height
        row = found.row - found.image * self._height + found.pair * self._height
        in_row = tf.cast(tf.reduce_any(tf.not_equal(found.mask, 0), axis=1), tf.float32)
        return state._replace(
            bits=lanes.add(state.bits, found.row + above, found.mask * weight),
            in_row=lanes.add(state.in_row, row, in_row[:, tf.newaxis]),
            in_column=lanes.add(state.in_column, found.pair, found.columns[tf.newaxis]),
        )

    def results(self, state: _State, output_size: Tuple[int, int]) -> Painted:
        """Reads the last state."""
        height, width = output_size
        owner = self._pixels(state.owner, 1)[:, 0, :height, :width] - 1
        if not self._with_masks:
            return Painted(owner)
        groups = self._pixels(state.bits, self._groups)[:, :, :height, :width]
        in_row = tf.reshape(state.in_row, [-1, self._count, self._height])
        in_column = tf.reshape(state.in_column, [-1, self._count, self._width])
        (top, bottom), (left, right) = _extent(in_row), _extent(in_column)
        return Painted(
            owner=owner,
            bit_masks=_planes(groups, self.lanes.bits),
            boxes=tf.stack([top, left, bottom, right], axis=-1),
        )

    def _pixels(self, lanes: tf.Tensor, groups: int) -> tf.Tensor:
        values = self.lanes.unpack(lanes)
        return tf.reshape(values, [-1, groups, self._height, self._width])


def _planes(groups: tf.Tensor, bits: int) -> tf.Tensor:
    """Joins int32 [B, G, H, W] of few bits each to int32 [B, H, W, P]."""
    of_plane = _BITS_OF_PLANE // bits
    planes = []
    for first in range(0, groups.shape[1], of_plane):
        plane = groups[:, first]
        for i in range(1, of_plane):
            plane += groups[:, first + i] * tf.constant(_as_int32(1 << bits * i), tf.int32)
        planes.append(plane)
    return tf.stack(planes, axis=-1)


def _as_int32(value: int) -> int:
    return value - (value >> 31 << 32)


def _extent(is_there: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
    """First and one past the last non-zero of [B, K, n]: float32 [B, K] each, 0 if there is none."""
    count = is_there.shape[-1]
    index = tf.range(count, dtype=tf.float32)
    end = tf.reduce_max(tf.where(is_there > 0, index + 1.0, 0.0), axis=-1)
    start = tf.reduce_min(tf.where(is_there > 0, index, float(count)), axis=-1)
    return tf.minimum(start, end), end


def _true_first(flags: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
    """Indices of [n], those of true ones first and rising, and the number of these."""
    count = tf.shape(flags)[0]
    ranks = tf.cast(flags, tf.int32) * count - tf.range(count)
    return tf.math.top_k(ranks, k=count).indices, tf.reduce_sum(tf.cast(flags, tf.int32))

"""The largest channel in the image's own frame, from few interpolations.

Panoptic-DeepLab (arXiv:1911.10194) takes the argmax of logits that are interpolated to the image,
sixteen times as many as the network gives. Interpolation is a convex combination: between four
cells with the same largest channel, that channel is the largest. Only the pixels between others
are interpolated.
"""

from __future__ import annotations

from typing import NamedTuple, Tuple

import tensorflow as tf

from panoptic_tf.ops import argmax_in_image as reference
from panoptic_tf.ops import forms, rescale
from panoptic_tf.ops.rescale import Size

_PIXELS_AT_ONCE = 2**14


class _Taps(NamedTuple):
    """Cells along an axis between which the pixels of the output lie.

    Attributes:
      low: int32 [B, length].
      share: float32 [B, length], of the next cell.
    """

    low: tf.Tensor
    share: tf.Tensor


@forms.register(reference.argmax_in_image, forms.Form.CPU)
def argmax_in_image(
    logits: tf.Tensor,
    image_info: tf.Tensor,
    output_size: Size,
    align_corners: bool = False,
    two_steps: bool = False,
) -> tf.Tensor:
    """See the reference; in two steps, where a pixel may lie between more cells, it is that."""
    if two_steps:
        plain = forms.reference_of(reference.argmax_in_image)
        return plain(logits, image_info, output_size, align_corners, two_steps)
    rows, columns = _find_taps(logits, image_info, output_size, align_corners)
    wide = _best_at_columns(logits, columns)  # [B, h, W]
    channel = tf.gather(wide, rows.low, axis=1, batch_dims=1)  # [B, H, W]
    pixels = tf.where(tf.reshape(channel, [-1]) < 0)[:, 0]
    found = _compare_channels(logits, wide < 0, pixels, rows, columns)
    flat = tf.tensor_scatter_nd_update(tf.reshape(channel, [-1]), pixels[:, tf.newaxis], found)
    return tf.cast(tf.reshape(flat, [-1, *output_size]), tf.float32)


def _find_taps(
    logits: tf.Tensor, image_info: tf.Tensor, output_size: Size, align_corners: bool
) -> Tuple[_Taps, _Taps]:
    """Of rows and of columns."""
    found = []
    for axis in (0, 1):
        positions = rescale.map_positions(
            image_info, output_size, axis, logits.shape[axis + 1], align_corners
        )
        low = tf.floor(positions)
        found.append(_Taps(tf.cast(low, tf.int32), positions - low))
    return found[0], found[1]


def _best_at_columns(logits: tf.Tensor, columns: _Taps) -> tf.Tensor:
    """The largest channel of the low cell of each column: int32 [B, h, W].

    It is -1 unless the cells below, right and below right agree.
    """
    best = tf.math.top_k(logits, k=1).indices[..., 0]  # [B, h, w]
    return tf.gather(tf.where(_is_alike(best), best, -1), columns.low, axis=2, batch_dims=1)


def _is_alike(channel: tf.Tensor) -> tf.Tensor:
    """Whether a cell, the next below, the next right and that below it agree: bool [B, h, w]."""
    below = tf.concat([channel[:, 1:], channel[:, -1:]], axis=1)
    right = tf.concat([channel[:, :, 1:], channel[:, :, -1:]], axis=2)
    below_right = tf.concat([below[:, :, 1:], below[:, :, -1:]], axis=2)
    alike = tf.logical_and(tf.equal(channel, below), tf.equal(channel, right))
    return tf.logical_and(alike, tf.equal(channel, below_right))


def _compare_channels(
    logits: tf.Tensor, is_wanted: tf.Tensor, pixels: tf.Tensor, rows: _Taps, columns: _Taps
) -> tf.Tensor:
    """The largest channel of some pixels, a part of them at a time.

    Args:
      logits: float32 [B, h, w, C].
      is_wanted: bool [B, h, W], the rows and columns whose pixels are.
      pixels: int64 [M], flat positions in [B, H, W], rising.
      rows, columns: of all pixels.

    Returns:
      int32 [M].
    """
    height, width = rows.low.shape[1], columns.low.shape[1]
    is_wanted = tf.reshape(is_wanted, [-1])
    entries = tf.where(is_wanted)[:, 0]
    number = tf.cumsum(tf.cast(is_wanted, tf.int32), exclusive=True)  # of an entry
    count = tf.shape(pixels)[0]
    parts = tf.pad(pixels, [[0, -count % _PIXELS_AT_ONCE]], mode="CONSTANT")
    # The last part is filled up with its last pixel: a part reads neighbouring rows.
    parts = tf.where(tf.range(tf.shape(parts)[0]) < count, parts, tf.reduce_max(pixels))
    parts = tf.reshape(parts, [-1, _PIXELS_AT_ONCE])

    def best(part: tf.Tensor) -> tf.Tensor:
        row = part // width  # rows of all images count on
        low = tf.cast(tf.gather(tf.reshape(rows.low, [-1]), row), tf.int64)
        share = tf.gather(tf.reshape(rows.share, [-1]), row)[:, tf.newaxis]
        low += row // height * logits.shape[1]
        entry = tf.gather(number, low * width + part % width)
        first, last = tf.reduce_min(entry), tf.reduce_max(entry)
        top, step = _interpolate_columns(logits, entries[first : last + 1], columns)
        entry -= first
        values = tf.gather(top, entry) + tf.gather(step, entry) * share
        return tf.ensure_shape(tf.math.top_k(values, k=1).indices[:, 0], [_PIXELS_AT_ONCE])

    found = tf.map_fn(best, parts, fn_output_signature=tf.int32, parallel_iterations=1)
    return tf.reshape(found, [-1])[:count]


def _interpolate_columns(
    logits: tf.Tensor, entries: tf.Tensor, columns: _Taps
) -> Tuple[tf.Tensor, tf.Tensor]:
    """Logits interpolated along x only, and by how much those of the next row are larger.

    Args:
      logits: float32 [B, h, w, C].
      entries: int64 [T], flat positions in [B, h, W].
      columns: of all pixels.

    Returns:
      Two float32 [T, C].
    """
    _, height, width, channels = logits.shape
    row, column = entries // columns.low.shape[1], entries % columns.low.shape[1]
    column += row // height * columns.low.shape[1]
    low = tf.cast(tf.gather(tf.reshape(columns.low, [-1]), column), tf.int64)
    share = tf.gather(tf.reshape(columns.share, [-1]), column)[:, tf.newaxis]
    right = tf.cast(low < width - 1, tf.int64)
    below = tf.where(row % height < height - 1, tf.constant(width, tf.int64), 0)
    flat = tf.reshape(logits, [-1, channels])

    def interpolate(cell: tf.Tensor) -> tf.Tensor:
        left = tf.gather(flat, cell)
        return left + (tf.gather(flat, cell + right) - left) * share

    top = interpolate(row * width + low)
    return top, interpolate(row * width + low + below) - top

"""The largest channel in the image's own frame, and probabilities there, from few interpolations.

Panoptic-DeepLab (arXiv:1911.10194) takes the argmax of logits that are interpolated to the image,
sixteen times as many as the network gives. Interpolation is a convex combination: between four
cells with the same largest channel, that channel is the largest. Only the pixels between others
are interpolated.
"""

from __future__ import annotations

from typing import Callable, List, NamedTuple, Sequence, Tuple

import tensorflow as tf

from panoptic_tf.layers import operators
from panoptic_tf.postprocess import rescale

Size = Tuple[int, int]

_PIXELS_AT_ONCE = 2**14


class Best(NamedTuple):
    """The largest channel at each pixel.

    Attributes:
      channel: int32 [B, H, W], 0..C - 1, the first of equals.
      is_certain: bool [B, H, W], whether it is the largest of all four cells around the pixel.
    """

    channel: tf.Tensor
    is_certain: tf.Tensor


class _Taps(NamedTuple):
    """Cells along an axis between which the pixels of the output lie.

    Attributes:
      low: int32 [B, length].
      share: float32 [B, length], of the next cell.
    """

    low: tf.Tensor
    share: tf.Tensor


def find_best_channel(
    logits: tf.Tensor, image_info: tf.Tensor, output_size: Size, align_corners: bool = False
) -> Best:
    """Argmax of `rescale.rescale_to_image`.

    Args:
      logits: float32 [B, h, w, C], over the whole network frame.
      image_info: float32 [B, 4, 2].
      output_size: static (height, width).
      align_corners: see `rescale.map_positions`.
    """
    if operators.needs_static_shapes():
        channel = rescale.argmax_in_image(logits, image_info, output_size, align_corners)
        return Best(channel, tf.zeros_like(channel, tf.bool))
    rows = _taps(image_info, output_size, 0, logits.shape[1], align_corners)
    columns = _taps(image_info, output_size, 1, logits.shape[2], align_corners)
    best = tf.math.top_k(logits, k=1).indices[..., 0]  # [B, h, w]
    wide = _at_columns(tf.where(_is_alike(best), best, -1), columns)  # [B, h, W]
    channel = tf.gather(wide, rows.low, axis=1, batch_dims=1)  # [B, H, W]
    pixels = tf.where(tf.reshape(channel, [-1]) < 0)[:, 0]
    found = _compare_channels(logits, wide < 0, pixels, rows, columns)
    flat = tf.tensor_scatter_nd_update(tf.reshape(channel, [-1]), pixels[:, tf.newaxis], found)
    return Best(tf.ensure_shape(tf.reshape(flat, tf.shape(channel)), channel.shape), channel >= 0)


def interpolate_probability(
    logits: tf.Tensor,
    image_info: tf.Tensor,
    output_size: Size,
    best: Best,
    align_corners: bool = False,
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Softmax probabilities of the cells, interpolated to the image where they are asked for.

    Args:
      logits: float32 [B, h, w, C], over the whole network frame.
      image_info: float32 [B, 4, 2].
      output_size: static (height, width).
      best: of these logits.
      align_corners: see `rescale.map_positions`.

    Returns:
      From a channel for each pixel, int32 [B, H, W], to its probability, float32 [B, H, W].
    """
    rows = _taps(image_info, output_size, 0, logits.shape[1], align_corners)
    columns = _taps(image_info, output_size, 1, logits.shape[2], align_corners)
    largest = tf.reduce_max(logits, axis=-1, keepdims=True)
    total = tf.reduce_sum(tf.exp(logits - largest), axis=-1, keepdims=True)  # [B, h, w, 1]

    def everywhere(channel: tf.Tensor) -> tf.Tensor:
        probabilities = tf.exp(logits - largest) / total
        count = output_size[0] * output_size[1]
        flat = tf.reshape(probabilities, [-1, logits.shape[1] * logits.shape[2] * logits.shape[3]])
        corners = [
            tf.gather(flat, tf.reshape(index, [-1, count]), axis=1, batch_dims=1)
            for index in _corner_indices(logits, rows, columns, channel)
        ]
        corners = [tf.reshape(corner, [-1, *output_size]) for corner in corners]
        return _blend(corners, rows.share[:, :, tf.newaxis], columns.share[:, tf.newaxis, :])

    def where_uncertain(channel: tf.Tensor) -> tf.Tensor:
        probability = 1.0 / total
        probability = rescale.rescale_to_image(probability, image_info, output_size, align_corners)
        probability = tf.squeeze(probability, axis=-1)
        is_easy = tf.logical_and(best.is_certain, tf.equal(channel, best.channel))
        pixels = tf.where(tf.logical_not(tf.reshape(is_easy, [-1])))[:, 0]
        channel = tf.gather(tf.reshape(channel, [-1]), pixels)
        place = _locate(pixels, rows, columns)
        log_total = tf.reshape(largest + tf.math.log(total), [-1])
        cells = _cells(place, logits.shape[1:3])  # [M, 4]
        index = cells * logits.shape[3] + tf.cast(channel, tf.int64)[:, tf.newaxis]
        values = tf.gather(tf.reshape(logits, [-1]), index) - tf.gather(log_total, cells)
        values = tf.unstack(tf.exp(values), axis=1)
        found = _blend(values, place.row_share, place.column_share)
        flat = tf.tensor_scatter_nd_update(
            tf.reshape(probability, [-1]), pixels[:, tf.newaxis], found
        )
        return tf.ensure_shape(tf.reshape(flat, tf.shape(probability)), probability.shape)

    return everywhere if operators.needs_static_shapes() else where_uncertain


def _taps(
    image_info: tf.Tensor, output_size: Size, axis: int, map_length: int, align_corners: bool
) -> _Taps:
    positions = rescale.map_positions(image_info, output_size, axis, map_length, align_corners)
    low = tf.floor(positions)
    return _Taps(tf.cast(low, tf.int32), positions - low)


def _is_alike(channel: tf.Tensor) -> tf.Tensor:
    """Whether a cell, the next below, the next right and that below it agree: bool [B, h, w]."""
    below = tf.concat([channel[:, 1:], channel[:, -1:]], axis=1)
    right = tf.concat([channel[:, :, 1:], channel[:, :, -1:]], axis=2)
    below_right = tf.concat([below[:, :, 1:], below[:, :, -1:]], axis=2)
    alike = tf.logical_and(tf.equal(channel, below), tf.equal(channel, right))
    return tf.logical_and(alike, tf.equal(channel, below_right))


def _at_columns(maps: tf.Tensor, columns: _Taps) -> tf.Tensor:
    """[B, h, w] at the low cell of each column: [B, h, W]."""
    low = tf.tile(columns.low[:, tf.newaxis, :], [1, maps.shape[1], 1])  # [B, h, W]
    return tf.gather(maps, low, axis=2, batch_dims=2)


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
    width = columns.low.shape[1]
    is_wanted = tf.reshape(is_wanted, [-1])
    entries = tf.where(is_wanted)[:, 0]
    number = tf.cumsum(tf.cast(is_wanted, tf.int32), exclusive=True)  # of an entry
    count = tf.shape(pixels)[0]
    parts = tf.pad(pixels, [[0, -count % _PIXELS_AT_ONCE]], mode="CONSTANT")
    # The last part is filled up with its last pixel: a part reads neighbouring rows.
    parts = tf.where(tf.range(tf.shape(parts)[0]) < count, parts, tf.reduce_max(pixels))
    parts = tf.reshape(parts, [-1, _PIXELS_AT_ONCE])

    def best(part: tf.Tensor) -> tf.Tensor:
        place = _locate(part, rows, columns)
        row = place.image * logits.shape[1] + place.y
        entry = tf.gather(number, row * width + part % width)
        first, last = tf.reduce_min(entry), tf.reduce_max(entry)
        top, step = _interpolate_columns(logits, entries[first : last + 1], columns)
        entry -= first
        values = tf.gather(top, entry) + tf.gather(step, entry) * place.row_share[:, tf.newaxis]
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


class _Place(NamedTuple):
    """Where M pixels lie on the maps.

    Attributes:
      image, y, x: int64 [M]; the cell that is low in both axes.
      row_share, column_share: float32 [M], of the next cell.
    """

    image: tf.Tensor
    y: tf.Tensor
    x: tf.Tensor
    row_share: tf.Tensor
    column_share: tf.Tensor


def _locate(pixels: tf.Tensor, rows: _Taps, columns: _Taps) -> _Place:
    """Of flat positions int64 [M] in [B, H, W]."""
    height, width = rows.low.shape[1], columns.low.shape[1]
    row, column = pixels // width, pixels % width  # rows of all images count on
    image = row // height
    column += image * width
    return _Place(
        image=image,
        y=tf.cast(tf.gather(tf.reshape(rows.low, [-1]), row), tf.int64),
        x=tf.cast(tf.gather(tf.reshape(columns.low, [-1]), column), tf.int64),
        row_share=tf.gather(tf.reshape(rows.share, [-1]), row),
        column_share=tf.gather(tf.reshape(columns.share, [-1]), column),
    )


def _cells(place: _Place, map_size: Size) -> tf.Tensor:
    """Flat positions in [B, h, w] of the cells around pixels, row by row: int64 [M, 4]."""
    height, width = map_size
    y = tf.stack([place.y, tf.minimum(place.y + 1, height - 1)], axis=1)[:, :, tf.newaxis]
    x = tf.stack([place.x, tf.minimum(place.x + 1, width - 1)], axis=1)[:, tf.newaxis, :]
    image = place.image[:, tf.newaxis, tf.newaxis]
    return tf.reshape((image * height + y) * width + x, [-1, 4])


def _blend(
    corners: Sequence[tf.Tensor], row_share: tf.Tensor, column_share: tf.Tensor
) -> tf.Tensor:
    """Interpolates along x, then along y, as `rescale.rescale_to_image` does."""
    top = corners[0] + (corners[1] - corners[0]) * column_share
    bottom = corners[2] + (corners[3] - corners[2]) * column_share
    return top + (bottom - top) * row_share


def _corner_indices(
    logits: tf.Tensor, rows: _Taps, columns: _Taps, channel: tf.Tensor
) -> List[tf.Tensor]:
    """Flat positions in [h, w, C] of the four cells around each pixel: int32 [B, H, W] each."""
    _, height, width, channels = logits.shape
    found = []
    for y in (rows.low, tf.minimum(rows.low + 1, height - 1)):
        for x in (columns.low, tf.minimum(columns.low + 1, width - 1)):
            cell = y[:, :, tf.newaxis] * width + x[:, tf.newaxis, :]
            found.append(cell * channels + channel)
    return found

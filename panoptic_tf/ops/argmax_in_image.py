"""The largest channel at each pixel of the image, and the probability of a channel there.

Both from maps of the network's frame, which are interpolated to the image's own; see `rescale`.
"""

from __future__ import annotations

from typing import List, Tuple

import tensorflow as tf

from panoptic_tf.ops import blocks, forms, rescale
from panoptic_tf.ops.rescale import Size


@forms.op
def argmax_in_image(
    logits: tf.Tensor,
    image_info: tf.Tensor,
    output_size: Size,
    align_corners: bool = False,
    two_steps: bool = False,
) -> tf.Tensor:
    """The channel that is largest in the image's own frame: argmax of `rescale.rescale_to_image`.

    The interpolated logits, which are large, never exist as a whole.

    Args:
      logits: float32 [B, h, w, C], over the whole network frame.
      image_info: float32 [B, 4, 2].
      output_size: static (height, width).
      align_corners: see `rescale.map_positions`.
      two_steps: resize to the pixels of the network's frame first, then to the output, as
        detectron2 does; the same where the two have one scale.

    Returns:
      float32 [B, height, width], 0..C - 1, the first of equals.
    """
    rows, columns = (
        rescale.find_taps(
            image_info, output_size, axis, logits.shape[axis + 1], align_corners, two_steps
        )
        for axis in (0, 1)
    )
    logits = rescale.sample(logits, columns, axis=2)  # [B, h, W, C]

    def best(*taps: tf.Tensor) -> tf.Tensor:  # [B, rows] each -> [B, rows, W]
        values = rescale.sample(logits, taps, axis=1)
        return tf.cast(tf.argmax(values, axis=-1), tf.float32)

    return blocks.map_rows(best, rows, values_per_row=output_size[1] * logits.shape[-1])


def probability_in_image(
    logits: tf.Tensor,
    image_info: tf.Tensor,
    output_size: Size,
    channel: tf.Tensor,
    align_corners: bool = False,
) -> tf.Tensor:
    """Softmax probabilities of the cells, interpolated to the image, of one channel at each pixel.

    Args:
      logits: float32 [B, h, w, C], over the whole network frame.
      image_info: float32 [B, 4, 2].
      output_size: static (height, width).
      channel: float32 [B, height, width], 0..C - 1.
      align_corners: see `rescale.map_positions`.

    Returns:
      float32 [B, height, width].
    """
    rows, columns = (
        rescale.map_positions(image_info, output_size, axis, logits.shape[axis + 1], align_corners)
        for axis in (0, 1)
    )
    probabilities = tf.reshape(tf.nn.softmax(logits), [-1, logits.shape[1:].num_elements()])
    corners = [
        tf.gather(probabilities, index, axis=1, batch_dims=1)  # [B, H, W]
        for index in _corner_indices(logits.shape[1:], rows, columns, channel)
    ]
    row_share = (rows - tf.floor(rows))[:, :, tf.newaxis]
    column_share = (columns - tf.floor(columns))[:, tf.newaxis, :]
    top = corners[0] + (corners[1] - corners[0]) * column_share
    bottom = corners[2] + (corners[3] - corners[2]) * column_share
    return top + (bottom - top) * row_share


def _corner_indices(
    shape: Tuple[int, int, int], rows: tf.Tensor, columns: tf.Tensor, channel: tf.Tensor
) -> List[tf.Tensor]:
    """Flat positions in [h, w, C] of the four cells around each pixel: int64 [B, H, W] each."""
    height, width, channels = shape
    channel = tf.cast(channel, tf.int64)
    low_rows, low_columns = tf.floor(rows), tf.floor(columns)
    found = []
    for y in (low_rows, tf.minimum(low_rows + 1.0, height - 1.0)):
        for x in (low_columns, tf.minimum(low_columns + 1.0, width - 1.0)):
            cell = y[:, :, tf.newaxis] * width + x[:, tf.newaxis, :]  # [B, H, W]
            found.append(tf.cast(cell, tf.int64) * channels + channel)
    return found

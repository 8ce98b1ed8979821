"""Maps of a fixed stride in the frame of the image.

Panoptic FCN (arXiv:2012.00720) goes from its maps to the image in two steps: bilinearly to the
pixels of the network's input, cut to the image, then bilinearly to the size of the output. Both
steps are linear in rows and columns apart, so here they are one matrix for each.
"""

from __future__ import annotations

from typing import NamedTuple, Tuple

import tensorflow as tf

from panoptic_tf.ops import rescale

Size = Tuple[int, int]


class Upsampling(NamedTuple):
    """Weights from maps [h, w] to the output [H, W]; 0 beyond the image.

    Attributes:
      rows: float32 [B, H, h].
      columns: float32 [B, w, W].
    """

    rows: tf.Tensor
    columns: tf.Tensor


def build_upsampling(
    image_info: tf.Tensor, output_size: Size, *, map_size: Size, stride: int
) -> Upsampling:
    """Weights for the images of a batch.

    Args:
      image_info: float32 [B, 4, 2].
      output_size: static (H, W).
      map_size: static (h, w) of the maps; they begin where the network's frame begins.
      stride: pixels of the network's frame per cell.
    """
    rows, columns = (
        _weights(image_info, output_size, axis, map_size[axis], stride) for axis in (0, 1)
    )
    return Upsampling(rows, tf.transpose(columns, [0, 2, 1]))


def upsample(upsampling: Upsampling, maps: tf.Tensor) -> tf.Tensor:
    """One map of each image, float32 [B, h, w]: float32 [B, H, W]."""
    # [B, H, h] x ([B, h, w] x [B, w, W]) -> [B, H, W]
    return tf.matmul(upsampling.rows, tf.matmul(maps, upsampling.columns))


def best_of_maps(
    upsampling: Upsampling, maps: tf.Tensor, numbers: tf.Tensor
) -> Tuple[tf.Tensor, tf.Tensor]:
    """Which map is largest at each pixel of the image.

    Args:
      upsampling: of B images.
      maps: float32 [B, S, h, w], positive.
      numbers: float32 [B, S], of the maps, rising from 1; then 0: no map.

    Returns:
      float32 [B, H, W], the number of the largest, the first of equals; 0 beyond the image or where
      there is no map. And float32 [B, H, W], the largest value, 0 there.
    """
    count = tf.reduce_max(tf.reduce_sum(tf.cast(numbers > 0, tf.int32), axis=1))
    shape = [tf.shape(maps)[0], upsampling.rows.shape[1], upsampling.columns.shape[2]]

    def compare(i: tf.Tensor, best: tf.Tensor, found: tf.Tensor) -> Tuple[tf.Tensor, ...]:
        number = tf.gather(numbers, i, axis=1)[:, tf.newaxis, tf.newaxis]
        is_map = tf.cast(number > 0, tf.float32)
        values = upsample(upsampling, tf.gather(maps, i, axis=1) * is_map)
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
    return found, best


def _weights(
    image_info: tf.Tensor, output_size: Size, axis: int, map_length: int, stride: int
) -> tf.Tensor:
    """Weights of the map's cells along an axis, float32 [B, pixels of the output, cells]."""
    cells = tf.range(map_length, dtype=tf.float32)

    def weigh(in_network: tf.Tensor) -> tf.Tensor:
        position = tf.clip_by_value((in_network + 0.5) / stride - 0.5, 0.0, map_length - 1.0)
        return tf.nn.relu(1.0 - tf.abs(position[..., tf.newaxis] - cells))

    count = output_size[axis]
    low, high, share = rescale.two_step_taps(
        image_info, output_size, axis, count=count, to_map=weigh
    )
    share = share[..., tf.newaxis]
    size = rescale.size_in_output(image_info, output_size)[:, axis, tf.newaxis]
    inside = tf.range(count, dtype=tf.float32) < tf.cast(size, tf.float32)
    return (low * (1.0 - share) + high * share) * tf.cast(inside, tf.float32)[..., tf.newaxis]

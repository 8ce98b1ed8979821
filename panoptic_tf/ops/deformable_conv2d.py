"""Deformable convolution, version 1 (arXiv:1703.06211) and modulated, version 2 (arXiv:1811.11168).

y(p) = sum over taps k of w_k * x(p + p_k + dp_k(p)) * dm_k(p), where x is bilinear between cells
and zero outside the map. Version 1 has no dm. The samples of a part of the output cells lie in
memory at a time, and nothing of them is kept for the gradient.
"""

from __future__ import annotations

import functools
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import tensorflow as tf

from panoptic_tf.ops import chunks, forms

Size = Union[int, tf.Tensor]

_CHUNK_BYTES = 2**28
_NUM_CORNERS = 4


class Corner(NamedTuple):
    """One of the four cells around each sample.

    Attributes:
      index: of `index_dtype`, of the cell; of one on the border if it lies outside.
      weight: float32, of the same shape.
    """

    index: tf.Tensor
    weight: tf.Tensor


def find_corners(
    y: tf.Tensor, x: tf.Tensor, height: Size, width: Size, factor: Optional[tf.Tensor] = None
) -> List[Corner]:
    """The four cells around each position, and what each weighs.

    A cell outside the map weighs nothing. Positions that are not finite lie outside. The weights
    have a gradient with respect to the positions; at whole numbers it is the one towards larger
    positions, as in torchvision.

    Args:
      y: float32 [...], in cells, 0 being the center of the first.
      x: float32 [...].
      height: of the map.
      width: of the map.
      factor: float32 [...], of the weights; None is 1.

    Returns:
      Four of [...], rows before columns.
    """
    dtype = index_dtype()
    top, bottom = _along_axis(y, height, dtype)
    left, right = _along_axis(x, width, dtype)
    if factor is not None:
        top, bottom = ((cell, share * factor) for cell, share in (top, bottom))
    return [
        Corner(row[0] * tf.cast(width, dtype) + column[0], row[1] * column[1])
        for row in (top, bottom)
        for column in (left, right)
    ]


def _along_axis(
    position: tf.Tensor, size: Size, dtype: tf.DType
) -> List[Tuple[tf.Tensor, tf.Tensor]]:
    """(cell, weight) below and above each position."""
    last = tf.cast(size, tf.float32) - 1.0
    # The gradient at -1 counts: it is where the first tap of a border cell lies at offset 0.
    position = tf.where((position >= -1.0) & (position < last + 1.0), position, -1.0)
    low = tf.floor(position)
    share = position - low
    return [
        (tf.cast(tf.maximum(low, 0.0), dtype), tf.where(low >= 0.0, 1.0 - share, 0.0)),
        (tf.cast(tf.minimum(low + 1.0, last), dtype), tf.where(low < last, share, 0.0)),
    ]


def deform_conv2d(
    inputs: tf.Tensor,
    offsets: tf.Tensor,
    kernel: tf.Tensor,
    *,
    modulation: Optional[tf.Tensor] = None,
    strides: int = 1,
    dilation_rate: int = 1,
    deformable_groups: int = 1,
    training: Optional[bool] = None,
) -> tf.Tensor:
    """Convolves [B, H, W, C] with [k, k, C, D], k odd, each tap moved by an offset.

    Args:
      inputs: any float dtype.
      offsets: float32 [B, h, w, G * k * k * 2] in cells, (y, x) of every tap in row order, group by
        group; h and w are the size of the result.
      kernel: of the inputs' dtype.
      modulation: float32 [B, h, w, G * k * k], by which samples are multiplied; None is 1.
      strides: of both axes.
      dilation_rate: of both axes.
      deformable_groups: G, parts of the input channels with offsets of their own.
      training: whether gradients will be asked for.

    Returns:
      [B, h, w, D] of the inputs' dtype, where h = ceil(H / strides), w = ceil(W / strides).
    """
    batch, height, width, channels = _sizes(inputs)
    out_height, out_width = _sizes(offsets)[1:3]
    samples = kernel.shape[0] ** 2 * deformable_groups
    y, x = _positions(offsets, kernel.shape[0], strides, dilation_rate, deformable_groups)
    if modulation is not None:
        modulation = _by_tap(modulation, deformable_groups)
    first = tf.range(batch)[:, tf.newaxis, tf.newaxis] * (height * width)
    group = np.tile(np.arange(deformable_groups), kernel.shape[0] ** 2)

    def in_batch(corner: Corner) -> Corner:
        shape, dtype = [batch, out_height * out_width, samples], corner.index.dtype
        index = tf.reshape(corner.index, shape) + tf.cast(first, dtype)
        index = index * deformable_groups + tf.constant(group, dtype)
        return Corner(index, tf.reshape(corner.weight, shape))

    corners = find_corners(y, x, height, width, modulation)
    outputs = sampled_product(
        tf.reshape(tf.cast(inputs, tf.float32), [-1, channels // deformable_groups]),
        [in_batch(corner) for corner in corners],
        tf.reshape(kernel, [-1, kernel.shape[-1]]),
        training=training,
    )
    return tf.reshape(outputs, [batch, out_height, out_width, kernel.shape[-1]])


@forms.op
def index_dtype() -> tf.DType:
    """What cells are counted in: accelerators compute with int32 in host memory."""
    return tf.int64


@forms.op
def sampled_product(
    cells: tf.Tensor,
    corners: Sequence[Corner],
    kernel: tf.Tensor,
    *,
    training: Optional[bool] = None,
) -> tf.Tensor:
    """Samples of a map, those of an output cell side by side, times a matrix.

    The reference loops over parts of the output cells, whatever their number.

    Args:
      cells: float32 [N, C].
      corners: four of [B, n, S] of the cells; see `find_corners`.
      kernel: [S * C, D], of the dtype that is multiplied in.
      training: whether gradients will be asked for.

    Returns:
      [B * n, D] of the kernel's dtype.
    """
    del training
    if not cells.shape[0]:
        cells = tf.pad(cells, [[0, 1], [0, 0]])  # An empty batch has no other.
    index, weight = stack_corners(corners, axis=1)  # [M, 4, S]
    at_once = max(_CHUNK_BYTES // (4 * kernel.shape[0]), 1)

    @tf.custom_gradient
    def product(cells: tf.Tensor, weight: tf.Tensor, kernel: tf.Tensor) -> Any:
        def multiply(index: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
            return columns(_sample(cells, index, weight), kernel) @ kernel

        found = chunks.map_chunks(multiply, [index, weight], at_once=at_once, dtype=kernel.dtype)
        return found, functools.partial(_gradients, cells, index, weight, kernel, at_once)

    return product(cells, weight, kernel)


def stack_corners(corners: Sequence[Corner], *, axis: int) -> Tuple[tf.Tensor, tf.Tensor]:
    """Indices and weights of four corners [B, n, S]: [B * n, S] with the four as another axis."""
    samples = corners[0].index.shape[2]
    flat = [[tf.reshape(x, [-1, samples]) for x in corner] for corner in corners]
    index, weight = (tf.stack(x, axis=axis) for x in zip(*flat))
    return index, weight


def columns(samples: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """The samples of an output cell side by side: [..., C] -> [m, S * C], of the kernel's dtype."""
    return tf.cast(tf.reshape(samples, [-1, kernel.shape[0]]), kernel.dtype)


def _sample(cells: tf.Tensor, index: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """[N, C], [m, 4, S] -> [m, S, C]."""
    terms = [
        weight[:, i, :, tf.newaxis] * tf.gather(cells, index[:, i]) for i in range(_NUM_CORNERS)
    ]
    return (terms[0] + terms[1]) + (terms[2] + terms[3])


def _gradients(
    cells: tf.Tensor,
    index: tf.Tensor,
    weight: tf.Tensor,
    kernel: tf.Tensor,
    at_once: int,
    upstream: tf.Tensor,
) -> Tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Gradients with respect to cells, weight and kernel, of a part of the rows at a time."""
    part, count, total = chunks.sizes(index, at_once)
    samples, channels = index.shape[2], cells.shape[-1]
    stacked = [chunks.stack(x, part, count) for x in (index, weight, upstream)]

    def add(k: tf.Tensor, of_cells: tf.Tensor, of_weight: tf.TensorArray, of_kernel: tf.Tensor):
        index, weight, upstream = (x[k] for x in stacked)
        of_columns = tf.matmul(upstream, kernel, transpose_b=True)
        of_samples = tf.reshape(tf.cast(of_columns, tf.float32), [part, samples, channels])
        dots = []
        for i in range(_NUM_CORNERS):
            corner, share = index[:, i], weight[:, i, :, tf.newaxis]
            dots.append(tf.reduce_sum(tf.gather(cells, corner) * of_samples, axis=-1))
            of_cells = tf.tensor_scatter_nd_add(
                of_cells, corner[..., tf.newaxis], share * of_samples
            )
        sampled = columns(_sample(cells, index, weight), kernel)
        of_part = tf.matmul(sampled, upstream, transpose_a=True)
        return (
            k + 1,
            of_cells,
            of_weight.write(k, tf.stack(dots, axis=1)),  # [m, 4, S]
            of_kernel + tf.cast(of_part, tf.float32),
        )

    start = (
        tf.constant(0),
        tf.zeros_like(cells),
        tf.TensorArray(tf.float32, count, element_shape=[None, _NUM_CORNERS, samples]),
        tf.zeros(kernel.shape),
    )
    _, of_cells, of_weight, of_kernel = tf.while_loop(
        lambda k, *_: k < count, add, start, parallel_iterations=1
    )
    of_weight = tf.reshape(of_weight.stack(), [-1, _NUM_CORNERS, samples])[:total]
    return of_cells, of_weight, tf.cast(of_kernel, kernel.dtype)


def _sizes(x: tf.Tensor) -> Tuple[Any, ...]:
    """Plain integers where static."""
    shape = tf.shape(x)
    return tuple(shape[i] if size is None else size for i, size in enumerate(x.shape))


def _by_tap(x: tf.Tensor, groups: int) -> tf.Tensor:
    """[B, h, w, G * k * k] -> [B, h, w, k * k * G]: groups are neighbours, as channels are."""
    if groups == 1:
        return x
    batch, height, width, samples = _sizes(x)
    x = tf.reshape(x, [-1, groups, samples // groups])
    return tf.reshape(tf.transpose(x, [0, 2, 1]), [batch, height, width, samples])


def _positions(
    offsets: tf.Tensor, size: int, strides: int, dilation_rate: int, groups: int
) -> Tuple[tf.Tensor, tf.Tensor]:
    """Where taps read, y and x: [B, h, w, k * k * G] each."""
    batch, height, width, channels = _sizes(offsets)
    pairs = tf.reshape(tf.cast(offsets, tf.float32), [batch, height, width, channels // 2, 2])
    y, x = (_by_tap(part, groups) for part in tf.unstack(pairs, axis=-1))
    taps = (np.arange(size, dtype=np.float32) - (size - 1) // 2) * dilation_rate
    taps_y, taps_x = (np.repeat(part, groups) for part in np.meshgrid(taps, taps, indexing="ij"))
    rows, columns = (
        tf.range(count, dtype=tf.float32)[:, tf.newaxis] * strides for count in (height, width)
    )
    return y + (rows + taps_y)[:, tf.newaxis], x + (columns + taps_x)

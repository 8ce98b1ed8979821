"""Deformable convolution, version 1 (arXiv:1703.06211) and modulated, version 2 (arXiv:1811.11168).

y(p) = sum over taps k of w_k * x(p + p_k + dp_k(p)) * dm_k(p), where x is bilinear between cells
and zero outside the map. Version 1 has no dm. The samples of a part of the output cells lie in
memory at a time, and nothing of them is kept for the gradient.
"""

from __future__ import annotations

from typing import Any, Callable, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import tensorflow as tf

from panoptic_tf.ops import forms

Size = Union[int, tf.Tensor]

_CHUNK_BYTES = 2**28


class Corner(NamedTuple):
    """One of the four cells around each sample.

    Attributes:
      index: int32 or int64, of the cell; of one on the border if it lies outside.
      weight: float32, of the same shape.
    """

    index: tf.Tensor
    weight: tf.Tensor


def find_corners(
    y: tf.Tensor,
    x: tf.Tensor,
    height: Size,
    width: Size,
    *,
    factor: Optional[tf.Tensor],
    index_dtype: tf.DType,
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
      index_dtype: of the indices.

    Returns:
      Four of [...], rows before columns.
    """
    top, bottom = _along_axis(y, height, index_dtype)
    left, right = _along_axis(x, width, index_dtype)
    if factor is not None:
        top, bottom = ((cell, share * factor) for cell, share in (top, bottom))
    return [
        Corner(row[0] * tf.cast(width, index_dtype) + column[0], row[1] * column[1])
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


Product = Callable[[tf.Tensor, Sequence[Corner], tf.Tensor], tf.Tensor]
"""Of cells float32 [N, C], four corners [B, n, S], a kernel [S * C, D]: [B * n, D], its dtype."""


@forms.op
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
    del training
    return convolve_by(
        _product,
        inputs,
        offsets,
        kernel,
        modulation=modulation,
        strides=strides,
        dilation_rate=dilation_rate,
        deformable_groups=deformable_groups,
        index_dtype=tf.int64,  # TensorFlow computes with int32 in host memory.
    )


def convolve_by(
    product: Product,
    inputs: tf.Tensor,
    offsets: tf.Tensor,
    kernel: tf.Tensor,
    *,
    modulation: Optional[tf.Tensor],
    strides: int,
    dilation_rate: int,
    deformable_groups: int,
    index_dtype: tf.DType,
) -> tf.Tensor:
    """`deform_conv2d` by a product of samples and a matrix; `index_dtype` is that of corners."""
    batch, height, width, channels = _sizes(inputs)
    out_height, out_width = _sizes(offsets)[1:3]
    samples = kernel.shape[0] ** 2 * deformable_groups
    y, x = _positions(offsets, kernel.shape[0], strides, dilation_rate, deformable_groups)
    if modulation is not None:
        modulation = _by_tap(modulation, deformable_groups)
    first = tf.range(batch)[:, tf.newaxis, tf.newaxis] * (height * width)
    first = tf.cast(first, index_dtype)
    group = np.tile(np.arange(deformable_groups), kernel.shape[0] ** 2)
    group = tf.constant(group, index_dtype)

    def in_batch(corner: Corner) -> Corner:
        shape = [batch, out_height * out_width, samples]
        index = (tf.reshape(corner.index, shape) + first) * deformable_groups + group
        return Corner(index, tf.reshape(corner.weight, shape))

    corners = find_corners(y, x, height, width, factor=modulation, index_dtype=index_dtype)
    outputs = product(
        tf.reshape(tf.cast(inputs, tf.float32), [-1, channels // deformable_groups]),
        [in_batch(corner) for corner in corners],
        tf.reshape(kernel, [-1, kernel.shape[-1]]),
    )
    return tf.reshape(outputs, [batch, out_height, out_width, kernel.shape[-1]])


def _product(cells: tf.Tensor, corners: Sequence[Corner], kernel: tf.Tensor) -> tf.Tensor:
    """See `Product`; a loop over parts of the rows, whatever their number."""
    cells = tf.pad(cells, [[0, 1], [0, 0]])  # An empty batch has no other.
    channels, filters = cells.shape[-1], kernel.shape[-1]
    samples = kernel.shape[0] // channels
    flat = [[tf.reshape(x, [-1, samples]) for x in corner] for corner in corners]
    index, weight = (tf.stack(x) for x in zip(*flat))  # [4, M, S]
    part, count, total = _parts(index, samples * channels)

    def split(x: tf.Tensor, axis: int) -> tf.Tensor:
        """Parts first, the last one filled up with zeros."""
        missing = [*x.shape[:axis], count * part - total, *x.shape[axis + 1 :]]
        shape = [*x.shape[:axis], count, part, *x.shape[axis + 1 :]]
        # Not a pad, which of int64 is no operator of GPUs.
        x = tf.reshape(tf.concat([x, tf.zeros(missing, x.dtype)], axis), shape)
        return tf.transpose(x, [axis, *(i for i in range(len(shape)) if i != axis)])

    def sample(index: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
        """[4, m, S] -> [m, S, C]."""
        terms = [w[..., tf.newaxis] * tf.gather(cells, i) for i, w in _corners(index, weight)]
        return (terms[0] + terms[1]) + (terms[2] + terms[3])

    @tf.custom_gradient
    def product(cells: tf.Tensor, weight: tf.Tensor, kernel: tf.Tensor) -> Any:
        def forward(chunk: Tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
            return columns(sample(*chunk), kernel) @ kernel

        chunks = (split(index, 1), split(weight, 1))
        found = tf.map_fn(forward, chunks, fn_output_signature=kernel.dtype, parallel_iterations=1)

        def gradient(upstream: tf.Tensor) -> Tuple[tf.Tensor, ...]:
            upstreams = split(upstream, 0)

            def add(i: tf.Tensor, of_cells: tf.Tensor, of_weight: tf.TensorArray, of_kernel: Any):
                index, weight, upstream = chunks[0][i], chunks[1][i], upstreams[i]
                of_columns = tf.matmul(upstream, kernel, transpose_b=True)
                of_samples = tf.reshape(tf.cast(of_columns, tf.float32), [part, samples, channels])
                dots = []
                for cell, w in _corners(index, weight):
                    dots.append(tf.reduce_sum(tf.gather(cells, cell) * of_samples, axis=-1))
                    of_cells = tf.tensor_scatter_nd_add(
                        of_cells, cell[..., tf.newaxis], w[..., tf.newaxis] * of_samples
                    )
                of_one = tf.matmul(
                    columns(sample(index, weight), kernel), upstream, transpose_a=True
                )
                return (
                    i + 1,
                    of_cells,
                    of_weight.write(i, tf.stack(dots, axis=1)),  # [m, 4, S]
                    of_kernel + tf.cast(of_one, tf.float32),
                )

            start = (
                tf.constant(0),
                tf.zeros_like(cells),
                tf.TensorArray(tf.float32, count, element_shape=[None, 4, samples]),
                tf.zeros(kernel.shape),
            )
            _, of_cells, of_weight, of_kernel = tf.while_loop(
                lambda i, *_: i < count, add, start, parallel_iterations=1
            )
            of_weight = tf.reshape(of_weight.stack(), [-1, 4, samples])[:total]
            return (
                of_cells,
                tf.transpose(of_weight, [1, 0, 2]),
                tf.cast(of_kernel, kernel.dtype),
            )

        return tf.reshape(found, [-1, filters])[:total], gradient

    return product(cells, weight, kernel)


def columns(samples: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """The samples of an output cell side by side: [..., C] -> [m, S * C], of the kernel's dtype."""
    return tf.cast(tf.reshape(samples, [-1, kernel.shape[0]]), kernel.dtype)


def _parts(index: tf.Tensor, values: int) -> Tuple[Size, Size, Size]:
    """Rows of a part, parts and rows of [4, M, S], of so many values a row; plain where static."""
    most = max(_CHUNK_BYTES // (4 * values), 1)
    total = index.shape[1]
    if total is not None:
        part = max(min(most, total), 1)
        return part, max(-(-total // part), 1), total
    total = tf.shape(index)[1]
    part = tf.clip_by_value(total, 1, most)
    return part, tf.maximum((total + part - 1) // part, 1), total


def _corners(index: tf.Tensor, weight: tf.Tensor) -> List[Tuple[tf.Tensor, tf.Tensor]]:
    return [(index[i], weight[i]) for i in range(4)]


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

"""ROI align as one product with a sparse matrix of weights.

No copy of the cells that a box covers, and a gradient that is the transposed product.
"""

from __future__ import annotations

import tensorflow as tf

from panoptic_tf.ops import forms
from panoptic_tf.ops import roi_align as reference
from panoptic_tf.ops.cpu import sparse


@forms.register(reference.roi_align, forms.Form.CPU)
def roi_align(
    cells: tf.Tensor, regions: reference.Regions, *, output_size: int, sampling_ratio: int
) -> tf.Tensor:
    """See the reference."""
    y, x = (
        sparse.axis_taps(
            regions.start[:, i],
            regions.end[:, i],
            regions.size[:, i],
            bins=output_size,
            sampling_ratio=sampling_ratio,
        )
        for i in range(2)
    )
    region = y.bin // output_size
    base, width = (tf.cast(x, tf.int32) for x in (regions.base, regions.size[:, 1]))
    first = tf.gather(base, region) + y.cell * tf.gather(width, region)
    y_index = tf.stack([y.bin * output_size, first], axis=-1)  # (row, column) of the matrix
    x_index = tf.stack([x.bin % output_size, x.cell], axis=-1)
    # Every tap along y meets all taps along x of its box: neighbours in memory, read in order.
    starts = tf.gather(x.row_splits, region)
    counts = tf.gather(x.row_splits, region + 1) - starts
    pairs = sparse.ragged_ranges(tf.range(tf.size(region)), starts, counts)
    of_y, of_x = tf.unstack(pairs, axis=-1)
    index = tf.gather(y_index, of_y) + tf.gather(x_index, of_x)
    weight = tf.gather(y.weight, of_y) * tf.gather(x.weight, of_x)
    rows = tf.size(regions.base) * output_size**2
    return sparse.sparse_product(index, weight, cells, rows=rows)

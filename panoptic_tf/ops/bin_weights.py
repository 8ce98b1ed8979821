"""Which cells the bins of a region read along one axis, and how much each weighs.

ROI align (Mask R-CNN, arXiv:1703.06870, section 3) averages bilinear samples over bins of a box.
Bilinear weights and a regular grid of samples are both products over the axes, so a bin is
sum over cells (y, x) of weight_y * weight_x * feature[y, x]: the samples of one axis are merged
into weights of the cells between the first and the last, far fewer than the corners of all samples.

Conventions of torchvision and detectron2 ("aligned"): intervals are in cells whose centers are the
integers; a sample up to one cell outside reads the border, one further out reads zero and counts;
an interval without length reads nothing where the number of samples adapts. One that is not finite
reads zero.
"""

from __future__ import annotations

from typing import NamedTuple, Tuple

import tensorflow as tf

# Where samples adapt they lie more than half a cell apart (or there is one), so that at most four
# fall within a cell of a cell; one more for rounding.
_SAMPLES_NEAR_A_CELL = 5
_FAR = 1e8
_OUTSIDE = -2.0
_SMALLEST_STEP = 1e-30  # of an interval without length


class Bins(NamedTuple):
    """Sampling of the bins; every field broadcasts to [N, S].

    Attributes:
      start: float32, where the bin starts.
      length: float32, of a bin.
      samples: float32, how many; 0 for an empty interval where they adapt.
      last_cell: float32, of the axis.
    """

    start: tf.Tensor
    length: tf.Tensor
    samples: tf.Tensor
    last_cell: tf.Tensor

    def position(self, index: tf.Tensor) -> tf.Tensor:
        """Where the samples lie."""
        return self.start + (index + 0.5) * self.length / tf.maximum(self.samples, 1.0)

    def clamp(self, position: tf.Tensor) -> tf.Tensor:
        """Positions moved onto the axis."""
        return tf.minimum(tf.maximum(position, 0.0), self.last_cell)

    def share(self, index: tf.Tensor) -> tf.Tensor:
        """What the samples weigh in the mean: nothing outside, or where there is no such sample."""
        position = self.position(index)
        inside = (position >= -1.0) & (position <= self.last_cell + 1.0)
        return tf.where(inside & (index < self.samples), 1.0 / tf.maximum(self.samples, 1.0), 0.0)


def split(
    start: tf.Tensor, end: tf.Tensor, size: tf.Tensor, *, bins: int, sampling_ratio: int
) -> Bins:
    """Divides intervals into bins.

    Args:
      start: float32 [N], in cells, the center of the first cell being 0.
      end: float32 [N].
      size: int32 [N], cells along the axis.
      bins: S.
      sampling_ratio: samples per bin; 0 takes the bin's length, rounded up.
    """
    usable = (tf.abs(start) < _FAR) & (tf.abs(end) < _FAR)  # and is a number
    start, end = (tf.where(usable, x, _OUTSIDE) for x in (start, end))
    length = (tf.maximum(end - start, 0.0) / bins)[:, tf.newaxis]  # [N, 1]
    starts = start[:, tf.newaxis] + tf.range(bins, dtype=tf.float32) * length
    fixed = tf.fill(tf.shape(length), float(sampling_ratio))
    samples = fixed if sampling_ratio else tf.math.ceil(length)
    return Bins(starts, length, samples, tf.cast(size, tf.float32)[:, tf.newaxis] - 1.0)


def first_and_last(bins: Bins) -> Tuple[tf.Tensor, tf.Tensor]:
    """First and last cell that the samples of each bin touch: whole float32 [N, S]."""
    first = tf.floor(bins.clamp(bins.position(tf.zeros([1, 1]))))
    last = tf.floor(bins.clamp(bins.position(bins.samples - 1.0)))
    return first, tf.minimum(tf.maximum(last, first) + 1.0, bins.last_cell)


def cell_weights(bins: Bins, cells: tf.Tensor, sampling_ratio: int) -> tf.Tensor:
    """What cells weigh in bins, 1 in sum over a bin whose samples all lie inside.

    Args:
      bins: of fields that broadcast to [..., 1].
      cells: float32 [...], whole numbers on the axis.
      sampling_ratio: see `split`.

    Returns:
      float32 [...]; 0 of a cell that no sample touches.
    """
    cells = cells[..., tf.newaxis]
    if sampling_ratio:
        index = tf.range(sampling_ratio, dtype=tf.float32)
    else:
        step = tf.maximum(bins.length / tf.maximum(bins.samples, 1.0), _SMALLEST_STEP)
        first = tf.floor((cells - 1.0 - bins.start) / step - 0.5)  # at or before cell - 1
        index = tf.maximum(first, 0.0) + tf.range(_SAMPLES_NEAR_A_CELL, dtype=tf.float32)
    distance = tf.abs(bins.clamp(bins.position(index)) - cells)
    return tf.reduce_sum(bins.share(index) * tf.nn.relu(1.0 - distance), axis=-1)


def expand(bins: Bins, rank: int = 1) -> Bins:
    """Adds dimensions of 1 at the end."""
    return Bins(*(x[(..., *[tf.newaxis] * rank)] for x in bins))

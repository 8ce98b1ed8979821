"""Repeat-factor sampling: images with a rare category come more often in a pass (LVIS).

arXiv:1908.03195: f(c) is the share of the images that have the category c, its factor is
r(c) = max(1, sqrt(t / f(c))), an image's factor r is the largest of its categories. In each pass
the image comes floor(r) times, and once more with probability r - floor(r).
"""

from __future__ import annotations

from typing import Callable, Optional

import numpy as np
import tensorflow as tf

from panoptic_tf.inputs.category_counts import CategoryCounts


def repeat_factors(counts: CategoryCounts, threshold: float) -> np.ndarray:
    """The factor of every category, things and stuff.

    Args:
      counts: of the training records.
      threshold: t, 0..1; images with categories in a smaller share of them are repeated.

    Returns:
      float32 [N + 1] by category id; 1 for void, and where no image has the category.
    """
    shares = counts.images / max(counts.num_images, 1)
    factors = np.sqrt(threshold / np.where(counts.images > 0, shares, 1.0))
    return np.maximum(factors, 1.0).astype(np.float32)


def repeat_elements(
    dataset: tf.data.Dataset,
    factors: np.ndarray,
    categories_of: Callable[..., tf.Tensor],
    *,
    seed: Optional[int] = None,
) -> tf.data.Dataset:
    """Repeats each element by the factor of its image, rounded anew in each pass.

    Copies follow one another: shuffle afterwards.

    Args:
      dataset: one pass.
      factors: float32 [N + 1] by category id.
      categories_of: maps an element to the category ids of its image, int [S]; those that `factors`
        does not have are ignored.
      seed: makes the rounding repeatable.
    """
    table = tf.constant(factors)
    draws = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)

    def repeat(element, draw: tf.Tensor) -> tf.data.Dataset:
        ids = categories_of(*element)
        ids = tf.where((ids > 0) & (ids < len(factors)), ids, 0)
        factor = tf.reduce_max(tf.gather(table, tf.concat([[0], ids], axis=0)))
        position = tf.cast(draw, tf.float32) / 2.0**32  # 0..1
        count = tf.cast(tf.floor(factor), tf.int64)
        count += tf.cast(position < factor - tf.floor(factor), tf.int64)
        return tf.data.Dataset.from_tensors(element).repeat(count)

    return tf.data.Dataset.zip((dataset, draws)).flat_map(repeat)

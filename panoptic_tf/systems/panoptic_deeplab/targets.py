"""Training targets of Panoptic-DeepLab (arXiv:1911.10194, section 3): Gaussian centers and offsets.

Matches recorded outputs of detectron2's Panoptic-DeepLab target generator.
"""

from __future__ import annotations

from typing import Tuple

import numpy as np
import tensorflow as tf

from panoptic_tf.inputs import instances, lookup
from panoptic_tf.structures import PanopticSample, Tensors


class PanopticDeepLabTargetGenerator:
    """Turns a sample into labels of Panoptic-DeepLab, all at the network's resolution.

    Labels:
      category_mask: int32 [H, W], 0 is ignored.
      semantic_weights: float32 [H, W], `small_instance_weight` on small instances, else 1.
      center_heatmap: float32 [H, W, 1], maximum over instances of exp(-d^2 / (2 sigma^2)) in a
        window of 3 sigma + 1 pixels around the rounded center of mass.
      center_weights: float32 [H, W, 1], 1 on annotated pixels, 0 on crowds unless they are learned.
      offsets: float32 [H, W, 2], (y, x) from the pixel to the unrounded center of mass.
      offset_weights: float32 [H, W, 1], as center_weights, and only on things if so configured.
    """

    def __init__(
        self,
        *,
        sigma: int = 8,
        small_instance_area: int = 4096,
        small_instance_weight: float = 3.0,
        ignore_stuff_in_offset: bool = True,
        ignore_crowd_in_semantic: bool = True,
        learn_crowds: bool = False,
    ):
        """See the class.

        Args:
          sigma: standard deviation of the Gaussian, pixels.
          small_instance_area: visible area in pixels below which an instance is small.
          small_instance_weight: weight of its pixels in the semantic loss.
          ignore_stuff_in_offset: no offset loss on stuff.
          ignore_crowd_in_semantic: crowd pixels are void for the semantic loss (the original
            implementation); detectron2 keeps them.
          learn_crowds: a crowd counts for the centers and offsets like an instance (with
            `ignore_crowd_in_semantic` off), so that its pixels gather in a segment of their own,
            which panoptic quality forgives, instead of joining the nearest instance.

        Raises:
          ValueError: crowds are to be learned, but not by the semantic branch.
        """
        if learn_crowds and ignore_crowd_in_semantic:
            raise ValueError(
                "targets.learn_crowds needs targets.ignore_crowd_in_semantic=false: a crowd that "
                "has a center must have a category."
            )
        self._sigma = sigma
        self._small_instance_area = small_instance_area
        self._small_instance_weight = small_instance_weight
        self._ignore_stuff_in_offset = ignore_stuff_in_offset
        self._ignore_crowd_in_semantic = ignore_crowd_in_semantic
        self._learn_crowds = learn_crowds

    def __call__(self, sample: PanopticSample) -> Tuple[Tensors, Tensors]:
        """Returns no additional features, and the labels of the class docstring."""
        ids = sample.instance_mask
        table = instances.instance_table(ids, sample.category_mask, sample.crowd_mask)
        is_small = table.areas < self._small_instance_area
        weights = tf.where(is_small, float(self._small_instance_weight), 1.0)
        centers = tf.round(table.centers)  # so that no digits are lost in float32
        remainders = tf.cast(table.centers - centers, tf.float32)
        labels = _label_pixels(
            ids,
            sample.category_mask,
            sample.crowd_mask,
            lookup.pad_table(tf.concat([[1.0], weights], axis=0)),
            lookup.pad_table(tf.pad(tf.cast(centers, tf.float32), [[1, 0], [0, 0]])),
            lookup.pad_table(tf.pad(remainders, [[1, 0], [0, 0]])),
            learn_crowds=self._learn_crowds,
            ignore_stuff_in_offset=self._ignore_stuff_in_offset,
            ignore_crowd_in_semantic=self._ignore_crowd_in_semantic,
        )
        labels["center_heatmap"] = self._draw_centers(table, tuple(ids.shape))
        return {}, labels

    def _draw_centers(self, table: instances.InstanceTable, size: Tuple[int, int]) -> tf.Tensor:
        """Scatters one window per instance into a canvas with a border as wide as the window."""
        sigma = self._sigma
        reach = 3 * sigma + 1
        span = np.arange(-reach, reach + 1, dtype=np.int32)  # [S]
        distance = np.square(span)[:, np.newaxis] + np.square(span)
        window = tf.constant(np.exp(-distance / (2.0 * sigma**2)), tf.float32)  # [S, S]
        present = tf.where(table.areas > 0)[:, 0]
        centers = tf.cast(tf.round(tf.gather(table.centers, present)), tf.int32) + reach  # [M, 2]
        rows = centers[:, 0, tf.newaxis] + span  # [M, S]
        columns = centers[:, 1, tf.newaxis] + span  # [M, S]
        width = size[1] + 2 * reach
        flat = rows[:, :, tf.newaxis] * width + columns[:, tf.newaxis, :]  # [M, S, S]
        canvas = tf.zeros([(size[0] + 2 * reach) * width])
        canvas = tf.tensor_scatter_nd_max(
            canvas,
            tf.reshape(flat, [-1, 1]),
            tf.reshape(tf.broadcast_to(window, tf.shape(flat)), [-1]),
        )
        heatmap = tf.reshape(canvas, [-1, width])[reach:-reach, reach:-reach]
        return tf.ensure_shape(heatmap[..., tf.newaxis], [*size, 1])


@lookup.compiled
def _label_pixels(
    ids: tf.Tensor,
    categories: tf.Tensor,
    is_crowd: tf.Tensor,
    weights: tf.Tensor,
    centers: tf.Tensor,
    remainders: tf.Tensor,
    *,
    learn_crowds: bool,
    ignore_stuff_in_offset: bool,
    ignore_crowd_in_semantic: bool,
) -> Tensors:
    """All labels but the heat map; weights [N] and centers + remainders [N, 2] by instance id."""
    on_thing = ids > 0
    annotated = categories > 0
    if not learn_crowds:
        annotated = tf.logical_and(annotated, tf.logical_not(is_crowd))
    with_offset = tf.logical_and(annotated, on_thing) if ignore_stuff_in_offset else annotated
    height, width = ids.shape
    grid = tf.stack(tf.meshgrid(tf.range(height), tf.range(width), indexing="ij"), axis=-1)
    offsets = tf.gather(centers, ids) - tf.cast(grid, tf.float32) + tf.gather(remainders, ids)
    return {
        "category_mask": tf.where(is_crowd, 0, categories)
        if ignore_crowd_in_semantic
        else categories,
        "semantic_weights": tf.gather(weights, ids),
        "center_weights": tf.cast(annotated, tf.float32)[..., tf.newaxis],
        "offsets": tf.where(on_thing[..., tf.newaxis], offsets, 0.0),
        "offset_weights": tf.cast(with_offset, tf.float32)[..., tf.newaxis],
    }

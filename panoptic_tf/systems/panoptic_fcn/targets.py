"""Training targets of Panoptic FCN (arXiv:2012.00720): centers, stuff regions, masks.

Matches recorded outputs of the authors' ground truth generator, instance by instance there.
"""

from __future__ import annotations

from typing import Mapping, Sequence, Tuple

import tensorflow as tf

from panoptic_tf.inputs import geometry, instances
from panoptic_tf.inputs import masks as masks_lib
from panoptic_tf.structures import PanopticSample, Tensors
from panoptic_tf.systems.panoptic_fcn import assignment

_Sizes = Mapping[str, assignment.Size]

_CENTER_TYPES = ("mass", "box")


class PanopticFCNTargetGenerator:
    """Turns a sample into features and labels of Panoptic FCN, M instances at most.

    Instances are those of the record where the sample has them, else those of the id map. Crowds
    are none, and of more than M the largest stay. h4 x w4 is the map at stride 4, a level l has
    h x w cells (`assignment.level_size`), L is the number of levels.

    Features, where there are thing categories (rows past the last instance are 0):
      gt_classes: int32 [M], thing index.
      gt_masks: uint8 [h4, w4, M], how many of the 2x2 pixels in a cell's middle are the instance's:
        4 times what the bilinear resize by one quarter reads.
      gt_levels: bool [M, L], the levels that an instance is learned on: those that its size, the
        square root of its box's area, is in the range of; these overlap.
      gt_centers: int32 [M, L], y * w + x of the cell that its center lies in.
    and where there is stuff:
      gt_stuff: uint8 [h4, w4, S], as gt_masks.

    Labels, for each level l, things and stuff as above:
      center_heatmap_l: float32 [h, w, T]; see `assignment.gaussian_heatmap`.
      stuff_scores_l: float32 [h, w, S], covered share of a cell, 0 below one half.
      valid_l: float32 [h, w], 0 in the padding of the frame.
    and once:
      num_pairs: float32 [], number of (instance, level) pairs; with thing categories.
      is_annotated: float32 [], 0 where no pixel is annotated: nothing is known to be background.
    """

    def __init__(
        self,
        *,
        thing_ids: Sequence[int],
        stuff_channel_of_category: Sequence[int],
        num_stuff_channels: int,
        levels: Sequence[str] = ("3", "4", "5", "6", "7"),
        instance_scales: Sequence[Sequence[float]] = (
            (1, 64),
            (32, 128),
            (64, 256),
            (128, 512),
            (256, 2048),
        ),
        max_instances: int = 100,
        center_type: str = "mass",
        min_overlap: float = 0.7,
        sigma_factor: float = 3.0,
    ):
        """See the class.

        Args:
          thing_ids: contiguous ids of the thing categories; empty: no things.
          stuff_channel_of_category: stuff channel + 1 by category id, 0 for none, entry 0 is 0;
            empty: no stuff.
          num_stuff_channels: S.
          levels: base-2 logarithms of the strides.
          instance_scales: smallest and largest size of each level's instances, both included.
          max_instances: M.
          center_type: `mass`, mean position of the mask's cells at stride 4, or `box`, its middle,
            which is also taken where a mask has no such cell.
          min_overlap, sigma_factor: see `assignment.gaussian_radius` and `gaussian_heatmap`.

        Raises:
          ValueError: an unknown center type, not one range for each level, or a number that is out
            of range.
        """
        if max_instances < 1 or not 0.0 < min_overlap < 1.0 or sigma_factor <= 0.0:
            raise ValueError(
                "task.targets needs max_instances >= 1, min_overlap between 0 and 1 and a positive "
                f"sigma_factor, got {max_instances}, {min_overlap} and {sigma_factor}."
            )
        if center_type not in _CENTER_TYPES:
            raise ValueError(
                f"task.targets.center_type must be one of {', '.join(_CENTER_TYPES)}, got "
                f"{center_type!r}."
            )
        if len(instance_scales) != len(levels) or any(len(scale) != 2 for scale in instance_scales):
            raise ValueError(
                f"task.targets.instance_scales needs a smallest and a largest size for each of the "
                f"{len(levels)} levels {', '.join(levels)}, got {list(instance_scales)}."
            )
        self._thing_ids = tuple(thing_ids)
        self._stuff_channels = tuple(stuff_channel_of_category)
        self._num_stuff_channels = num_stuff_channels
        self._levels = tuple(levels)
        self._instance_scales = tuple(tuple(scale) for scale in instance_scales)
        self._max_instances = max_instances
        self._center_type = center_type
        self._min_overlap = min_overlap
        self._sigma_factor = sigma_factor

    def __call__(self, sample: PanopticSample) -> Tuple[Tensors, Tensors]:
        """Returns features and labels of the class docstring."""
        network_size = tuple(sample.image.shape[:2])
        sizes = {level: assignment.level_size(network_size, level) for level in self._levels}
        image_size = geometry.valid_size(sample.image_info)
        annotated = tf.reduce_any(sample.category_mask > 0)
        features, labels = {}, {"is_annotated": tf.cast(annotated, tf.float32)}
        for level, size in sizes.items():
            labels[f"valid_{level}"] = assignment.valid_cells(
                image_size, level_size=size, network_size=network_size
            )
        if self._stuff_channels:
            channels = tf.constant(self._stuff_channels, tf.int32)
            stuff = masks_lib.count_channels(
                sample.category_mask, channels, self._num_stuff_channels
            )
            features["gt_stuff"] = stuff
            for level, size in sizes.items():
                scores = assignment.stuff_scores(stuff, level_size=size)
                labels[f"stuff_scores_{level}"] = scores
        if self._thing_ids:
            thing_features, thing_labels = self._things(sample, network_size, sizes)
            features.update(thing_features)
            labels.update(thing_labels)
        return features, labels

    def _things(
        self, sample: PanopticSample, network_size: assignment.Size, sizes: _Sizes
    ) -> Tuple[Tensors, Tensors]:
        chosen = instances.choose_instances(
            sample, thing_ids=self._thing_ids, max_instances=self._max_instances
        )
        masks = self._masks(sample, chosen.rows)
        centers = self._centers(masks, chosen.boxes)  # [M, 2], cells at stride 4
        is_assigned = self._assign(chosen)
        labels = {"num_pairs": tf.reduce_sum(tf.cast(is_assigned, tf.float32))}
        cells = []
        for i, (level, size) in enumerate(sizes.items()):
            ratios = tf.constant(_ratios(size, masks.shape), tf.float64)
            center = tf.cast(centers * ratios, tf.int32)  # truncated
            cells.append(center[:, 0] * size[1] + center[:, 1])
            labels[f"center_heatmap_{level}"] = assignment.gaussian_heatmap(
                center,
                self._radius(chosen.boxes, _ratios(size, network_size)),
                chosen.classes,
                is_assigned[:, i],
                size=size,
                num_classes=len(self._thing_ids),
                sigma_factor=self._sigma_factor,
            )
        features = {
            "gt_classes": chosen.classes,
            "gt_masks": masks,
            "gt_levels": is_assigned,
            "gt_centers": tf.where(chosen.valid[:, tf.newaxis], tf.stack(cells, axis=-1), 0),
        }
        return features, labels

    def _assign(self, chosen: instances.ChosenInstances) -> tf.Tensor:
        """Bool [M, L], whether a level's range of sizes has the instance."""
        height, width = _extents(chosen.boxes)
        size = tf.sqrt(height * width)[:, tf.newaxis]
        scales = tf.constant(self._instance_scales, tf.float32)  # [L, 2]
        in_range = tf.logical_and(size >= scales[:, 0], size <= scales[:, 1])
        return tf.logical_and(in_range, chosen.valid[:, tf.newaxis])

    def _radius(self, boxes: tf.Tensor, ratios: Tuple[float, float]) -> tf.Tensor:
        """Int32 [M] of boxes in pixels, cells; `ratios`: cells per pixel."""
        height, width = (extent * ratio for extent, ratio in zip(_extents(boxes), ratios))
        radius = assignment.gaussian_radius(height, width, min_overlap=self._min_overlap)
        return tf.cast(radius, tf.int32)  # truncated

    def _masks(self, sample: PanopticSample, chosen: tf.Tensor) -> tf.Tensor:
        """`gt_masks`."""
        if sample.instances is None:
            rows = instances.row_of_id(sample.instance_mask, chosen) + 1
            return masks_lib.count_channels(sample.instance_mask, rows, self._max_instances)
        counts = tf.gather(masks_lib.count_masks(sample.instances.masks), chosen)  # [K, h4, w4]
        counts = tf.transpose(counts, [1, 2, 0])
        counts = tf.pad(counts, [[0, 0], [0, 0], [0, self._max_instances - tf.size(chosen)]])
        return tf.ensure_shape(counts, [*counts.shape[:2], self._max_instances])

    def _centers(self, masks: tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:
        """Float64 [M, 2], in cells at stride 4."""
        boxes = tf.cast(boxes, tf.float64)
        middle = (boxes[:, :2] + boxes[:, 2:]) / (2.0 * masks_lib.STRIDE)
        if self._center_type == "box":
            return middle
        height, width, count = masks.shape
        occupied = tf.minimum(masks, 1)
        in_rows = instances.column_counts(occupied)  # [h4, M]
        occupied = tf.reshape(occupied, [1, height, width * count])
        in_columns = tf.reshape(instances.column_counts(occupied), [width, count])  # [w4, M]
        areas = tf.cast(tf.reduce_sum(in_rows, axis=0), tf.float64)[:, tf.newaxis]
        totals = [
            tf.linalg.matvec(cells, tf.range(length), transpose_a=True)
            for cells, length in ((in_rows, height), (in_columns, width))
        ]
        totals = tf.cast(tf.stack(totals, axis=-1), tf.float64)  # [M, 2]
        return tf.where(areas > 0, tf.math.divide_no_nan(totals, areas), middle)


def _extents(boxes: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
    """Heights and widths of [M, 4]: float32 [M] each."""
    return boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]


def _ratios(size: Sequence[int], other: Sequence[int]) -> Tuple[float, float]:
    return size[0] / other[0], size[1] / other[1]

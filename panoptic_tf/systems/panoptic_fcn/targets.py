"""Training targets of Panoptic FCN (arXiv:2012.00720, section 3.1): centers, stuff regions, masks.

Recorded behaviour: the authors' ground truth generator, instance by instance there.
"""

from __future__ import annotations

from typing import Sequence, Tuple

import tensorflow as tf

from panoptic_tf.inputs import geometry, instances
from panoptic_tf.structures import PanopticSample, Tensors
from panoptic_tf.systems.panoptic_fcn import assignment

_STRIDE = 4
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
          ValueError: an unknown center type, or not one range for each level.
        """
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
            stuff = _count_channels(sample.category_mask, channels, self._num_stuff_channels)
            features["gt_stuff"] = stuff
            for level, size in sizes.items():
                scores = assignment.stuff_scores(stuff, level_size=size)
                labels[f"stuff_scores_{level}"] = scores
        if self._thing_ids:
            thing_features, thing_labels = self._things(sample, network_size, sizes)
            features.update(thing_features)
            labels.update(thing_labels)
        return features, labels

    def _things(self, sample: PanopticSample, network_size, sizes) -> Tuple[Tensors, Tensors]:
        chosen = instances.choose_instances(
            sample, thing_ids=self._thing_ids, max_instances=self._max_instances
        )
        masks = self._masks(sample, chosen.rows)
        centers = self._centers(masks, chosen.boxes)  # [M, 2], cells at stride 4
        extents = chosen.boxes[:, 2:] - chosen.boxes[:, :2]  # [M, 2], pixels
        scales = tf.constant(self._instance_scales, tf.float32)  # [L, 2]
        size = tf.sqrt(extents[:, :1] * extents[:, 1:])
        is_assigned = tf.logical_and(size >= scales[:, 0], size <= scales[:, 1])
        is_assigned = tf.logical_and(is_assigned, chosen.valid[:, tf.newaxis])

        cells, labels = [], {"num_pairs": tf.reduce_sum(tf.cast(is_assigned, tf.float32))}
        for i, (level, (height, width)) in enumerate(sizes.items()):
            ratios = tf.constant([height / masks.shape[0], width / masks.shape[1]], tf.float64)
            center = tf.cast(centers * ratios, tf.int32)  # truncated
            cells.append(center[:, 0] * width + center[:, 1])
            ratios = [height / network_size[0], width / network_size[1]]
            radius = assignment.gaussian_radius(
                extents[:, 0] * ratios[0], extents[:, 1] * ratios[1], min_overlap=self._min_overlap
            )
            labels[f"center_heatmap_{level}"] = assignment.gaussian_heatmap(
                center,
                tf.cast(radius, tf.int32),
                chosen.classes,
                is_assigned[:, i],
                size=(height, width),
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

    def _masks(self, sample: PanopticSample, chosen: tf.Tensor) -> tf.Tensor:
        if sample.instances is None:
            rows = instances.row_of_id(sample.instance_mask, chosen) + 1
            return _count_channels(sample.instance_mask, rows, self._max_instances)
        counts = tf.gather(_count_masks(sample.instances.masks), chosen)  # [K, h4, w4]
        counts = tf.transpose(counts, [1, 2, 0])
        counts = tf.pad(counts, [[0, 0], [0, 0], [0, self._max_instances - tf.size(chosen)]])
        return tf.ensure_shape(counts, [*counts.shape[:2], self._max_instances])

    def _centers(self, masks: tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:
        boxes = tf.cast(boxes, tf.float64)
        middle = (boxes[:, :2] + boxes[:, 2:]) / (2.0 * _STRIDE)  # [M, 2]
        if self._center_type == "box":
            return middle
        occupied = tf.cast(masks > 0, tf.int32)
        counts = [tf.reduce_sum(occupied, axis=axis) for axis in (1, 0)]  # [h4, M], [w4, M]
        area = tf.reduce_sum(counts[0], axis=0)  # [M]
        totals = [
            tf.reduce_sum(count * tf.range(tf.shape(count)[0])[:, tf.newaxis], axis=0)
            for count in counts
        ]
        totals = tf.cast(tf.stack(totals, axis=-1), tf.float64)  # [M, 2]
        mean = tf.math.divide_no_nan(totals, tf.cast(area, tf.float64)[:, tf.newaxis])
        return tf.where(area[:, tf.newaxis] > 0, mean, middle)


def _count_channels(ids: tf.Tensor, channel_of_id: tf.Tensor, num_channels: int) -> tf.Tensor:
    """How many of a cell's four middle pixels each channel has.

    Args:
      ids: int32 [H, W].
      channel_of_id: int32, channel + 1 by id, 0 is none.
      num_channels: N.

    Returns:
      uint8 [h4, w4, N], 0..4.
    """
    height, width = (-(-length // _STRIDE) for length in ids.shape)
    ids = tf.pad(ids, [[0, -length % _STRIDE] for length in ids.shape])
    middle = [ids[y::_STRIDE, x::_STRIDE] for y in (1, 2) for x in (1, 2)]  # [h4, w4] each
    channels = tf.gather(channel_of_id, tf.reshape(tf.stack(middle), [4, -1]))  # [4, P]
    one_hot = tf.eye(num_channels + 1, dtype=tf.uint8)[:, 1:]
    counts = tf.gather(4 * one_hot, channels[0])  # [P, N], right wherever all four are equal
    mixed = tf.where(tf.reduce_any(channels[1:] != channels[0], axis=0))  # [Q, 1]
    parts = [tf.gather(one_hot, tf.gather_nd(channel, mixed)) for channel in tf.unstack(channels)]
    counts = tf.tensor_scatter_nd_update(counts, mixed, tf.add_n(parts))
    return tf.reshape(counts, [height, width, num_channels])


def _count_masks(masks: tf.Tensor) -> tf.Tensor:
    """How many of a cell's four middle pixels a mask has: uint8 [K, H, W] -> [K, h4, w4], 0..4."""
    height, width = (-(-length // _STRIDE) for length in masks.shape[1:])
    if (height * _STRIDE, width * _STRIDE) != tuple(masks.shape[1:]):
        around = [[0, -length % _STRIDE] for length in masks.shape[1:]]
        masks = tf.pad(masks, [[0, 0], *around])
    # Whole rows first: the strided read of single pixels is the slower one.
    masks = tf.reshape(masks, [-1, height, _STRIDE, width * _STRIDE])
    rows = tf.reshape(masks[:, :, 1] + masks[:, :, 2], [-1, height, width, _STRIDE])
    return rows[..., 1] + rows[..., 2]

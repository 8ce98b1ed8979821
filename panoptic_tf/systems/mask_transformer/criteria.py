"""How masks are compared with the truth: on points (Mask2Former) or on all pixels (MaskFormer)."""

from __future__ import annotations

from typing import Protocol, Sequence, Tuple

import numpy as np
import tensorflow as tf

from panoptic_tf.layers.resize import resize_bilinear
from panoptic_tf.losses import point_sampling
from panoptic_tf.losses.focal import sigmoid_focal_loss
from panoptic_tf.losses.smoothed_dice import smoothed_dice
from panoptic_tf.systems.mask_transformer import matching


class MaskCriterion(Protocol):
    """The truth of a batch, and costs and losses of masks beside it.

    Attributes:
      values_per_mask: how many values of a mask the losses have in memory.
    """

    values_per_mask: int

    def cells(self, features: tf.Tensor) -> tf.Tensor:
        """Features where masks are compared for matching: [B, h, w, C] -> [B, N, C]."""

    def masks(self, numbers: tf.Tensor) -> tf.Tensor:
        """The truth there, 0..1: of segments with these numbers, float32 [B, M] -> [B, M, N]."""

    def mask_costs(self, logits: tf.Tensor, masks: tf.Tensor) -> tf.Tensor:
        """Mask losses of all pairs there: [B, Q, N], [B, M, N] -> [B, M, Q]."""

    def losses(self, logits: tf.Tensor, numbers: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
        """Mask loss and dice loss of each mask.

        Args:
          logits: float32 [B, h, w, s, L], of L predictions of s segments.
          numbers: float32 [B, s], of the segments.

        Returns:
          float32 [B, s, L] each.
        """


class PointCriterion:
    """Binary cross-entropy and dice on points (Mask2Former, arXiv:2112.01527, section 3.3).

    Costs are means over uniform points, losses over as many, most of them where the mask's own
    logits are nearest to 0.

    A departure: the points of an image are shared by its masks and predictions, where the authors
    draw them anew for each. The loss of a mask is distributed as theirs.
    """

    def __init__(
        self,
        segment_map: tf.Tensor,
        points: Sequence[tf.Tensor],
        *,
        num_uncertain: int,
    ):
        """See the class.

        Args:
          segment_map: integers [B, H, W], number of each pixel's segment.
          points: float32 [B, P, 2] each: those of the costs, those that uncertain ones are chosen
            from, and those that the losses have besides; see `losses.point_sampling`.
          num_uncertain: how many are chosen.
        """
        self._of_costs, candidates, others = points
        self._of_losses = tf.concat([candidates, others], axis=1)
        self._num_candidates = candidates.shape[1]
        self._num_uncertain = num_uncertain
        self._num_points = num_uncertain + others.shape[1]
        self._segment_map = segment_map
        self._samples = point_sampling.sample_segments(segment_map, self._of_losses)
        self.values_per_mask = self._of_losses.shape[1]

    def cells(self, features: tf.Tensor) -> tf.Tensor:
        """See `MaskCriterion`: samples of products are products of samples."""
        return point_sampling.sample(features, self._of_costs)

    def masks(self, numbers: tf.Tensor) -> tf.Tensor:
        """See `MaskCriterion`."""
        return point_sampling.sample_segments(self._segment_map, self._of_costs).masks(numbers)

    def mask_costs(self, logits: tf.Tensor, masks: tf.Tensor) -> tf.Tensor:
        """See `MaskCriterion`."""
        return matching.entropy_costs(logits, masks)

    def losses(self, logits: tf.Tensor, numbers: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
        """See `MaskCriterion`."""
        shape = tf.shape(logits)
        maps = tf.reshape(logits, tf.concat([shape[:3], [shape[3] * shape[4]]], axis=0))
        x = tf.transpose(point_sampling.sample(maps, self._of_losses), [0, 2, 1])
        x = tf.reshape(x, [shape[0], shape[3], shape[4], self.values_per_mask])  # [B, s, L, P]
        t = self._samples.masks(numbers)[:, :, tf.newaxis]  # [B, s, 1, P]
        candidates, others = x[..., : self._num_candidates], x[..., self._num_candidates :]
        chosen = point_sampling.choose_uncertain(candidates, self._num_uncertain)
        weights = tf.concat([chosen, tf.ones_like(others)], axis=-1)
        entropy = tf.reduce_sum(weights * (tf.nn.softplus(x) - x * t), axis=-1)
        p = weights * tf.sigmoid(x)
        overlap, area = tf.reduce_sum(p * t, axis=-1), tf.reduce_sum(weights * t, axis=-1)
        dice = smoothed_dice(overlap, tf.reduce_sum(p, axis=-1) + area)
        return entropy / self._num_points, dice


class WholeCriterion:
    """Focal loss and dice on all pixels (MaskFormer, arXiv:2107.06278, section 3.3).

    As its code has it: logits are resized bilinearly to the truth; for matching, the truth is that
    of the pixel at the top left of each cell.
    """

    def __init__(self, segment_map: tf.Tensor, *, feature_size: Sequence[int]):
        """See the class.

        Args:
          segment_map: integers [B, H, W], static but for B, number of each pixel's segment.
          feature_size: h, w of the features.
        """
        # TensorFlow computes int32 on the host.
        self._segment_map = tf.cast(segment_map, tf.float32)
        self._size = segment_map.shape[1:]
        self._feature_size = feature_size
        self.values_per_mask = self._size.num_elements()

    def cells(self, features: tf.Tensor) -> tf.Tensor:
        """See `MaskCriterion`."""
        return tf.reshape(
            features, [-1, self._feature_size[0] * self._feature_size[1], features.shape[3]]
        )

    def masks(self, numbers: tf.Tensor) -> tf.Tensor:
        """See `MaskCriterion`."""
        cells = self._segment_map
        for axis, count in enumerate(self._feature_size, start=1):
            pixels = np.arange(count) * self._segment_map.shape[axis] // count
            cells = tf.gather(cells, pixels, axis=axis)
        cells = tf.reshape(cells, [-1, 1, self._feature_size[0] * self._feature_size[1]])
        return tf.cast(cells == numbers[..., tf.newaxis], tf.float32)

    def mask_costs(self, logits: tf.Tensor, masks: tf.Tensor) -> tf.Tensor:
        """See `MaskCriterion`."""
        return matching.focal_costs(logits, masks)

    def losses(self, logits: tf.Tensor, numbers: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
        """See `MaskCriterion`."""
        shape = tf.shape(logits)
        maps = tf.reshape(logits, tf.concat([shape[:3], [shape[3] * shape[4]]], axis=0))
        x = resize_bilinear(maps, self._size)
        x = tf.reshape(x, tf.concat([[shape[0]], self._size, shape[3:]], axis=0))
        own = numbers[:, tf.newaxis, tf.newaxis]  # [B, 1, 1, s]
        t = tf.cast(self._segment_map[..., tf.newaxis] == own, tf.float32)[..., tf.newaxis]
        focal = sigmoid_focal_loss(x, tf.broadcast_to(t, tf.shape(x)))  # [B, H, W, s, L]
        p = tf.sigmoid(x)
        overlap, area = (tf.reduce_sum(values, axis=[1, 2]) for values in (p * t, t))
        dice = smoothed_dice(overlap, tf.reduce_sum(p, axis=[1, 2]) + area)
        return tf.reduce_mean(focal, axis=[1, 2]), dice

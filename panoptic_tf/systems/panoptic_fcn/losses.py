"""The loss of Panoptic FCN (arXiv:2012.00720).

L = lambda_pos (L_things + L_stuff) + lambda_seg (Dice_things + Dice_stuff), each with the published
normaliser, taken over the global batch.
"""

from __future__ import annotations

from typing import Mapping, Optional, Sequence

import tensorflow as tf

from panoptic_tf.losses.focal import sigmoid_focal_loss
from panoptic_tf.losses.reduction import reduce_loss
from panoptic_tf.structures import Tensors
from panoptic_tf.systems.panoptic_fcn.mask_losses import kernel_losses

THING_LOSSES = ("loss/position_things", "loss/segment_things")
STUFF_LOSSES = ("loss/position_stuff", "loss/segment_stuff")


class PanopticFCNLoss:
    """The losses of things and of stuff, of those that are there.

    Matches recorded outputs of the authors' implementation. The centers' focal loss is a sum over
    all cells and classes, divided by the number of (instance, level) pairs; that of stuff a mean
    over the cells of a level, summed over classes and levels and divided by the number of images;
    dice losses are divided by the number of (instance, level) and (category, level) pairs.

    Departures: cells in the padding of the frame and images without any annotated pixel cost
    nothing and are not counted.
    """

    def __init__(
        self,
        *,
        position_weight: float = 1.0,
        segment_weight: float = 3.0,
        alpha: float = 0.25,
        gamma: float = 2.0,
        class_weights: Optional[Sequence[float]] = None,
    ):
        """See the class.

        Args:
          position_weight: lambda_pos.
          segment_weight: lambda_seg.
          alpha, gamma: see `sigmoid_focal_loss`.
          class_weights: factors of the stuff channels in `loss/position_stuff`, S; None: 1. Centers
            are one cell for each instance, whatever its pixels, and a dice loss does not depend on
            how many pixels there are, so neither has weights.

        Raises:
          ValueError: `alpha` is not in 0..1 or `gamma` is negative.
        """
        if not 0.0 <= alpha <= 1.0 or gamma < 0.0:
            raise ValueError(
                f"task.losses needs alpha in 0..1 and gamma >= 0, got {alpha} and {gamma}."
            )
        self._position_weight = position_weight
        self._segment_weight = segment_weight
        self._class_weights = class_weights
        self._focal = {"alpha": alpha, "gamma": gamma}

    def __call__(self, labels: Tensors, outputs: Tensors) -> Tensors:
        """Computes the losses.

        Args:
          labels: what `PanopticFCNTargetGenerator` makes, batched.
          outputs: for each level l `center_logits_l`, `stuff_logits_l`: float32 [B, h, w, n], what
            `KernelSampler` returns, kernels of C channels, and the encoded feature
            [B, h4, w4, C] as `thing_map` and `stuff_map`.

        Returns:
          `loss` and its parts, float32 []; see `reduce_loss`.
        """
        losses = {}
        centers, regions = (_by_level(outputs, name) for name in ("center_logits", "stuff_logits"))
        if centers:
            losses["loss/position_things"] = self._position_weight * self._centers(labels, centers)
            losses["loss/segment_things"] = self._segment_weight * _thing_masks(labels, outputs)
        if regions:
            losses["loss/position_stuff"] = self._position_weight * self._regions(labels, regions)
            losses["loss/segment_stuff"] = self._segment_weight * _stuff_masks(labels, outputs)
        return {"loss": tf.add_n(list(losses.values())), **losses}

    def _centers(self, labels: Tensors, logits: Tensors) -> tf.Tensor:
        total = sum(self._sums(labels, logits, "center_heatmap").values())
        is_annotated = labels["is_annotated"]
        # Divided by 1 where the global batch has no pair: its cells are background all the same.
        scale = reduce_loss(tf.ones([1]), labels["num_pairs"] * is_annotated)
        return tf.reduce_sum(total * is_annotated) * tf.where(scale > 0.0, scale, 1.0)

    def _regions(self, labels: Tensors, logits: Tensors) -> tf.Tensor:
        sums = self._sums(labels, logits, "stuff_scores", self._class_weights)
        means = [
            tf.math.divide_no_nan(total, tf.reduce_sum(labels[f"valid_{level}"], axis=[1, 2]))
            for level, total in sums.items()
        ]
        is_annotated = labels["is_annotated"]
        return reduce_loss(tf.add_n(means) * is_annotated, is_annotated)

    def _sums(
        self,
        labels: Tensors,
        logits: Mapping[str, tf.Tensor],
        targets: str,
        class_weights: Optional[Sequence[float]] = None,
    ) -> Mapping[str, tf.Tensor]:
        """Focal loss of each image, summed over classes and valid cells: {level: [B]}."""
        sums = {}
        for level, x in logits.items():
            cells = sigmoid_focal_loss(x, labels[f"{targets}_{level}"], **self._focal)
            if class_weights is not None:
                cells *= tf.constant(class_weights, tf.float32)
            cells = tf.reduce_sum(cells, axis=-1) * labels[f"valid_{level}"]  # [B, h, w]
            sums[level] = tf.reduce_sum(cells, axis=[1, 2])
        return sums


def _by_level(outputs: Tensors, name: str) -> Tensors:
    """The outputs `<name>_<level>` by level."""
    prefix = f"{name}_"
    return {key[len(prefix) :]: x for key, x in outputs.items() if key.startswith(prefix)}


def _thing_masks(labels: Tensors, outputs: Tensors) -> tf.Tensor:
    return _dice(
        labels,
        outputs["thing_map"],
        outputs["thing_kernels"],
        outputs["sampled_masks"],
        outputs["sampled_rows"],
        outputs["sampled_weights"],
        outputs["sampled_valid"],
    )


def _stuff_masks(labels: Tensors, outputs: Tensors) -> tf.Tensor:
    valid = outputs["sampled_stuff_valid"]  # [B, Q]
    return _dice(
        labels,
        outputs["stuff_map"],
        outputs["stuff_kernels"][:, :, tf.newaxis],  # one for each pair
        outputs["sampled_stuff_masks"],
        outputs["sampled_stuff_rows"],
        tf.ones_like(valid)[..., tf.newaxis],
        valid,
    )


def _dice(
    labels: Tensors,
    encoded: tf.Tensor,
    kernels: tf.Tensor,
    masks: tf.Tensor,
    rows: tf.Tensor,
    weights: tf.Tensor,
    valid: tf.Tensor,
) -> tf.Tensor:
    """The mean over valid pairs, float32 [B, P]; see `kernel_losses`."""
    losses = kernel_losses(kernels, encoded, masks, tf.cast(rows, tf.int32), weights)
    valid *= labels["is_annotated"][:, tf.newaxis]
    return reduce_loss(tf.reduce_sum(losses * valid, axis=1), tf.reduce_sum(valid, axis=1))

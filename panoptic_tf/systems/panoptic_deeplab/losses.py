"""The loss of Panoptic-DeepLab (arXiv:1911.10194, section 3.3).

L = lambda_sem L_sem + lambda_heatmap L_heatmap + lambda_offset L_offset, on the heads' outputs
upsampled to the network's resolution.
"""

from __future__ import annotations

from typing import Optional, Sequence

import tensorflow as tf

from panoptic_tf.layers.resize import resize_bilinear
from panoptic_tf.losses.class_weights import weigh_pixels
from panoptic_tf.losses.cross_entropy import WeightedBootstrappedCrossEntropy
from panoptic_tf.losses.reduction import reduce_loss
from panoptic_tf.losses.regression import WeightedAbsoluteError, WeightedMeanSquaredError
from panoptic_tf.structures import Tensors


class PanopticDeepLabLoss:
    """Semantic, center and offset losses; heads that are absent cost nothing."""

    def __init__(
        self,
        *,
        semantic_weight: float = 1.0,
        center_weight: float = 200.0,
        offset_weight: float = 0.01,
        top_k_fraction: float = 0.2,
        rank_over: str = "image",
        align_corners: bool = False,
        class_weights: Optional[Sequence[float]] = None,
    ):
        """See the class.

        Args:
          semantic_weight, center_weight, offset_weight: the lambdas.
          top_k_fraction, rank_over: see `WeightedBootstrappedCrossEntropy`.
          align_corners: of the upsampling of the outputs; see `resize_bilinear`.
          class_weights: factors of the semantic pixel weights, by channel of the logits; pixels are
            ranked with them. None: 1.
        """
        self._align_corners = align_corners
        self._class_weights = class_weights
        self._weights = (semantic_weight, center_weight, offset_weight)
        self._cross_entropy = WeightedBootstrappedCrossEntropy(
            top_k_fraction=top_k_fraction, rank_over=rank_over, align_corners=align_corners
        )
        self._center_error = WeightedMeanSquaredError(name="center_error")
        self._offset_error = WeightedAbsoluteError(name="offset_error")

    def __call__(self, labels: Tensors, outputs: Tensors) -> Tensors:
        """Computes the losses.

        Args:
          labels: what `PanopticDeepLabTargetGenerator` makes, batched.
          outputs: `semantic_logits` [B, h, w, N]; `center_heatmap` [B, h, w, 1] and `offsets`
            [B, h, w, 2] in pixels of the network's input.

        Returns:
          `loss` and its parts, float32 []; see `reduce_loss`.
        """
        size = labels["category_mask"].shape[1:3]
        semantic_weight, center_weight, offset_weight = self._weights
        losses = {
            "loss/semantic": semantic_weight
            * reduce_loss(
                *self._cross_entropy(
                    outputs["semantic_logits"],
                    labels["category_mask"],
                    self._pixel_weights(labels),
                )
            )
        }
        if "center_heatmap" in outputs:
            losses["loss/center"] = center_weight * reduce_loss(
                *self._center_error(
                    self._upsample(outputs["center_heatmap"], size),
                    labels["center_heatmap"],
                    labels["center_weights"],
                )
            )
            losses["loss/offset"] = offset_weight * reduce_loss(
                *self._offset_error(
                    self._upsample(outputs["offsets"], size),
                    labels["offsets"],
                    labels["offset_weights"],
                )
            )
        return {"loss": tf.add_n(list(losses.values())), **losses}

    def _pixel_weights(self, labels: Tensors) -> tf.Tensor:
        weights = labels["semantic_weights"]
        if self._class_weights is None:
            return weights
        return weights * weigh_pixels(labels["category_mask"], self._class_weights)

    def _upsample(self, x: tf.Tensor, size: tf.TensorShape) -> tf.Tensor:
        return resize_bilinear(x, size, align_corners=self._align_corners)

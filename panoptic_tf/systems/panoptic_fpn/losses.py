"""The loss of Panoptic FPN (arXiv:1901.02446, section 3.3).

L = lambda_i (L_rpn_class + L_rpn_box + L_class + L_box + L_mask) + lambda_s L_semantic, each with
its published normaliser, taken over the global batch.
"""

from __future__ import annotations

from typing import Optional, Sequence

import tensorflow as tf

from panoptic_tf.losses.class_weights import weigh_pixels
from panoptic_tf.losses.cross_entropy import pixel_cross_entropy
from panoptic_tf.losses.reduction import reduce_loss
from panoptic_tf.structures import Tensors

INSTANCE_LOSSES = ("loss/rpn_class", "loss/rpn_box", "loss/class", "loss/box", "loss/mask")
SEMANTIC_LOSSES = ("loss/semantic",)


class PanopticFPNLoss:
    """All losses of the branches that are there.

    Matches recorded outputs of detectron2. Both RPN losses are divided by the number of sampled
    anchors, the full count of every image; the class loss is a mean over the sampled regions, the
    box loss a sum over positives divided by all sampled regions; the mask loss a mean over the
    cells of the positives; the semantic loss a mean over annotated pixels, at the network's
    resolution. Box losses are L1.
    """

    def __init__(
        self,
        *,
        instance_weight: float = 1.0,
        semantic_weight: float = 0.5,
        class_weights: Optional[Sequence[float]] = None,
    ):
        """See the class.

        Args:
          instance_weight, semantic_weight: lambda_i and lambda_s.
          class_weights: by channel of the semantic logits; the semantic loss is then
            sum w CE / sum w. None: 1.
        """
        self._class_weights = class_weights
        self._instance_weight = instance_weight
        self._semantic_weight = semantic_weight

    def __call__(self, labels: Tensors, outputs: Tensors) -> Tensors:
        """Computes the losses.

        Args:
          labels: what `PanopticFPNTargetGenerator` makes, batched.
          outputs: of the training network.

        Returns:
          `loss` and its parts, float32 []; see `reduce_loss`.
        """
        losses = {}
        if "rpn_logits" in outputs:
            instance = {**_rpn_losses(labels, outputs), **_box_losses(outputs)}
            instance["loss/mask"] = _mask_loss(outputs)
            losses.update({k: self._instance_weight * v for k, v in instance.items()})
        if "semantic_logits" in outputs:
            loss = _semantic_loss(
                outputs["semantic_logits"], labels["semantic_mask"], self._class_weights
            )
            losses["loss/semantic"] = self._semantic_weight * loss
        return {"loss": tf.add_n(list(losses.values())), **losses}


def _rpn_losses(labels: Tensors, outputs: Tensors) -> Tensors:
    indices = labels["anchor_indices"]
    logits = tf.gather(outputs["rpn_logits"], indices, axis=1, batch_dims=1)  # [B, R]
    deltas = tf.gather(outputs["rpn_deltas"], indices, axis=1, batch_dims=1)  # [B, R, 4]
    classes, weights = labels["anchor_classes"], labels["anchor_weights"]
    entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels=classes, logits=logits)
    distance = tf.reduce_sum(tf.abs(deltas - labels["anchor_deltas"]), axis=-1)
    count = tf.ones_like(weights)
    return {
        "loss/rpn_class": _reduce(entropy * weights, count),
        "loss/rpn_box": _reduce(distance * weights * classes, count),
    }


def _box_losses(outputs: Tensors) -> Tensors:
    weights, is_positive = outputs["sampled_weights"], outputs["sampled_is_positive"]
    classes = outputs["sampled_classes"]  # [B, R, T + 1], one-hot
    entropy = tf.nn.softmax_cross_entropy_with_logits(classes, outputs["class_logits"])
    # [B, R, T, 4] x [B, R, T] -> [B, R, 4]: the deltas of the region's own class.
    deltas = tf.reduce_sum(outputs["box_deltas"] * classes[..., :-1, tf.newaxis], axis=2)
    distance = tf.reduce_sum(tf.abs(deltas - outputs["sampled_deltas"]), axis=-1)
    return {
        "loss/class": _reduce(entropy * weights, weights),
        "loss/box": _reduce(distance * is_positive, weights),
    }


def _mask_loss(outputs: Tensors) -> tf.Tensor:
    entropy = tf.nn.sigmoid_cross_entropy_with_logits(
        labels=outputs["sampled_masks"], logits=outputs["mask_logits"]
    )  # [B, K, m, m]
    weights = outputs["sampled_mask_weights"]  # [B, K]
    return _reduce(tf.reduce_mean(entropy, axis=[2, 3]) * weights, weights)


def _semantic_loss(
    logits: tf.Tensor, mask: tf.Tensor, class_weights: Optional[Sequence[float]]
) -> tf.Tensor:
    losses = pixel_cross_entropy(logits, mask)
    if class_weights is not None:
        weights = weigh_pixels(mask, class_weights)
        return _reduce(losses * weights, weights)
    return _reduce(losses, tf.cast(tf.cast(mask, tf.bool), tf.float32))


def _reduce(losses: tf.Tensor, normalizer: tf.Tensor) -> tf.Tensor:
    axes: Sequence[int] = range(1, losses.shape.rank)
    return reduce_loss(tf.reduce_sum(losses, axis=axes), tf.reduce_sum(normalizer, axis=axes))

"""The loss of mask transformers: Mask2Former (arXiv:2112.01527) and MaskFormer (arXiv:2107.06278).

L = lambda_class L_class + lambda_mask L_mask + lambda_dice L_dice, summed over all predictions,
each matched with the segments for itself.
"""

from __future__ import annotations

from typing import Callable, Optional, Sequence

import numpy as np
import tensorflow as tf

from panoptic_tf.losses.cross_entropy import WeightedBootstrappedCrossEntropy
from panoptic_tf.losses.point_sampling import draw_points
from panoptic_tf.losses.reduction import reduce_loss
from panoptic_tf.ops.trim import trim
from panoptic_tf.structures import VOID, Tensors
from panoptic_tf.systems.mask_transformer import criteria, matching
from panoptic_tf.systems.mask_transformer.mask_losses import sum_mask_losses

MASK_LOSSES = ("points", "whole")


class MaskTransformerLoss:
    """Losses of classes and of masks, of queries matched with segments.

    Matches recorded outputs of the `transformers` library. The mask losses are sums over segments
    divided by their number in the global batch, the class loss a weighted mean over its queries;
    the lambdas are also those of the costs that are matched by. Void and crowds are background of
    every mask.

    Departures: images without any annotated pixel cost nothing, where the authors let their queries
    learn "no object"; segments that a crop leaves empty are none, where theirs are truth with an
    empty mask; the class loss is normalised over the global batch, not over each replica; masks of
    an image share its points (see `PointCriterion`).
    """

    def __init__(
        self,
        *,
        mask_loss: str = "points",
        class_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        semantic_weight: float = 1.0,
        semantic_top_k_fraction: float = 1.0,
        no_object_weight: float = 0.1,
        num_points: int = 12544,
        oversample_ratio: float = 3.0,
        importance_ratio: float = 0.75,
        class_weights: Optional[Sequence[float]] = None,
        points: Callable[[tf.Tensor, int], tf.Tensor] = draw_points,
    ):
        """See the class.

        Args:
          mask_loss: `points`: cross-entropy and dice on points; `whole`: focal loss and dice on all
            pixels. The rest of the points' arguments is of the former alone.
          class_weight, mask_weight, dice_weight: the lambdas.
          semantic_weight: of the cross-entropy of cells, where the network has a semantic branch
            (arXiv:2207.04044).
          semantic_top_k_fraction: share of an image's cells that it is the mean of, the hardest
            ones; see `WeightedBootstrappedCrossEntropy`.
          no_object_weight: weight of queries without a segment in the class loss.
          num_points: of each mask.
          oversample_ratio: points that uncertain ones are chosen from, in `num_points`.
          importance_ratio: share of uncertain points, 0..1.
          class_weights: factors of the classes in the class loss, K; None: 1.
          points: from seeds [B, 2] and a count to points [B, count, 2]; see `point_sampling`.

        Raises:
          ValueError: an argument is out of range.
        """
        if mask_loss not in MASK_LOSSES:
            raise ValueError(
                f"task.losses.mask_loss must be one of {', '.join(MASK_LOSSES)}, got {mask_loss!r}."
            )
        if num_points < 1 or not 0.0 <= importance_ratio <= 1.0 <= oversample_ratio:
            raise ValueError(
                "task.losses needs num_points >= 1 and 0 <= importance_ratio <= 1 <= "
                f"oversample_ratio, got {num_points}, {importance_ratio} and {oversample_ratio}."
            )
        self._mask_loss = mask_loss
        self._class_weight = class_weight
        self._mask_weight = mask_weight
        self._dice_weight = dice_weight
        self._semantic_weight = semantic_weight
        self._cross_entropy = WeightedBootstrappedCrossEntropy(
            top_k_fraction=semantic_top_k_fraction
        )
        self._no_object_weight = no_object_weight
        self._class_weights = class_weights
        self._num_uncertain = int(importance_ratio * num_points)
        self._num_points = [
            num_points,
            int(oversample_ratio * num_points),
            num_points - self._num_uncertain,
        ]
        self._points = points

    def __call__(self, labels: Tensors, outputs: Tensors) -> Tensors:
        """Computes the losses.

        Args:
          labels: what `MaskTransformerTargetGenerator` makes, batched.
          outputs: of L predictions and Q queries, at least as many as segments: `class_logits`
            [B, L, Q, K + 1], the last for "no object"; `mask_embeddings` [B, L, Q, C] and
            `mask_features` [B, h, w, C], or [B, L, h, w, C] where each prediction has its own,
            whose product are the logits of the masks; of a semantic branch `semantic_logits`
            [B, h, w, K].

        Returns:
          `loss` and its parts, float32 []; see `reduce_loss`. Gradients are those of `loss`; the
          masks' parts have none.
        """
        if outputs["mask_features"].shape.rank == 4:
            losses = self._of_images(labels, outputs)
            if "semantic_logits" in outputs:
                semantic = self._semantic_weight * self._semantic(
                    labels, outputs["semantic_logits"]
                )
                losses["loss"] += semantic
                losses["loss/semantic"] = semantic
            return losses
        # As many images of one prediction each, whose mean is the predictions' sum by their number.
        num_predictions = outputs["mask_features"].shape[1]
        images = {}
        for key, x in outputs.items():
            first = [-1] if key == "mask_features" else [-1, 1]
            images[key] = tf.reshape(x, [*first, *x.shape[2:]])
        labels = {key: tf.repeat(x, num_predictions, axis=0) for key, x in labels.items()}
        losses = self._of_images(labels, images)
        return {key: num_predictions * value for key, value in losses.items()}

    def _of_images(self, labels: Tensors, outputs: Tensors) -> Tensors:
        """See above; all predictions share the features."""
        class_logits, embeddings, features = (
            tf.cast(outputs[key], tf.float32)
            for key in ("class_logits", "mask_embeddings", "mask_features")
        )
        valid = tf.cast(labels["segment_valid"], tf.float32)
        counts = tf.reduce_sum(valid, axis=1)  # [B]
        classes = tf.cast(labels["segment_classes"], tf.int64)
        last = tf.reduce_max(valid * tf.range(1.0, valid.shape[1] + 1.0))
        valid, classes = trim(tf.cast(last, tf.int32), valid, classes)
        criterion = self._criterion(labels, features)
        queries = self._match(class_logits, embeddings, features, classes, valid, criterion)
        own = tf.gather(embeddings, tf.maximum(queries, 0), axis=2, batch_dims=2)  # [B, L, M, C]
        weighted, mask, dice = sum_mask_losses(
            own,
            features,
            valid,
            criterion,
            mask_weight=self._mask_weight,
            dice_weight=self._dice_weight,
        )
        of_classes = self._class_weight * self._classes(
            class_logits, queries, classes, labels["is_annotated"]
        )
        return {
            "loss": of_classes + reduce_loss(weighted, counts),
            "loss/class": of_classes,
            "loss/mask": self._mask_weight * reduce_loss(mask, counts),
            "loss/dice": self._dice_weight * reduce_loss(dice, counts),
        }

    def _criterion(self, labels: Tensors, features: tf.Tensor) -> criteria.MaskCriterion:
        if self._mask_loss == "whole":
            return criteria.WholeCriterion(labels["segment_map"], feature_size=features.shape[1:3])
        points = self._points(labels["seed"], sum(self._num_points))
        return criteria.PointCriterion(
            labels["segment_map"],
            tf.split(points, self._num_points, axis=1),
            num_uncertain=self._num_uncertain,
        )

    def _match(
        self,
        class_logits: tf.Tensor,
        embeddings: tf.Tensor,
        features: tf.Tensor,
        classes: tf.Tensor,
        valid: tf.Tensor,
        criterion: criteria.MaskCriterion,
    ) -> tf.Tensor:
        """The query of each segment in each prediction, -1 for none: int64 [B, L, M]."""

        def pair_costs(logits: tf.Tensor, masks: tf.Tensor) -> tf.Tensor:
            costs = self._mask_weight * criterion.mask_costs(logits, masks)
            return costs + self._dice_weight * matching.dice_costs(logits, masks)

        numbers = tf.range(1.0, tf.cast(tf.shape(valid)[1], tf.float32) + 1.0)
        return matching.match(
            self._class_weight * matching.class_costs(class_logits, classes),
            embeddings,
            criterion.cells(features),
            criterion.masks(tf.broadcast_to(numbers, tf.shape(valid))),
            valid > 0.0,
            pair_costs,
        )

    def _classes(
        self, logits: tf.Tensor, queries: tf.Tensor, classes: tf.Tensor, is_annotated: tf.Tensor
    ) -> tf.Tensor:
        """The weighted mean over queries, summed over predictions: float32 []."""
        predictions, num_queries, no_object = logits.shape[1], logits.shape[2], logits.shape[3] - 1
        # [B, L, M, Q]
        is_own = queries[..., tf.newaxis] == tf.range(num_queries, dtype=tf.int64)
        own = tf.where(is_own, classes[:, tf.newaxis, :, tf.newaxis], -1)
        targets = tf.reduce_max(own, axis=2)  # [B, L, Q]
        targets = tf.where(targets < 0, tf.constant(no_object, tf.int64), targets)
        table = [*(self._class_weights or [1.0] * no_object), self._no_object_weight]
        weights = tf.gather(tf.constant(table, tf.float32), targets)
        weights *= is_annotated[:, tf.newaxis, tf.newaxis]
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=targets, logits=logits)
        total, normalizer = (tf.reduce_sum(x, axis=[1, 2]) for x in (losses * weights, weights))
        # Every prediction has the same classes, hence the same sum of weights.
        return reduce_loss(total, normalizer / predictions)

    def _semantic(self, labels: Tensors, logits: tf.Tensor) -> tf.Tensor:
        """The cross-entropy of cells, each of the segment at its middle: float32 []."""
        # TensorFlow computes int32 on the host.
        numbers, classes = (tf.cast(labels[f"segment_{x}"], tf.int64) for x in ("map", "classes"))
        for axis, count in enumerate(logits.shape[1:3], start=1):
            middles = (2 * np.arange(count) + 1) * numbers.shape[axis] // (2 * count)
            numbers = tf.gather(numbers, middles, axis=axis)
        classes = tf.gather(classes, tf.maximum(numbers - 1, 0), batch_dims=1)  # [B, h, w]
        return reduce_loss(*self._cross_entropy(logits, tf.where(numbers > 0, classes + 1, VOID)))

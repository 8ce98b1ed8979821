"""Which kernels train the masks of Panoptic FCN, and on what (arXiv:2012.00720).

Matches recorded outputs of the authors' implementation. An instance on a level has the k cells
inside it that the position head is surest of, a stuff category on a level the pooled kernels of its
cells.
"""

from __future__ import annotations

from typing import Mapping, Optional, Sequence, Tuple

import tensorflow as tf

from panoptic_tf.inputs import geometry
from panoptic_tf.ops.trim import drop_empty_channels, trim
from panoptic_tf.structures import ImageInfo, Tensors
from panoptic_tf.systems.panoptic_fcn import assignment

_QUARTERS = 4.0
# A cell may be one of an instance's k where the instance fills more than this share of it.
_MIN_SHARE = 0.1
_EPSILON = 1e-8


class KernelSampler(tf.keras.layers.Layer):
    """Takes kernels for the true instances and stuff categories, and their masks.

    One row of the results is a pair: an instance and a level that it is assigned to, or a category
    and a level where it fills half of a cell.
    """

    def __init__(
        self,
        *,
        num_positives: int = 7,
        weighted: bool = True,
        trim: bool = True,
        stuff_pooling: str = "map",
        name: str = "sampler",
    ):
        """See the class.

        Args:
          num_positives: kernels of an instance on a level, k.
          weighted: False: one kernel, that of the instance's center, whatever k is.
          trim: rows that are padding in every image may be left out (see `ops.trim`).
          stuff_pooling: what the sum of a category's kernels is divided by: the number of cells of
            the `map` or of its `region`.
          name: of the layer.

        Raises:
          ValueError: no positive number of kernels, or an unknown pooling.
        """
        assignment.check_stuff_pooling(stuff_pooling)
        super().__init__(name=name, dtype=tf.float32, trainable=False)
        if num_positives < 1:
            raise ValueError(f"num_positives must be at least 1, got {num_positives}.")
        self._num_positives = num_positives
        self._weighted = weighted
        self._trim = trim
        self._stuff_pooling = stuff_pooling

    def call(
        self,
        outputs: Mapping[str, Tensors],
        targets: Tensors,
        image_info: tf.Tensor,
        training: Optional[bool] = None,
    ) -> Tensors:
        """Samples; each half is there where its targets are.

        Args:
          outputs: `kernels` and, with things, `center_logits`: {level: float32 [B, h, w, n]}.
          targets: the features of `PanopticFCNTargetGenerator`, batched.
          image_info: float32 [B, 4, 2].

        Returns:
          thing_kernels: float32 [B, P, k, D]; pairs that count come first.
          sampled_weights: float32 [B, P, k], with a sum of 1 over k; of 0 where no cell is found.
          sampled_masks: float32 [B, m, h4, w4], 0..1, of the instances.
          sampled_rows: float32 [B, P], whole numbers, whose mask is a pair's.
          sampled_valid: float32 [B, P], 1 on pairs that count.
          stuff_kernels: float32 [B, Q, D]; pairs that count come first.
          sampled_stuff_masks: float32 [B, s, h4, w4], 0..1, of the categories.
          sampled_stuff_rows: float32 [B, Q], whole numbers, whose mask is a pair's.
          sampled_stuff_valid: float32 [B, Q], 1 on pairs that count.
        """
        del training
        results = {}
        if "gt_masks" in targets:
            results.update(self._things(outputs, targets))
        if "gt_stuff" in targets:
            results.update(self._stuff(outputs["kernels"], targets["gt_stuff"], image_info))
        return results

    def _things(self, outputs: Mapping[str, Tensors], targets: Tensors) -> Tensors:
        classes, is_assigned = targets["gt_classes"], targets["gt_levels"]  # [B, m], [B, m, L]
        centers, masks = targets["gt_centers"], targets["gt_masks"]  # [B, m, L], [B, h4, w4, m]
        if self._trim:
            rows = _last_used(tf.reduce_any(is_assigned, axis=-1))
            classes, is_assigned, centers = trim(rows, classes, is_assigned, centers)
            (masks,) = trim(rows, masks, axis=3)
        masks = _shares(masks)
        kernels, weights = [], []
        for i, level in enumerate(sorted(outputs["kernels"])):
            cells, weight = centers[:, :, i, tf.newaxis], None
            if self._weighted:
                logits = outputs["center_logits"][level]
                cells, weight = self._surest_cells(logits, classes, masks)
            kernels.append(_gather_cells(outputs["kernels"][level], cells))  # [B, m, k, D]
            weights.append(tf.ones_like(cells, tf.float32) if weight is None else weight)
        order, valid = self._pairs(is_assigned)
        return {
            "thing_kernels": _select(kernels, order),
            "sampled_weights": _select(weights, order) * valid[..., tf.newaxis],
            "sampled_masks": tf.transpose(masks, [0, 3, 1, 2]),
            "sampled_rows": tf.cast(order % tf.shape(masks)[3], tf.float32),
            "sampled_valid": valid,
        }

    def _surest_cells(
        self, logits: tf.Tensor, classes: tf.Tensor, masks: tf.Tensor
    ) -> Tuple[tf.Tensor, tf.Tensor]:
        """The k cells inside each instance with the highest logits of its class, and their shares.

        Args:
          logits: float32 [B, h, w, T].
          classes: int32 [B, m].
          masks: float32 [B, h4, w4, m], 0..1.

        Returns:
          cells: int64 [B, m, k], y * w + x.
          weights: float32 [B, m, k]: probabilities divided by their sum, which the logits get
            gradients through.
        """
        height, width, num_classes = logits.shape[1:]
        inside = assignment.level_shares(masks, level_size=(height, width)) > _MIN_SHARE
        own = tf.gather(tf.stop_gradient(logits), classes, axis=3, batch_dims=1)  # [B, h, w, m]
        own = tf.where(inside, own, own.dtype.min)
        own = tf.reshape(
            tf.transpose(own, [0, 3, 1, 2]), [-1, tf.shape(classes)[1], height * width]
        )
        k = min(self._num_positives, height * width)
        values, cells = tf.math.top_k(own, k=k)  # [B, m, k]
        cells = tf.cast(cells, tf.int64)
        flat = tf.reshape(logits, [-1, height * width * num_classes])
        index = cells * num_classes + tf.cast(classes, tf.int64)[..., tf.newaxis]
        scores = tf.sigmoid(tf.gather(flat, index, axis=1, batch_dims=1))
        scores = tf.where(values > own.dtype.min, scores, 0.0)
        total = tf.reduce_sum(scores, axis=-1, keepdims=True)
        weights = scores / tf.maximum(total, _EPSILON)
        # GPUs pad no int64.
        padding = tf.repeat(tf.zeros_like(weights[..., :1]), self._num_positives - k, axis=-1)
        cells = tf.concat([cells, tf.cast(padding, tf.int64)], axis=-1)
        return cells, tf.concat([weights, padding], axis=-1)

    def _stuff(self, maps: Tensors, masks: tf.Tensor, image_info: tf.Tensor) -> Tensors:
        size = geometry.valid_size(image_info)  # [B, 2]
        frame = tf.unstack(tf.reduce_max(image_info[:, ImageInfo.NETWORK_SIZE], axis=0))
        masks = _shares(drop_empty_channels(masks) if self._trim else masks)  # [B, h4, w4, s]
        kernels, is_assigned = [], []
        for level in sorted(maps):
            height, width, depth = maps[level].shape[1:]
            level_size = (height, width)
            counts = assignment.valid_cells(size, level_size=level_size, network_size=frame)
            scores = assignment.stuff_scores(masks, level_size=level_size)  # [B, h, w, s]
            region = tf.cast(scores > 0.0, tf.float32) * counts[..., tf.newaxis]
            region = tf.reshape(region, [-1, height * width, tf.shape(region)[-1]])
            counts_of_map = tf.reshape(counts, [-1, height * width, 1])
            cells = tf.reshape(maps[level], [-1, height * width, depth])
            # [B, h * w, s] x [B, h * w, D] -> [B, s, D]
            total = tf.matmul(region, cells, transpose_a=True)
            pooled = region if self._stuff_pooling == "region" else counts_of_map
            num_cells = tf.reduce_sum(pooled, axis=1)[..., tf.newaxis]  # [B, s or 1, 1]
            kernels.append(tf.math.divide_no_nan(total, num_cells))
            is_assigned.append(tf.reduce_any(region > 0.0, axis=1))
        order, valid = self._pairs(tf.stack(is_assigned, axis=-1))
        return {
            "stuff_kernels": _select(kernels, order),
            "sampled_stuff_masks": tf.transpose(masks, [0, 3, 1, 2]),
            "sampled_stuff_rows": tf.cast(order % tf.shape(masks)[3], tf.float32),
            "sampled_stuff_valid": valid,
        }

    def _pairs(self, is_assigned: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
        """Lists the pairs of bool [B, m, L], level by level, those that count first.

        Returns:
          order: int32 [B, P], level * m + row.
          valid: float32 [B, P].
        """
        valid = tf.cast(tf.concat(tf.unstack(is_assigned, axis=-1), axis=1), tf.int32)
        order = tf.argsort(valid, axis=1, direction="DESCENDING", stable=True)
        if self._trim:
            (order,) = trim(tf.reduce_max(tf.reduce_sum(valid, axis=1)), order)
        valid = tf.gather(valid, order, axis=1, batch_dims=1)
        return order, tf.cast(valid, tf.float32)


def _last_used(is_used: tf.Tensor) -> tf.Tensor:
    """How many rows of bool [B, M] to take, so that all that are used are among them: int32 []."""
    rows = tf.range(1, tf.shape(is_used)[1] + 1)
    return tf.reduce_max(tf.where(is_used, rows, 0))


def _shares(masks: tf.Tensor) -> tf.Tensor:
    """uint8 quarters as float32, 0..1: GPUs resize and gather no uint8."""
    return tf.cast(masks, tf.float32) / _QUARTERS


def _gather_cells(maps: tf.Tensor, cells: tf.Tensor) -> tf.Tensor:
    """[B, h, w, D], integers [B, m, k] -> [B, m, k, D]."""
    height, width, depth = maps.shape[1:]
    return tf.gather(tf.reshape(maps, [-1, height * width, depth]), cells, axis=1, batch_dims=1)


def _select(values: Sequence[tf.Tensor], order: tf.Tensor) -> tf.Tensor:
    """The pairs of `order` [B, P] of values [B, m, ...] by level -> [B, P, ...]."""
    return tf.gather(tf.concat(values, axis=1), order, axis=1, batch_dims=1)

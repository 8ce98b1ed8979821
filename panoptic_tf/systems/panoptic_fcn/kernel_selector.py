"""Which kernels an image is segmented with (Panoptic FCN, arXiv:2012.00720).

Matches recorded outputs of the authors' implementation, whose numbers of kernels vary; here they
are static, with validity masks.
"""

from __future__ import annotations

from typing import List, Mapping, NamedTuple, Optional, Sequence

import tensorflow as tf

from panoptic_tf.inputs import geometry
from panoptic_tf.structures import ImageInfo, Tensors
from panoptic_tf.systems.panoptic_fcn import assignment

_PEAK_SIZE = 3


class _Candidates(NamedTuple):
    """What one level, or all, propose: `kernels` [B, K, D], `scores` and `classes` [B, K]."""

    kernels: tf.Tensor
    scores: tf.Tensor
    classes: tf.Tensor


class KernelSelector(tf.keras.layers.Layer):
    """Takes the kernels at object centers, and the pooled kernels of each stuff category.

    Things: the center map is averaged with its own local mean, and the best cells that are maxima
    of their 3x3 neighbourhood are taken on each level. Stuff: each cell votes for its best
    category; the kernel of a category on a level is the sum of those of its cells over the number
    of ALL cells, as in training, and the mean of that over the levels on which the category is sure
    enough. Cells in the frame's padding count nowhere.
    """

    def __init__(
        self,
        *,
        center_threshold: float = 0.05,
        stuff_threshold: float = 0.05,
        top_k: int = 50,
        smoothing_sizes: Sequence[int] = (3, 3, 3, 5, 5),
        stuff_pooling: str = "map",
        name: str = "kernel_selector",
    ):
        """See the class.

        Args:
          center_threshold: largest score of a center that is dropped.
          stuff_threshold: largest mean probability, over its cells on a level, of a stuff category
            that is dropped on that level.
          top_k: most centers of a level.
          smoothing_sizes: window of the local mean, by level; odd.
          stuff_pooling: see `KernelSampler`.
          name: of the layer.

        Raises:
          ValueError: a number is out of range, or an unknown pooling.
        """
        assignment.check_stuff_pooling(stuff_pooling)
        if top_k < 1:
            raise ValueError(f"task.model.selector.top_k must be positive, got {top_k}.")
        if any(size < 1 or size % 2 == 0 for size in smoothing_sizes):
            raise ValueError(
                "task.model.selector.smoothing_sizes must be odd and positive, got "
                f"{list(smoothing_sizes)}."
            )
        super().__init__(name=name, dtype=tf.float32, trainable=False)
        self._center_threshold = center_threshold
        self._stuff_threshold = stuff_threshold
        self._top_k = top_k
        self._smoothing_sizes = tuple(smoothing_sizes)
        self._stuff_pooling = stuff_pooling

    def call(
        self,
        outputs: Mapping[str, Tensors],
        image_info: tf.Tensor,
        training: Optional[bool] = None,
    ) -> Tensors:
        """Selects; each half is there where its logits are.

        Args:
          outputs: `kernels` {level: float32 [B, h, w, D]}, `center_logits` {level: [B, h, w, T]},
            `stuff_logits` {level: [B, h, w, S]}; the last two may be absent.
          image_info: float32 [B, 4, 2].

        Returns:
          thing_kernels: float32 [B, K, D], K = sum over levels of min(top_k, cells); by descending
            score, 0 where not valid, as the next three.
          thing_scores: float32 [B, K].
          thing_classes: int32 [B, K], thing index.
          thing_valid: bool [B, K].
          stuff_kernels: float32 [B, S, D], 0 where not valid, as the next two.
          stuff_scores: float32 [B, S].
          stuff_valid: bool [B, S].
        """
        del training
        valid = {level: _valid_cells(x, image_info) for level, x in outputs["kernels"].items()}
        selected = {}
        if "center_logits" in outputs:
            selected.update(self._things(outputs, valid))
        if "stuff_logits" in outputs:
            selected.update(self._stuff(outputs, valid))
        return selected

    def _things(self, outputs: Mapping[str, Tensors], valid: Tensors) -> Tensors:
        levels = [
            self._centers(logits, outputs["kernels"][level], valid[level], size)
            for (level, logits), size in zip(
                outputs["center_logits"].items(), self._smoothing_sizes
            )
        ]
        kernels, scores, classes = (tf.concat(x, axis=1) for x in zip(*levels))
        scores, order = tf.math.top_k(scores, k=scores.shape[1])
        is_center = scores > self._center_threshold
        kernels, classes = (tf.gather(x, order, axis=1, batch_dims=1) for x in (kernels, classes))
        return {
            "thing_kernels": tf.where(is_center[..., tf.newaxis], kernels, 0.0),
            "thing_scores": tf.where(is_center, scores, 0.0),
            "thing_classes": tf.where(is_center, classes, 0),
            "thing_valid": is_center,
        }

    def _centers(
        self, logits: tf.Tensor, kernels: tf.Tensor, valid: tf.Tensor, smoothing_size: int
    ) -> _Candidates:
        _, height, width, classes = logits.shape
        probability = tf.sigmoid(logits) * valid
        mean = _local_mean(probability, smoothing_size)
        smooth = (probability + mean) * 0.5 * valid
        highest = tf.nn.max_pool2d(smooth, _PEAK_SIZE, strides=1, padding="SAME")
        peaks = tf.where(tf.equal(smooth, highest), smooth, 0.0)
        peaks = tf.reshape(peaks, [-1, height * width * classes])
        scores, index = tf.math.top_k(peaks, k=min(self._top_k, height * width))  # [B, k]
        kernels = tf.reshape(kernels, [-1, height * width, kernels.shape[-1]])
        kernels = tf.gather(kernels, index // classes, axis=1, batch_dims=1)
        return _Candidates(kernels, scores, index % classes)

    def _stuff(self, outputs: Mapping[str, Tensors], valid: Tensors) -> Tensors:
        levels: List[_Candidates] = []
        for level, logits in outputs["stuff_logits"].items():
            levels.append(self._stuff_of_level(logits, outputs["kernels"][level], valid[level]))
        kernels, scores = (tf.stack(x, axis=1) for x in list(zip(*levels))[:2])  # [B, L, S, ...]
        found = tf.cast(scores > self._stuff_threshold, tf.float32)
        levels_found = tf.reduce_sum(found, axis=1)  # [B, S]
        share = tf.math.divide_no_nan(found, levels_found[:, tf.newaxis])
        return {
            "stuff_kernels": tf.reduce_sum(kernels * share[..., tf.newaxis], axis=1),
            "stuff_scores": tf.reduce_sum(scores * share, axis=1),
            "stuff_valid": levels_found > 0,
        }

    def _stuff_of_level(
        self, logits: tf.Tensor, kernels: tf.Tensor, valid: tf.Tensor
    ) -> _Candidates:
        """Kernel and score of each stuff category on one level, 0 where no cell votes for it."""
        _, height, width, categories = logits.shape
        cells = height * width
        logits = tf.reshape(logits, [-1, cells, categories])
        kernels = tf.reshape(kernels, [-1, cells, kernels.shape[-1]])
        valid = tf.reshape(valid, [-1, cells, 1])
        best = tf.argmax(logits, axis=-1, output_type=tf.int32)
        votes = tf.one_hot(best, categories) * valid  # [B, cells, S]
        probability = tf.sigmoid(tf.reduce_max(logits, axis=-1, keepdims=True))
        # [B, cells, S] x [B, cells, n] -> [B, S, n]
        kernels = tf.matmul(votes, kernels, transpose_a=True)
        total = tf.matmul(votes, probability, transpose_a=True)[..., 0]
        number = tf.reduce_sum(votes, axis=1)  # [B, S]
        pooled = number if self._stuff_pooling == "region" else tf.reduce_sum(valid, axis=1)
        return _Candidates(
            kernels=tf.math.divide_no_nan(kernels, pooled[..., tf.newaxis]),
            scores=tf.math.divide_no_nan(total, number),
            classes=tf.range(categories),
        )


def _valid_cells(cells: tf.Tensor, image_info: tf.Tensor) -> tf.Tensor:
    """1 on the cells of [B, h, w, D] that show the image: float32 [B, h, w, 1]."""
    # In shares of the frame, whose size is not known when the graph is built.
    share = tf.cast(geometry.valid_size(image_info), tf.float32)
    share /= image_info[:, ImageInfo.NETWORK_SIZE]
    size = tuple(cells.shape[1:3])
    return assignment.valid_cells(share, level_size=size, network_size=(1, 1))[..., tf.newaxis]


def _local_mean(maps: tf.Tensor, size: int) -> tf.Tensor:
    """Mean over a window at each cell of [B, h, w, T]; zeros around the map count."""
    around = size // 2
    maps = tf.pad(maps, [[0, 0], [around, around], [around, around], [0, 0]])
    return tf.nn.avg_pool2d(maps, size, strides=1, padding="VALID")

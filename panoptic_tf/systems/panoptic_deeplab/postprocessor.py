"""From the heads of Panoptic-DeepLab to a panoptic prediction, in the graph (arXiv:1911.10194)."""

from __future__ import annotations

from typing import Sequence, Tuple

import tensorflow as tf

from panoptic_tf.ops import rescale
from panoptic_tf.ops.argmax_in_image import argmax_in_image, probability_in_image
from panoptic_tf.postprocess import grouping, merge_by_vote, segments
from panoptic_tf.structures import Prediction, Tensors


class PanopticDeepLabPostProcessor(tf.keras.layers.Layer):
    """Rescales the heads to the image's own frame, groups pixels by centers, votes on categories.

    Matches recorded outputs of detectron2's Panoptic-DeepLab post-processing, at equal input and
    output size. Where they differ the offsets are rescaled with the image.
    """

    def __init__(
        self,
        *,
        output_size: Tuple[int, int],
        thing_ids: Sequence[int],
        center_threshold: float = 0.1,
        nms_kernel: int = 7,
        top_k: int = 200,
        stuff_area: int = 2048,
        align_corners: bool = False,
        name: str = "postprocessor",
    ):
        """See the class.

        Args:
          output_size: static (height, width) of the masks.
          thing_ids: contiguous ids of the thing categories.
          center_threshold, nms_kernel, top_k: see `grouping.find_centers`.
          stuff_area: smallest area of a stuff segment, pixels of the output.
          align_corners: how the heads are resized; see `rescale.map_positions`.
          name: of the layer.

        Raises:
          ValueError: `nms_kernel` is even.
        """
        super().__init__(name=name, dtype=tf.float32, trainable=False)
        if nms_kernel % 2 == 0:
            raise ValueError(f"nms_kernel must be odd, got {nms_kernel}.")
        self._output_size = tuple(output_size)
        self._thing_ids = tuple(thing_ids)
        self._centers = dict(threshold=center_threshold, nms_kernel=nms_kernel, top_k=top_k)
        self._stuff_area = stuff_area
        self._align_corners = align_corners

    def call(self, outputs: Tensors, image_info: tf.Tensor) -> Tensors:
        """Computes the prediction.

        Args:
          outputs: `semantic_logits` float32 [B, h, w, N], and optionally `center_heatmap`
            [B, h, w, 1] and `offsets` [B, h, w, 2] in pixels of the network's input.
          image_info: float32 [B, 4, 2].

        Returns:
          The keys of `structures.Prediction`; without centers only the semantic ones.
        """
        size = rescale.size_in_output(image_info, self._output_size)
        inside = rescale.valid_in_output(size, self._output_size)  # [B, H, W]
        logits, frame = outputs["semantic_logits"], (image_info, self._output_size)
        aligned = {"align_corners": self._align_corners}
        channel = argmax_in_image(logits, *frame, **aligned)
        semantic_mask = tf.where(inside, channel + 1.0, 0.0)
        prediction = {
            Prediction.SEMANTIC_MASK: tf.cast(semantic_mask, tf.int32),
            Prediction.IMAGE_SIZE: size,
        }
        if "center_heatmap" not in outputs:
            return prediction
        heatmap = rescale.rescale_to_image(outputs["center_heatmap"], *frame, **aligned)
        heatmap = tf.where(inside, tf.squeeze(heatmap, axis=-1), 0.0)
        offsets = rescale.rescale_to_image(outputs["offsets"], *frame, **aligned)
        offsets *= rescale.output_scale(*frame)[:, tf.newaxis, tf.newaxis, :]

        centers = grouping.find_centers(heatmap, **self._centers)
        on_things = merge_by_vote.is_on_things(semantic_mask, self._thing_ids)
        merged = merge_by_vote.merge_by_vote(
            semantic_mask,
            grouping.group_pixels(offsets, centers, on_things),
            centers.scores,
            probability_of=lambda asked: probability_in_image(logits, *frame, asked, **aligned),
            num_categories=logits.shape[-1],
            thing_ids=self._thing_ids,
            stuff_area=self._stuff_area,
        )
        return {**prediction, **segments.build_segments(merged.row_map, merged.rows)}

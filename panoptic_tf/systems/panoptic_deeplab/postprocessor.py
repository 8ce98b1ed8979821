"""From the heads of Panoptic-DeepLab to a panoptic prediction, in the graph (arXiv:1911.10194)."""

from __future__ import annotations

from typing import Any, Sequence, Tuple

import tensorflow as tf

from panoptic_tf.postprocess import best_channel, grouping, merge, rescale, segments
from panoptic_tf.structures import Prediction, Tensors


class PanopticDeepLabPostProcessor(tf.keras.layers.Layer):
    """Rescales the heads to the image's own frame, groups pixels by centers, votes on categories.

    Recorded behaviour: detectron2's Panoptic-DeepLab post-processing, at equal input and output
    size. Where they differ the offsets are rescaled with the image.
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
        best = best_channel.find_best_channel(logits, *frame, **aligned)
        prediction = {
            Prediction.SEMANTIC_MASK: tf.where(inside, best.channel + 1, 0),
            Prediction.IMAGE_SIZE: size,
        }
        if "center_heatmap" not in outputs:
            return prediction
        heatmap = rescale.rescale_to_image(outputs["center_heatmap"], *frame, **aligned)
        offsets = rescale.rescale_to_image(outputs["offsets"], *frame, **aligned)
        scale = rescale.output_scale(*frame)
        grouped = self._group(
            prediction[Prediction.SEMANTIC_MASK],
            tf.where(inside, tf.squeeze(heatmap, axis=-1), 0.0),
            offsets * scale[:, tf.newaxis, tf.newaxis, :],
            probability_of=best_channel.interpolate_probability(logits, *frame, best, **aligned),
            num_categories=logits.shape[-1],
        )
        return {**prediction, **grouped}

    def group(
        self,
        semantic_mask: tf.Tensor,
        semantic_logits: tf.Tensor,
        heatmap: tf.Tensor,
        offsets: tf.Tensor,
    ) -> Tensors:
        """The part after rescaling, all at the output's resolution.

        Args:
          semantic_mask: int32 [B, H, W], 0 where there is no image.
          semantic_logits: float32 [B, H, W, N].
          heatmap: float32 [B, H, W].
          offsets: float32 [B, H, W, 2], (y, x), pixels.

        Returns:
          Masks and segment table; see `segments.build_segments`.
        """
        return self._group(
            semantic_mask,
            heatmap,
            offsets,
            probability_of=lambda channel: merge.probability_of_logits(semantic_logits, channel),
            num_categories=semantic_logits.shape[-1],
        )

    def _group(
        self, semantic_mask: tf.Tensor, heatmap: tf.Tensor, offsets: tf.Tensor, **semantic: Any
    ) -> Tensors:
        """The same with arguments of `merge.merge_by_vote` about probabilities."""
        centers = grouping.find_centers(heatmap, **self._centers)
        instance_ids = grouping.group_pixels(
            offsets, centers, merge.is_on_things(semantic_mask, self._thing_ids)
        )
        merged = merge.merge_by_vote(
            semantic_mask,
            instance_ids,
            centers.scores,
            thing_ids=self._thing_ids,
            stuff_area=self._stuff_area,
            **semantic,
        )
        return segments.build_segments(merged.row_map, merged.rows)

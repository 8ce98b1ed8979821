"""Mask2Former on data of one's own."""

from __future__ import annotations

from typing import List

from panoptic_tf.systems import recipe

_PUBLISHED_POINTS = 12_544


def _choose(frame: recipe.Frame) -> List[recipe.Value]:
    count = recipe.rows_for(frame.most_segments, least=32)
    points = frame.size[0] * frame.size[1] // 16
    return [
        (
            "task.targets.max_segments",
            count,
            f"no image has more than {frame.most_segments} things and regions of stuff",
        ),
        ("task.model.decoder.num_queries", count, "a query for each"),
        ("task.model.postprocessor.max_instances", count, "the same"),
        ("task.model.postprocessor.void_outside_masks", True, "pixels may have no segment"),
        (
            "task.losses.num_points",
            min(_PUBLISHED_POINTS, points),
            f"one for every 16 pixels, at most the published {_PUBLISHED_POINTS}",
        ),
        *recipe.with_instances(frame, ["validation_data"]),
        *recipe.without_things(frame, "task.model.postprocessor.output_detections"),
    ]


# Kept for the gradient, in bytes a pixel: 820 (shapes, 128x128), 1,390 (small, 512x512), 1,930
# (small, 128x128).
RECIPE = recipe.SystemRecipe(
    "mask2former", _choose, shapes_rate=1e-3, small_rate=5e-4, bytes_per_pixel=3_500
)

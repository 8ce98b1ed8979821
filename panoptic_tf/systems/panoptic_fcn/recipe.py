"""Panoptic FCN on data of one's own."""

from __future__ import annotations

from typing import List

from panoptic_tf.systems import recipe


def _choose(frame: recipe.Frame) -> List[recipe.Value]:
    side, count = frame.thing_side(25), recipe.rows_for(frame.most_things)
    why = f"no image has more than {frame.most_things} things"
    seen = f"a quarter of the things is below {side:.0f} x {side:.0f} pixels"
    min_level = 2 if side < 32 else 3
    levels = range(min_level, 8)
    # As published, in strides: 1 to 64 pixels at stride 8, 32 to 128 at 16, and so on.
    low = [1] + [2 ** (level + 1) for level in levels[1:]]
    high = [2 ** (level + 3) for level in levels[:-1]] + [2048]
    return [
        recipe.stuff_area(frame),
        ("task.model.min_level", min_level, seen),
        ("task.targets.min_scales", low, "one for each level"),
        ("task.targets.max_scales", high, "they overlap, as published"),
        ("task.model.selector.smoothing_sizes", [3] * len(low), "one for each level"),
        ("task.model.selector.top_k", count, why),
        ("task.targets.max_instances", count, why),
        ("task.model.postprocessor.max_instances", count, why),
        *recipe.with_instances(frame, ["train_data", "validation_data"]),
    ]


RECIPE = recipe.SystemRecipe("panoptic_fcn", _choose)

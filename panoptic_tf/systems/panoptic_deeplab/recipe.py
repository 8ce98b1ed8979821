"""Panoptic-DeepLab on data of one's own."""

from __future__ import annotations

from typing import List

from panoptic_tf.systems import recipe


def _choose(frame: recipe.Frame) -> List[recipe.Value]:
    side = frame.thing_side(50)
    seen = f"half of the things are below {side:.0f} x {side:.0f} pixels"
    return [
        recipe.stuff_area(frame),
        (
            "task.model.postprocessor.top_k",
            recipe.rows_for(frame.most_things),
            f"no image has more than {frame.most_things} things",
        ),
        ("task.targets.sigma", round(min(8.0, max(3.0, side / 5))), seen),
        ("task.targets.small_instance_area", round(min(4096.0, max(64.0, side**2))), seen),
        *recipe.without_things(frame, "task.model.has_instance_branch"),
    ]


RECIPE = recipe.SystemRecipe("panoptic_deeplab", _choose)

"""Panoptic FPN on data of one's own."""

from __future__ import annotations

import math
from typing import List

from panoptic_tf.systems import recipe


def _choose(frame: recipe.Frame) -> List[recipe.Value]:
    side, count = frame.thing_side(10), recipe.rows_for(frame.most_things)
    why = f"no image has more than {frame.most_things} things"
    # Anchors of level 2 are 4 times the scale wide; those of the levels above twice as much each.
    scale = 2.0 ** min(3, max(1, round(math.log2(side / 4))))
    seen = f"all but 10 % of the things are above {side:.0f} x {side:.0f} pixels"
    return [
        recipe.stuff_area(frame),
        ("task.model.rpn.anchor_scale", scale, seen),
        ("task.targets.max_instances", count, why),
        ("task.model.postprocessor.max_detections", count, why),
        *recipe.with_instances(frame, ["train_data", "validation_data"]),
        *recipe.without_things(frame, "task.model.has_instance_branch"),
    ]


RECIPE = recipe.SystemRecipe("panoptic_fpn", _choose)

"""Writers of predictions, by the names that `predict --write` has for them."""

from __future__ import annotations

from typing import Dict, Sequence, Type

from panoptic_tf.serving.writers import base, coco, labelme, masks, overlays

FORMATS: Dict[str, Type[base.Writer]] = {
    "overlays": overlays.OverlayWriter,
    "coco_panoptic": coco.PanopticWriter,
    "coco_instances": coco.InstancesWriter,
    "semantic_masks": masks.SemanticMaskWriter,
    "instance_masks": masks.InstanceMaskWriter,
    "labelme": labelme.LabelMeWriter,
}

DEFAULT = ("overlays", "coco_panoptic")


def check_formats(formats: Sequence[str]) -> None:
    """Checks names of formats.

    Raises:
      ValueError: a name is none of `FORMATS`, or there is none.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise ValueError(
            f"--write: formats must be of {', '.join(FORMATS)}, "
            f"got {', '.join(map(repr, unknown)) or 'none'}."
        )

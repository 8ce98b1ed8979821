"""LabelMe's files, to be corrected there and read by `convert --format=labelme`."""

from __future__ import annotations

import base64
import io
import os
from typing import Any, Dict

import numpy as np
from PIL import Image

from panoptic_tf.datasets import files
from panoptic_tf.serving.result import PanopticResult, PredictedSegment
from panoptic_tf.serving.writers import base

FOLDER = "labelme"

_VERSION = "5.5.0"
"""Of LabelMe's format; shapes of the kind `mask` came with 5.3."""


class LabelMeWriter(base.Writer):
    """Writes `labelme/<name>.json`: a shape of the kind `mask` for each segment, stuff first.

    What stands for unlabelled pixels is left out, as in the annotations.

    Raises:
      ValueError: the folder holds JSON files, which somebody may have corrected.
    """

    def __init__(self, *args: Any):
        super().__init__(*args)
        folder = os.path.join(self.output_dir, FOLDER)
        for parent, _, names in os.walk(folder):
            if any(name.lower().endswith(".json") for name in names):
                raise ValueError(
                    f"{parent} holds JSON files already, whose labels may have been corrected. "
                    "Name another output_dir, or move them away."
                )

    def add(self, image: base.ImageFile, result: PanopticResult) -> None:
        """See the class."""
        json_path = os.path.join(self.output_dir, FOLDER, f"{image.name}.json")
        unlabelled = self.dataset_info.unlabelled_id
        height, width = result.image_size
        content: Dict[str, Any] = {
            "version": _VERSION,
            "flags": {},
            "shapes": [
                _shape(segment, result.id_map)
                for segment in sorted(result.segments, key=lambda s: s.is_thing)
                if segment.dataset_category_id != unlabelled
            ],
            "imagePath": _relative(image.path, os.path.dirname(json_path)),
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        files.write_json(json_path, content)


def _relative(path: str, folder: str) -> str:
    """The path of a file from a folder, where folders may be links; the file keeps its name."""
    parent, name = os.path.split(path)
    return os.path.relpath(os.path.join(os.path.realpath(parent), name), os.path.realpath(folder))


def _shape(segment: PredictedSegment, id_map: np.ndarray) -> Dict[str, Any]:
    x, y, width, height = segment.bbox
    png = io.BytesIO()
    Image.fromarray(id_map[y : y + height, x : x + width] == segment.id).save(png, "PNG")
    return {
        "label": segment.name,
        "points": [[x, y], [x + width - 1, y + height - 1]],  # corner pixels, both inside
        "group_id": None,
        "description": "" if segment.score is None else f"score {segment.score:.3f}",
        "shape_type": "mask",
        "flags": {},
        "mask": base64.b64encode(png.getvalue()).decode(),
    }

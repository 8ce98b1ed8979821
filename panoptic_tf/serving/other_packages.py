"""Results as objects of other packages, which are imported only when asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Dict

import numpy as np

if TYPE_CHECKING:
    from panoptic_tf.serving.result import PanopticResult


def to_supervision(result: PanopticResult) -> Any:
    """A result as `supervision.Detections`; see `PanopticResult.to_supervision`."""
    supervision = _import("supervision")
    segments = result.segments
    boxes = np.array([s.bbox for s in segments], np.float32).reshape(-1, 4)  # x, y, width, height
    boxes[:, 2:] += boxes[:, :2]
    has_scores = bool(segments) and all(s.score is not None for s in segments)
    ids = np.array([s.id for s in segments], np.int32)
    return supervision.Detections(
        xyxy=boxes,
        mask=result.id_map == ids[:, np.newaxis, np.newaxis],  # [S, H, W]
        confidence=np.array([s.score for s in segments], np.float32) if has_scores else None,
        class_id=np.array([s.category_id for s in segments], int),
        data={
            "class_name": np.array([s.name for s in segments], str),
            "is_thing": np.array([s.is_thing for s in segments], bool),
        },
    )


def to_fiftyone(result: PanopticResult) -> Dict[str, Any]:
    """A result as FiftyOne's labels; see `PanopticResult.to_fiftyone`."""
    fiftyone = _import("fiftyone")
    height, width = result.image_size
    detections = []
    for segment in result.segments:
        if not segment.is_thing:
            continue
        x, y, w, h = segment.bbox
        detections.append(
            fiftyone.Detection(
                label=segment.name,
                bounding_box=[x / width, y / height, w / width, h / height],
                mask=result.id_map[y : y + h, x : x + w] == segment.id,
                confidence=segment.score,
            )
        )
    dtype = np.uint8 if result.category_mask.max() < 256 else np.uint16
    return {
        "instances": fiftyone.Detections(detections=detections),
        "segmentation": fiftyone.Segmentation(mask=result.category_mask.astype(dtype)),
    }


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ImportError(
            f"{name} is not installed, and this result is an object of it: pip install {name}",
            name=name,
        ) from error

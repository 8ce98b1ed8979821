"""A server's response as the arrays that `PanopticResult` takes; nothing in it is trusted."""

from __future__ import annotations

import io
from typing import Dict, Mapping, NamedTuple, Tuple

import numpy as np
from PIL import Image

from panoptic_tf.datasets import files, segments
from panoptic_tf.serving.result import to_original_size
from panoptic_tf.structures import Prediction

VALID = "valid"
PANOPTIC_PNG = "panoptic_png_bytes"

_MOST_ID = segments.MAX_SEGMENT_ID


class _Output(NamedTuple):
    """What an output is, without its batch dimension."""

    dtype: type
    rank: int


_OUTPUTS = {
    VALID: _Output(bool, 0),
    Prediction.CATEGORY_MASK: _Output(np.int32, 2),
    Prediction.INSTANCE_MASK: _Output(np.int32, 2),
    Prediction.SEMANTIC_MASK: _Output(np.int32, 2),
    Prediction.IMAGE_SIZE: _Output(np.int32, 1),
    Prediction.NUM_SEGMENTS: _Output(np.int32, 0),
    Prediction.SEGMENT_CATEGORY: _Output(np.int32, 1),
    Prediction.SEGMENT_INSTANCE: _Output(np.int32, 1),
    Prediction.SEGMENT_SCORE: _Output(np.float32, 1),
    Prediction.SEGMENT_AREA: _Output(np.int32, 1),
    Prediction.NUM_DETECTIONS: _Output(np.int32, 0),
    Prediction.DETECTION_CATEGORIES: _Output(np.int32, 1),
    Prediction.DETECTION_SCORES: _Output(np.float32, 1),
    Prediction.DETECTION_BOXES: _Output(np.float32, 2),
    Prediction.DETECTION_MASKS: _Output(np.float32, 3),
    Prediction.DETECTION_BIT_MASKS: _Output(np.int32, 3),
}
KEYS = (*_OUTPUTS, PANOPTIC_PNG)
"""Outputs that are read; others are left out."""

_TABLES = {
    Prediction.NUM_SEGMENTS: (
        Prediction.SEGMENT_CATEGORY,
        Prediction.SEGMENT_INSTANCE,
        Prediction.SEGMENT_SCORE,
    ),
    Prediction.NUM_DETECTIONS: (
        Prediction.DETECTION_CATEGORIES,
        Prediction.DETECTION_SCORES,
        Prediction.DETECTION_BOXES,
    ),
}
_CATEGORIES = (
    Prediction.CATEGORY_MASK,
    Prediction.SEMANTIC_MASK,
    Prediction.SEGMENT_CATEGORY,
    Prediction.DETECTION_CATEGORIES,
)
_INSTANCES = (Prediction.INSTANCE_MASK, Prediction.SEGMENT_INSTANCE)
_SCORES = (Prediction.SEGMENT_SCORE, Prediction.DETECTION_SCORES, Prediction.DETECTION_MASKS)
_MOST_SCORE = 1.0001  # 1, rounded
_MOST_DETECTIONS = 1024
_MOST_CELLS = 1024  # of a side of a mask over its box
# A model has one of these sets at least.
_WHOLE = (
    {Prediction.CATEGORY_MASK, Prediction.INSTANCE_MASK, Prediction.NUM_SEGMENTS},
    {Prediction.SEMANTIC_MASK},
    {Prediction.NUM_DETECTIONS, Prediction.DETECTION_MASKS},
    {Prediction.NUM_DETECTIONS, Prediction.DETECTION_BIT_MASKS},
)


def is_valid(outputs: Mapping[str, np.ndarray]) -> bool:
    """Whether the server could read the image.

    Raises:
      ValueError: the response does not say.
    """
    if VALID not in outputs:
        raise ValueError(
            f"the response has no output {VALID!r}; expected a model of `panoptic-tf "
            "export-saved-model` and its signature image_bytes or panoptic_png, got of its outputs "
            f"{files.shown(sorted(outputs))}"
        )
    return bool(_first(VALID, outputs[VALID]))


def read_prediction(
    outputs: Mapping[str, np.ndarray], image_size: Tuple[int, int], num_categories: int
) -> Dict[str, np.ndarray]:
    """Checks the response for one image and brings it to the image's size.

    Args:
      outputs: of the signature `image_bytes` or `panoptic_png`, with the batch dimension 1.
      image_size: (height, width) of the image that was sent.
      num_categories: void not counted.

    Returns:
      Keys of `structures.Prediction`, unbatched, masks of the image's size.

    Raises:
      ValueError: an output is missing, of another type or shape, or out of its range.
    """
    arrays = {key: _first(key, outputs[key]) for key in _OUTPUTS if key in outputs}
    arrays.pop(VALID, None)
    _check_tables(arrays)
    _check_detections(arrays)
    _check_range(arrays, _SCORES, _MOST_SCORE, "1, rounded")
    _check_range(arrays, _CATEGORIES, num_categories, "the number of categories in dataset_info")
    _check_range(arrays, _INSTANCES, _MOST_ID, "the largest id")
    if PANOPTIC_PNG in outputs:
        arrays.update(_masks_of_png(outputs[PANOPTIC_PNG], arrays, image_size))
    if not any(keys <= set(arrays) for keys in _WHOLE):
        raise ValueError(f"the response has no prediction, only {files.shown(sorted(outputs))}")
    if arrays.get(Prediction.IMAGE_SIZE, np.zeros(0)).shape != (2,):
        raise ValueError(f"the output {Prediction.IMAGE_SIZE!r} must be (height, width)")
    if arrays[Prediction.IMAGE_SIZE].min() < 1:
        raise ValueError(f"{Prediction.IMAGE_SIZE} is {arrays[Prediction.IMAGE_SIZE].tolist()}")
    return to_original_size(arrays, image_size)


def _first(key: str, values: np.ndarray) -> np.ndarray:
    """The only row of a batch, in the type that the output has."""
    wanted = _OUTPUTS[key]
    is_float = wanted.dtype is np.float32
    kinds = "fiu" if is_float else "b" if wanted.dtype is bool else "iu"
    shape = list(values.shape)
    # What is empty says nothing of its type in JSON.
    fits = values.dtype.kind in kinds or not values.size
    if not fits or len(shape) != wanted.rank + 1 or shape[0] != 1:
        raise ValueError(
            f"the output {key!r} must be {np.dtype(wanted.dtype)} of rank {wanted.rank + 1} and of "
            f"batch 1, got {values.dtype} {shape}"
        )
    with np.errstate(over="ignore"):
        row = values[0].astype(wanted.dtype, copy=False)
    if is_float and not np.isfinite(row).all():
        raise ValueError(f"the output {key!r} holds values that are not finite float32 numbers")
    if not is_float and values.size and (row != values[0]).any():
        raise ValueError(f"the output {key!r} holds values that int32 does not")
    return row


def _check_tables(arrays: Mapping[str, np.ndarray]) -> None:
    for key, columns in _TABLES.items():
        if key not in arrays:
            continue
        lengths = {c: len(arrays[c]) if c in arrays else -1 for c in columns}
        count = int(arrays[key])
        if len(set(lengths.values())) > 1 or not 0 <= count <= min(lengths.values()):
            raise ValueError(
                f"{key} is {count}, and its table has {lengths} rows (-1: no such output)"
            )


def _check_detections(arrays: Mapping[str, np.ndarray]) -> None:
    """The boxes have four sides; there are masks for all rows of the table, in either form."""
    if Prediction.NUM_DETECTIONS not in arrays:
        return
    boxes = arrays[Prediction.DETECTION_BOXES]
    if boxes.shape[1] != 4:
        raise ValueError(f"detection_boxes must be [K, 4], got {list(boxes.shape)}")
    # Masks of all are made at the size of the image.
    if len(boxes) > _MOST_DETECTIONS:
        raise ValueError(f"{len(boxes)} detections are more than {_MOST_DETECTIONS}")
    masks = arrays.get(Prediction.DETECTION_MASKS)
    if masks is not None and (len(masks) != len(boxes) or max(masks.shape[1:]) > _MOST_CELLS):
        raise ValueError(
            f"detection_masks must be at most [{len(boxes)}, {_MOST_CELLS}, {_MOST_CELLS}], with "
            f"as many rows as the table, got {list(masks.shape)}"
        )
    bits = arrays.get(Prediction.DETECTION_BIT_MASKS)
    if bits is not None and bits.shape[2] != -(-len(boxes) // 32):
        raise ValueError(
            f"detection_bit_masks has bits for {32 * bits.shape[2]} detections, the table "
            f"{len(boxes)} rows"
        )


def _check_range(
    arrays: Mapping[str, np.ndarray], keys: Tuple[str, ...], most: float, what: str
) -> None:
    for key in keys:
        values = arrays.get(key, np.zeros(0))
        if values.size and not (0 <= values.min() and values.max() <= most):
            raise ValueError(
                f"the output {key!r} must lie in 0..{most} ({what}), "
                f"got {values.min()}..{values.max()}"
            )


def _masks_of_png(
    content: np.ndarray, arrays: Mapping[str, np.ndarray], image_size: Tuple[int, int]
) -> Dict[str, np.ndarray]:
    """The two masks, from the ids and the table: id k is row k - 1."""
    if Prediction.NUM_SEGMENTS not in arrays or content.shape != (1,):
        raise ValueError(f"{PANOPTIC_PNG} must come with the segment table, in a batch of 1")
    try:
        picture = Image.open(io.BytesIO(content[0]), formats=["PNG"])
        size = (picture.height, picture.width)
        if size != tuple(image_size) or picture.mode != "RGB":
            raise ValueError(f"{picture.mode} of {size}, the image is of {tuple(image_size)}")
        ids = segments.rgb_to_id(np.asarray(picture))
    except Exception as error:  # Pillow raises what it meets.
        raise ValueError(f"{PANOPTIC_PNG} is not the PNG of the image: {error}") from error
    category = arrays[Prediction.SEGMENT_CATEGORY]
    if ids.max() > len(category):
        raise ValueError(f"{PANOPTIC_PNG} has the id {ids.max()}, the table {len(category)} rows")
    of_id = {
        Prediction.CATEGORY_MASK: category,
        Prediction.INSTANCE_MASK: arrays[Prediction.SEGMENT_INSTANCE],
    }
    return {key: np.append(np.int32(0), column)[ids] for key, column in of_id.items()}

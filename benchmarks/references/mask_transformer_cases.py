"""Drawn inputs of `transformers_mask_transformer.py`: weights, images, truths, logits of queries.

Everything is drawn by NumPy's frozen `RandomState`, so that a test draws the same again and a
recorded case needs neither weights nor images.
"""

from __future__ import annotations

import zlib
from typing import Dict, List, NamedTuple, Sequence, Tuple

import numpy as np

NUM_CLASSES = 5
STUFF = (3, 4)
_NO_OBJECT = NUM_CLASSES


class Draw(NamedTuple):
    """How a weight is drawn: mean + scale * standard normal."""

    mean: float
    scale: float


class Truth(NamedTuple):
    """Segments of a batch.

    Attributes:
      segment_map: int32 [B, H, W], segment m of the image has m + 1, void 0.
      classes: int64 [B, M], -1 past the image's last segment.
    """

    segment_map: np.ndarray
    classes: np.ndarray

    def masks(self, image: int) -> np.ndarray:
        """Float32 [m, H, W], binary masks of an image's segments."""
        numbers = np.arange(1, np.count_nonzero(self.classes[image] >= 0) + 1)
        return (self.segment_map[image] == numbers[:, None, None]).astype(np.float32)


def weight_draw(name: str, shape: Sequence[int]) -> Draw:
    """So that every weight matters and activations stay near 1."""
    fan_in = float(np.prod(shape[1:])) if len(shape) > 1 else 1.0
    if name.endswith("running_var"):
        return Draw(1.0, 0.1)
    if name.endswith("running_mean"):
        return Draw(0.0, 0.2)
    if "sampling_offsets" in name:
        return Draw(0.0, 1.5 if len(shape) == 1 else fan_in**-0.5)
    if "queries" in name or "level_embed" in name:
        return Draw(0.0, 1.0)
    if "relative_position_bias_table" in name:
        return Draw(0.0, 0.5)
    if len(shape) == 1:
        return Draw(0.0, 0.2) if name.endswith("bias") else Draw(1.0, 0.2)
    if "convolution" in name:
        return Draw(0.0, (1.5 / fan_in) ** 0.5)
    if "class_predictor" in name:
        return Draw(0.0, 2.0 * fan_in**-0.5)
    return Draw(0.0, fan_in**-0.5)


def draw_weight(name: str, shape: Sequence[int], draw: Draw) -> np.ndarray:
    """Float32 of this shape; another name gives other values."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    return (draw.mean + draw.scale * random.standard_normal(shape)).astype(np.float32)


def draw_images(batch: int, size: Tuple[int, int], seed: int = 0) -> np.ndarray:
    """Normalised images, float32 [batch, *size, 3]."""
    shape = (batch, *size, 3)
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def small_part(images: np.ndarray) -> np.ndarray:
    """Of the first of some images what gradients are compared on: [1, 128, 192, 3]."""
    return images[:1, :128, :192]


def draw_factors(*shapes: Sequence[int]) -> List[np.ndarray]:
    """Factors of the class logits and of the mask logits of a sum whose gradients are compared."""
    random = np.random.RandomState(7)
    classes, masks = (random.standard_normal(shape).astype(np.float32) for shape in shapes)
    return [classes, masks / np.float32(np.prod(masks.shape[-2:]) ** 0.5)]


def draw_truth(counts: Sequence[int], size: Tuple[int, int], seed: int = 0) -> Truth:
    """Rectangles of things over bands of stuff, with void between.

    Args:
      counts: of segments of each image; an image with none is all void.
      size: of the images.
      seed: of the draw.
    """
    random = np.random.RandomState(seed)
    height, width = size
    segment_map = np.zeros((len(counts), height, width), np.int32)
    classes = np.full((len(counts), max(counts)), -1, np.int64)
    for image, count in enumerate(counts):
        for segment in range(count):
            is_stuff = segment < min(2, count - 1)
            if is_stuff:
                top, left = height // 3 * segment, 0
                bottom, right = top + height // 3, width
            else:
                top, left = random.randint(height - 4), random.randint(width - 4)
                bottom = top + random.randint(4, height // 2)
                right = left + random.randint(4, width // 2)
            segment_map[image, top:bottom, left:right] = segment + 1
            classes[image, segment] = STUFF[segment] if is_stuff else random.randint(min(STUFF))
    return Truth(segment_map, classes)


def draw_predictions(
    batch: int, layers: int, queries: int, channels: int, size: Tuple[int, int], seed: int = 0
) -> Dict[str, np.ndarray]:
    """Outputs of a network: class logits, mask embeddings, mask features at `size`."""
    random = np.random.RandomState(seed)
    shapes = {
        "class_logits": (batch, layers, queries, NUM_CLASSES + 1),
        "mask_embeddings": (batch, layers, queries, channels),
        "mask_features": (batch, *size, channels),
    }
    return {
        name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()
    }


class _Query(NamedTuple):
    """A drawn query: class, its logit, and boxes [top, left, bottom, right] with their logit."""

    category: int
    logit: float
    boxes: List[Tuple[int, int, int, int]]
    inside: float = 4.0


_MERGED_IMAGES: List[List[_Query]] = [
    # Things apart; a second query on the first thing, which keeps little of its mask; stuff in
    # two queries; a query without an object; one with a low score.
    [
        _Query(0, 9.0, [(1, 1, 8, 9)]),
        _Query(3, 7.0, [(9, 0, 16, 12)]),
        _Query(1, 8.0, [(2, 12, 9, 20)]),
        _Query(0, 5.0, [(1, 2, 8, 9)]),
        _Query(3, 8.0, [(10, 12, 16, 24)]),
        _Query(2, 7.0, [(0, 20, 6, 24)]),
        _Query(_NO_OBJECT, 9.0, [(0, 0, 16, 24)]),
        _Query(2, 1.0, [(4, 4, 12, 16)]),
    ],
    # Nothing that is kept.
    [_Query(_NO_OBJECT, 8.0, [(0, 0, 8, 8)])] * 4 + [_Query(1, 0.5, [(2, 2, 9, 9)])] * 4,
    # Masks that overlap in part; a faint mask below 1/2 that owns the rest of the image.
    [
        _Query(4, 8.0, [(0, 0, 6, 24)]),
        _Query(0, 7.0, [(4, 2, 12, 12)], 2.0),
        _Query(0, 7.5, [(4, 10, 12, 22)], 3.0),
        _Query(4, 6.5, [(12, 0, 16, 10)], 1.0),
        _Query(1, 9.0, [(13, 8, 16, 20), (0, 20, 4, 24)], 5.0),
        _Query(3, 6.0, [(14, 18, 16, 24)], -0.5),
        _Query(2, 8.0, [(7, 4, 10, 8)], 6.0),
        _Query(2, 4.5, [(5, 5, 11, 11)], 0.5),
    ],
]


def draw_merges(seed: int = 0) -> Dict[str, np.ndarray]:
    """Logits of which a merge makes segments, multiples of 1/8.

    Returns:
      class_logits: float32 [4, 8, NUM_CLASSES + 1]; mask_logits: float32 [4, 8, 16, 24]. The last
      image is cut into patches without void.
    """
    random = np.random.RandomState(seed)
    queries = len(_MERGED_IMAGES[0])
    class_logits = random.standard_normal((4, queries, NUM_CLASSES + 1))
    mask_logits = random.standard_normal((4, queries, 16, 24)) * 0.5 - 4.0
    for image, drawn in enumerate(_MERGED_IMAGES):
        for query, (category, logit, boxes, inside) in enumerate(drawn):
            class_logits[image, query, category] = logit
            for top, left, bottom, right in boxes:
                area = mask_logits[image, query, top:bottom, left:right]
                area += 4.0 + inside
    class_logits[3, np.arange(queries), np.arange(queries) * 3 % NUM_CLASSES] = 6.0
    coarse = random.standard_normal((queries, 4, 6)).repeat(4, axis=1).repeat(4, axis=2)
    mask_logits[3] += 6.5 * (coarse == coarse.max(axis=0))
    return {
        "class_logits": _eighths(class_logits),
        "mask_logits": _eighths(mask_logits),
    }


def draw_contest(size: Tuple[int, int], seed: int = 0) -> Dict[str, np.ndarray]:
    """Logits of 100 queries of 133 classes, of which each fifth is kept, with a square each.

    Returns:
      class_logits: float32 [1, 100, 134]; mask_logits: float32 [1, 100, h, w] of stride 4.
    """
    random = np.random.RandomState(seed)
    queries, height, width = np.arange(100), size[0] // 4, size[1] // 4
    class_logits = np.zeros((1, 100, 134), np.float32)
    drawn = random.randint(133, size=100)
    class_logits[0, queries, np.where(queries % 5, 133, drawn)] = 12.0
    mask_logits = np.full((1, 100, height, width), -4.0, np.float32)
    side = height // 4
    for query in queries:
        top, left = random.randint(height - side), random.randint(width - side)
        mask_logits[0, query, top : top + side, left : left + side] = 4.0
    return {"class_logits": class_logits, "mask_logits": mask_logits}


def _eighths(x: np.ndarray) -> np.ndarray:
    return (np.round(x * 8.0) / 8.0).astype(np.float32)

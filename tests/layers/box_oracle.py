"""Boxes in plain loops: the definitions that the vectorised forms are compared with."""

import numpy as np


def yxyx(array):
    """Recorded x, y order (boxes or deltas, any number of fours in the last axis) into ours."""
    fours = array.reshape(*array.shape[:-1], -1, 4)[..., [1, 0, 3, 2]]
    return np.ascontiguousarray(fours.reshape(array.shape))


def random_boxes(rng, shape, *, extent=100, largest=40):
    """Boxes of whole pixels, so that intersection over union is exact and often equal."""
    corner = rng.integers(0, extent - largest, (*shape, 2))
    size = rng.integers(1, largest, (*shape, 2))
    return np.concatenate([corner, corner + size], axis=-1).astype(np.float32)


def iou(a, b):
    """Intersection over union of two boxes."""
    height = max(np.float32(0), min(a[2], b[2]) - max(a[0], b[0]))
    width = max(np.float32(0), min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    inside = height * width
    return inside / (areas[0] + areas[1] - inside) if inside > 0 else np.float32(0)


def nms(boxes, scores, threshold):
    """Kept indices by descending score, equals by index; -inf is no candidate."""
    kept = []
    for i in sorted(np.flatnonzero(scores > -np.inf), key=lambda i: (-scores[i], i)):
        if all(iou(boxes[i], boxes[j]) <= np.float32(threshold) for j in kept):
            kept.append(i)
    return kept


@np.errstate(invalid="ignore", over="ignore")
def decode(delta, anchor, weights):
    """One box from one delta."""
    delta = delta.astype(np.float64) / weights
    size = anchor[2:].astype(np.float64) - anchor[:2]
    center = anchor[:2] + size / 2 + delta[:2] * size
    size = size * np.exp(np.where(delta[2:] > np.log(1000 / 16), np.log(1000 / 16), delta[2:]))
    return np.concatenate([center - size / 2, center + size / 2]).astype(np.float32)


def clip(box, size):
    """One box moved into an image of (height, width)."""
    return np.minimum(np.maximum(box, 0), np.tile(size, 2)).astype(np.float32)

"""Grouping and merge of Panoptic-DeepLab (arXiv:1911.10194, section 3.2) in plain loops.

Where the paper leaves a choice open, the reference's behaviour: equal values of a plateau are all
centers, and of more than k centers those that score strictly more than the k-th are kept.
"""

import math
from typing import NamedTuple

import numpy as np


class Segment(NamedTuple):
    """A segment; pixels are flat positions in the image, score is None for stuff."""

    category: int
    pixels: frozenset
    score: float


def find_centers(heatmap, *, threshold, nms_kernel, top_k):
    """[H, W] -> list of (y, x): local maxima of the window above the threshold."""
    height, width = heatmap.shape
    reach = nms_kernel // 2
    centers = []
    for y in range(height):
        for x in range(width):
            window = heatmap[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
            if heatmap[y, x] > threshold and heatmap[y, x] == window.max():
                centers.append((y, x))
    if len(centers) < top_k:
        return centers
    kth = sorted((heatmap[c] for c in centers), reverse=True)[top_k - 1]
    return [c for c in centers if heatmap[c] > kth]


def nearest_center(position, centers):
    """Returns (row of the nearest center, by how much in squared pixels it is the nearest)."""
    squares = [(position[0] - y) ** 2 + (position[1] - x) ** 2 for y, x in centers]
    ordered = sorted(squares)
    margin = ordered[1] - ordered[0] if len(ordered) > 1 else math.inf
    return squares.index(ordered[0]), margin


def group_pixels(semantic, offsets, centers, thing_ids):
    """Returns {row of center: [(y, x), ...]} over thing pixels, and the smallest margin."""
    members, smallest = {}, math.inf
    if not centers:
        return members, smallest
    height, width = semantic.shape
    for y in range(height):
        for x in range(width):
            if semantic[y, x] in thing_ids:
                position = (y + float(offsets[y, x, 0]), x + float(offsets[y, x, 1]))
                row, margin = nearest_center(position, centers)
                members.setdefault(row, []).append((y, x))
                smallest = min(smallest, margin)
    return members, smallest


def softmax(logits):
    """[..., N] -> probabilities in float64."""
    e = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def panoptic_segments(
    semantic,
    logits,
    heatmap,
    offsets,
    *,
    thing_ids,
    center_threshold,
    nms_kernel,
    top_k,
    stuff_area,
):
    """All segments of one image.

    Args:
      semantic: int [H, W], 1..N, 0 void.
      logits: [H, W, N].
      heatmap: [H, W].
      offsets: [H, W, 2], (y, x).

    Returns:
      set of segments as a list, and the smallest margin of a grouping decision.
    """
    width = semantic.shape[1]
    thing_ids = set(thing_ids)
    centers = find_centers(heatmap, threshold=center_threshold, nms_kernel=nms_kernel, top_k=top_k)
    members, margin = group_pixels(semantic, offsets, centers, thing_ids)
    probabilities = softmax(logits)
    segments = []
    for row, pixels in members.items():
        votes = {}
        for p in pixels:
            votes[semantic[p]] = votes.get(semantic[p], 0) + 1
        category = max(sorted(votes), key=votes.get)
        mean = sum(probabilities[p][category - 1] for p in pixels) / len(pixels)
        score = min(max(float(heatmap[centers[row]]) * mean, 0.0), 1.0)
        segments.append(Segment(int(category), frozenset(y * width + x for y, x in pixels), score))
    for category in set(semantic.reshape(-1).tolist()) - thing_ids - {0}:
        pixels = np.flatnonzero(semantic.reshape(-1) == category).tolist()
        if len(pixels) >= stuff_area:
            segments.append(Segment(category, frozenset(pixels), None))
    return segments, margin

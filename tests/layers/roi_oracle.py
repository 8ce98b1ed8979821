"""ROI align by plain loops over samples, after the definition of torchvision's aligned form."""

import math

import numpy as np


def align(feature, box, *, scale, output_size, sampling_ratio=0):
    """float64 [h, w, C] and [ymin, xmin, ymax, xmax] in pixels -> [S, S, C]."""
    start = [box[i] * scale - 0.5 for i in range(2)]
    length = [(box[i + 2] - box[i]) * scale / output_size for i in range(2)]
    counts = [sampling_ratio or max(math.ceil(n), 0) for n in length]
    pooled = np.zeros((output_size, output_size, feature.shape[-1]))
    for p in range(output_size):
        for q in range(output_size):
            for i in range(counts[0]):
                for j in range(counts[1]):
                    y = start[0] + p * length[0] + (i + 0.5) * length[0] / counts[0]
                    x = start[1] + q * length[1] + (j + 0.5) * length[1] / counts[1]
                    pooled[p, q] += _bilinear(feature, y, x) / (counts[0] * counts[1])
    return pooled


def _bilinear(feature, y, x):
    height, width, _ = feature.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    above = (1 - x + left) * feature[top, left] + (x - left) * feature[top, right]
    below = (1 - x + left) * feature[bottom, left] + (x - left) * feature[bottom, right]
    return (1 - y + top) * above + (y - top) * below

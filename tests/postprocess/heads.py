"""Random heads of Panoptic-DeepLab at output resolution."""

import numpy as np


def draw_heads(seed, *, size=(13, 16), categories=5, plateaus=False, spread=3.0):
    """Returns semantic int32 [H, W], logits [H, W, N], heatmap [H, W], offsets [H, W, 2]."""
    rng = np.random.default_rng(seed)
    height, width = size
    blocks = rng.integers(0, categories + 1, (4, 4))
    semantic = blocks[np.arange(height) * 4 // height][:, np.arange(width) * 4 // width]
    noise = rng.random(size) < 0.15
    semantic = np.where(noise, rng.integers(0, categories + 1, size), semantic)
    logits = rng.normal(0, 2, (*size, categories))
    heatmap = rng.beta(0.5, 3.0, size)
    if plateaus:
        heatmap = np.round(heatmap * 8) / 8
    offsets = rng.normal(0, spread, (*size, 2))
    return (
        semantic.astype(np.int32),
        logits.astype(np.float32),
        heatmap.astype(np.float32),
        offsets.astype(np.float32),
    )

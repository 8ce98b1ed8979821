"""Blocky ground truths and predictions drawn at random, and their segments as sets of pixels."""

import hypothesis.strategies as st
import numpy as np

THINGS, NUM_CATEGORIES = (1, 2), 4  # 3 and 4 are stuff


def segments_of(category_mask, instance_mask, crowd_mask):
    """[(category, is_crowd, set of pixels)] in order of (category, instance); void is left out."""
    pixels = {}
    for y, x in np.ndindex(category_mask.shape):
        if category_mask[y, x]:
            key = (int(category_mask[y, x]), int(instance_mask[y, x]), bool(crowd_mask[y, x]))
            pixels.setdefault(key, set()).add((y, x))
    return [(key[0], key[2], pixels[key]) for key in sorted(pixels)]


def random_masks(rng, size=(12, 14)):
    """A blocky ground truth with crowds and void, and a prediction that differs here and there."""

    def draw(blocks):
        instances = np.kron(rng.integers(0, 9, blocks), np.ones((4, 4), int))[: size[0], : size[1]]
        categories = rng.integers(0, NUM_CATEGORIES + 1, 9)[instances]
        return categories, np.where(np.isin(categories, THINGS), instances, 0)

    category, instance = draw((3, 4))
    crowd = np.isin(instance, [2, 3, 4]) & (instance > 0)
    other_category, other_instance = draw((3, 4))
    noise = rng.random(size) < 0.25
    return (
        category,
        instance,
        crowd,
        np.where(noise, other_category, category),
        np.where(noise, other_instance, instance),
    )


masks_strategy = st.integers(0, 2**32 - 1).map(lambda s: random_masks(np.random.default_rng(s)))

"""The segments of a prediction as a test compares them."""

import numpy as np

from panoptic_tf.structures import Prediction


def pixels_of(mask):
    """Flat positions of a mask's pixels."""
    return frozenset(np.flatnonzero(mask).tolist())


def table(prediction, i=0):
    """[(category, is_thing, score, pixels)] of image i in the order of the segment table."""
    category = prediction[Prediction.CATEGORY_MASK][i]
    instance = prediction[Prediction.INSTANCE_MASK][i]
    found = []
    for row in range(prediction[Prediction.NUM_SEGMENTS][i]):
        c = int(prediction[Prediction.SEGMENT_CATEGORY][i, row])
        m = int(prediction[Prediction.SEGMENT_INSTANCE][i, row])
        pixels = pixels_of((category == c) & (instance == m))
        assert len(pixels) == prediction[Prediction.SEGMENT_AREA][i, row] > 0
        found.append((c, m > 0, float(prediction[Prediction.SEGMENT_SCORE][i, row]), pixels))
    assert sum(len(p) for *_, p in found) == (category > 0).sum()
    return found

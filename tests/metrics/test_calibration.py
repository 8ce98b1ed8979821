"""Calibration of segment scores: a drawn case, plain loops, properties."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from drawn_masks import NUM_CATEGORIES, THINGS, masks_strategy, random_masks

from panoptic_tf.metrics import matching, segments
from panoptic_tf.metrics.calibration import METRIC_NAMES, NUM_BINS, SegmentCalibration


def calibration():
    return SegmentCalibration(num_categories=NUM_CATEGORIES, thing_ids=THINGS)


def draw(masks, rng):
    """Overlaps, matches and scores of one image."""
    overlaps = segments.count_overlaps(
        segments.label_masks(*masks[:3]), segments.label_masks(*masks[3:])
    )
    matches = matching.match_segments(overlaps, num_categories=NUM_CATEGORIES)
    scores = rng.random(len(overlaps.categories))
    scores[rng.random(scores.size) < 0.1] = np.nan
    return overlaps, matches, scores


def samples_of(overlaps, matches, scores):
    """[(category, score, whether it is right)] of the segments that count."""
    right = set(overlaps.columns[matches.is_match].tolist())
    return [
        (int(overlaps.categories[i]), score, i in right)
        for i, score in enumerate(scores.tolist())
        if (i in right or matches.is_wrong[i]) and not np.isnan(score)
    ]


def error_in_loops(samples):
    total = 0.0
    for i in range(NUM_BINS):
        inside = [s for s in samples if i / NUM_BINS <= s[1] < (i + 1) / NUM_BINS]
        if inside:
            precision, score = (np.mean([s[k] for s in inside]) for k in (2, 1))
            total += len(inside) / len(samples) * abs(precision - score)
    return 100 * total


def test_drawn():
    category = np.array([[1, 1, 2, 2, 3, 3, 0, 0]])
    found = np.array([[1, 1, 1, 1, 3, 3, 2, 2]])
    instance = np.array([[1, 1, 2, 2, 0, 0, 0, 0]])
    numbers = np.array([[1, 1, 2, 2, 0, 0, 5, 5]])
    overlaps = segments.count_overlaps(
        segments.label_masks(category, instance), segments.label_masks(found, numbers)
    )
    matches = matching.match_segments(overlaps, num_categories=NUM_CATEGORIES)
    metric = calibration()
    # void, (1, 1) right, (1, 2) wrong, (2, 5) on void: left out, (3, 0) right
    metric.update(overlaps, matches, np.array([np.nan, 0.9, 0.91, 0.8, 1.0]))
    result = metric.result()
    assert result["ECE_things"] == pytest.approx(100 * abs(0.5 - 0.905))
    assert result["ECE_stuff"] == pytest.approx(0)
    assert result["ECE"] == pytest.approx(100 * (2 / 3 * 0.405 + 1 / 3 * 0))
    assert result["calibration"] == [
        {
            "score_min": 13 / 15,
            "score_max": 14 / 15,
            "mean_score": pytest.approx(0.905),
            "precision": 0.5,
            "segments": 2,
        },
        {
            "score_min": 14 / 15,
            "score_max": 1.0,
            "mean_score": 1.0,
            "precision": 1.0,
            "segments": 1,
        },
    ]


def test_equals_plain_loops():
    rng = np.random.default_rng(0)
    metric, samples = calibration(), []
    for _ in range(60):
        image = draw(random_masks(rng), rng)
        metric.update(*image)
        samples += samples_of(*image)
    result = metric.result()
    splits = [samples, [s for s in samples if s[0] in THINGS], [s for s in samples if s[0] > 2]]
    expected = [error_in_loops(split) for split in splits]
    assert [result[name] for name in METRIC_NAMES] == pytest.approx(expected)
    assert len(result["calibration"]) == NUM_BINS
    assert sum(row["segments"] for row in result["calibration"]) == len(samples)


@hypothesis.given(st.lists(masks_strategy, max_size=3), st.integers(0, 2**32 - 1))
@hypothesis.settings(max_examples=40, deadline=None)
def test_within_0_and_100_and_merges(images, seed):
    rng = np.random.default_rng(seed)
    drawn = [draw(masks, rng) for masks in images]
    whole, one, other = calibration(), calibration(), calibration()
    for i, image in enumerate(drawn):
        whole.update(*image)
        (one if i < 1 else other).update(*image)
    one.merge(other)
    for name in METRIC_NAMES:
        value = whole.result()[name]
        assert value is None or 0 <= value <= 100
        assert one.result()[name] == (None if value is None else pytest.approx(value))


def test_no_score_is_none():
    assert calibration().result() == {**dict.fromkeys(METRIC_NAMES), "calibration": []}

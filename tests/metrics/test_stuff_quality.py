"""PQ-dagger: a drawn case, plain loops, properties."""

import hypothesis
import numpy as np
import pytest
from drawn_masks import NUM_CATEGORIES, THINGS, masks_strategy, random_masks, segments_of

from panoptic_tf.metrics import matching, segments
from panoptic_tf.metrics.panoptic_quality import PanopticQuality
from panoptic_tf.metrics.stuff_quality import StuffQuality


def results(images):
    """Results of PQ and of PQ-dagger over images."""
    quality = PanopticQuality(num_categories=NUM_CATEGORIES, thing_ids=THINGS)
    metric = StuffQuality(num_categories=NUM_CATEGORIES)
    for masks in images:
        overlaps = segments.count_overlaps(
            segments.label_masks(*masks[:3]), segments.label_masks(*masks[3:])
        )
        matches = matching.match_segments(overlaps, num_categories=NUM_CATEGORIES)
        quality.update_matches(overlaps, matches)
        metric.update(overlaps, matches)
    panoptic = quality.result()
    return panoptic, metric.result(panoptic["per_category"], THINGS)


def in_loops(images, category):
    """Of one stuff category, pixel by pixel."""
    ious, count = 0.0, 0
    for masks in images:
        truths = segments_of(*masks[:3])
        annotated = set().union(*(pixels for _, _, pixels in truths))
        for truth_category, is_crowd, truth in truths:
            if truth_category != category or is_crowd:
                continue
            count += 1
            for found_category, _, found in segments_of(*masks[3:], np.zeros_like(masks[2])):
                if found_category == category:
                    ious += len(truth & found) / len(truth | (found & annotated))
    return 100 * ious / count if count else None


def test_drawn():
    category = np.array([[3, 3, 3, 3, 1, 1, 0, 0]])
    found = np.array([[3, 4, 4, 4, 1, 1, 3, 3]])
    none = np.zeros_like(category, bool)
    instance = np.where(category == 1, 1, 0)
    panoptic, dagger = results([(category, instance, none, found, instance)])
    # Category 3 shares 1 of 4 pixels, its prediction on void aside. 4 is annotated nowhere, which
    # costs PQ of stuff, of 3 and 4, but not this.
    assert panoptic["PQ_stuff"] == 0
    assert dagger == {
        "PQ_dagger": pytest.approx((100 + 25) / 2),
        "PQ_dagger_stuff": pytest.approx(25),
        "per_category": [100, None, pytest.approx(25), None],
    }


def test_equals_plain_loops():
    rng = np.random.default_rng(0)
    images = [random_masks(rng) for _ in range(30)]
    panoptic, dagger = results(images)
    values = [row["PQ"] for row in panoptic["per_category"][:2]]
    values += [in_loops(images, category) for category in (3, 4)]
    np.testing.assert_allclose(dagger["per_category"], values, rtol=1e-12)
    assert dagger["PQ_dagger"] == pytest.approx(np.mean(values))
    assert dagger["PQ_dagger_stuff"] == pytest.approx(np.mean(values[2:]))


@hypothesis.given(masks_strategy)
@hypothesis.settings(max_examples=40, deadline=None)
def test_between_pq_and_100(masks):
    # Nothing is subtracted for what is wrong, and what does not match counts with its IoU.
    panoptic, dagger = results([masks])
    for row, value in zip(panoptic["per_category"], dagger["per_category"]):
        if value is not None:
            assert row["PQ"] - 1e-9 <= value <= 100 + 1e-9


@hypothesis.given(masks_strategy)
@hypothesis.settings(max_examples=40, deadline=None)
def test_ground_truth_as_prediction_is_perfect(masks):
    category, instance, crowd = masks[:3]
    _, dagger = results([(category, instance, crowd, category, instance)])
    assert dagger["PQ_dagger"] in (None, pytest.approx(100))


def test_nothing_seen_is_none():
    _, dagger = results([])
    assert dagger == {"PQ_dagger": None, "PQ_dagger_stuff": None, "per_category": [None] * 4}

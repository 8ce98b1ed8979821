"""Why PQ is low: confusions, areas, and the sentences that say it."""

import json

import numpy as np
import pytest
from drawn_masks import NUM_CATEGORIES, THINGS, random_masks

from panoptic_tf.metrics import coverage, diagnosis, segments
from panoptic_tf.metrics.evaluator import PanopticEvaluator

NAMES = ("void", "cat", "dog", "sky", "sea")


def overlaps_of(truth, prediction):
    return segments.count_overlaps(segments.label_masks(*truth), segments.label_masks(*prediction))


def areas_of(categories, instances, crowds, wanted):
    keys = {
        (c, i)
        for c, i, is_crowd in zip(categories.flat, instances.flat, crowds.flat)
        if c in wanted and not is_crowd
    }
    return [int(((categories == c) & (instances == i)).sum()) for c, i in keys]


def test_equals_plain_loops():
    rng = np.random.default_rng(0)
    parts = [
        diagnosis.Diagnosis(num_categories=NUM_CATEGORIES, thing_ids=THINGS, stuff_area=60)
        for _ in "ab"
    ]
    pixels, areas = np.zeros((5, 5), int), {name: [] for name in diagnosis.AREA_NAMES}
    for number in range(6):
        drawn = random_masks(rng)
        truth, prediction = drawn[:3], drawn[3:]
        parts[number % 2].update_overlaps(overlaps_of(truth, prediction), scale=2.0)
        for pair in zip(truth[0].flat, prediction[0].flat):
            pixels[pair] += 1
        nothing = np.zeros(truth[0].shape, bool)
        for kind, wanted in (("thing", THINGS), ("stuff", (3, 4))):
            areas[f"true_{kind}_area"] += areas_of(*truth, wanted)
            areas[f"predicted_{kind}_area"] += areas_of(*prediction, nothing, wanted)
    parts[0].merge(parts[1])
    result = parts[0].result(NAMES)
    assert tuple(result) == diagnosis.NAMES
    assert {n: result[n] for n in areas} == {n: np.median(v) for n, v in areas.items()}
    small = [2 * area < 60 for area in areas["true_stuff_area"]]
    assert result["small_stuff_share"] == np.mean(small) and 0 < np.mean(small) < 1
    expected = sorted(
        (-pixels[t, p], NAMES[t], NAMES[p], pixels[t, p] / pixels[t].sum())
        for t in range(1, 5)
        for p in range(5)
        if t != p
    )
    found = result["confusions"]
    assert [-c["pixels"] for c in found] == [row[0] for row in expected[:10]]
    for c in found:
        assert (-c["pixels"], c["category"], c["predicted"], c["share"]) in expected
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_nothing_seen():
    result = diagnosis.Diagnosis(num_categories=4, thing_ids=THINGS).result(NAMES)
    assert result == {**dict.fromkeys(diagnosis.NAMES), "confusions": []}


def evaluate(category, instance, truth=None, **options):
    """Of an image with a cat of 16 pixels and a sky of 64."""
    if truth is None:
        truth = np.full((8, 10), 3)
        truth[:4, :4] = 1
    evaluator = PanopticEvaluator(
        num_categories=4, thing_ids=THINGS, category_names=NAMES, **options
    )
    evaluator.update(
        {"category_mask": truth, "instance_mask": (truth == 1).astype(int)},
        {"category_mask": category, "instance_mask": instance, "image_size": (8, 10)},
    )
    return evaluator.result()


def test_nothing_predicted():
    nothing = np.zeros((8, 10), int)
    texts = coverage.warnings_of(evaluate(nothing, nothing, stuff_area=100))
    assert len(texts) == 4 and not any("\n" in text for text in texts)
    assert "PQ_things is 0: 1 segment of things annotated, none predicted. " in texts[0]
    assert "PQ_stuff is 0" in texts[1]
    assert texts[2].startswith("100% of the annotated stuff segments are smaller than stuff_area")
    assert "100% of sky is predicted void, 100% of cat is predicted void" in texts[3]


def test_something_else_predicted():
    category = np.full((8, 10), 4)
    category[0, 0] = 1
    texts = coverage.warnings_of(evaluate(category, (category == 1).astype(int)))
    assert texts[0] == (
        "PQ_things is 0: 1 segment of things annotated (median area 16 pixels), 1 predicted "
        "(median area 1 pixel), and no pair of one category has an IoU above 0.5."
    )
    assert "80% of sky" not in texts[2] and "100% of sky is predicted sea, 94% of cat" in texts[2]


def test_one_kind_is_not_annotated():
    truth = np.full((8, 10), 3)
    category = np.full((8, 10), 3)
    category[0] = 1
    instance = np.where(category == 1, 1 + np.arange(10) // 5, 0)
    texts = coverage.warnings_of(evaluate(category, instance, truth=truth))
    assert texts[0] == (
        "PQ_things is 0: no things annotated in these images, 2 segments of things predicted."
    )


def test_nothing_annotated():
    nothing = np.zeros((8, 10), int)
    (text,) = coverage.warnings_of(evaluate(nothing, nothing, truth=nothing))
    assert "no segment is annotated" in text


@pytest.mark.parametrize("stuff_area, count", [(0, 0), (64, 0), (65, 1)])
def test_a_good_prediction_needs_no_diagnosis(stuff_area, count):
    category = np.full((8, 10), 3)
    category[:4, :4] = 1
    result = evaluate(category, (category == 1).astype(int), stuff_area=stuff_area)
    assert result["PQ"] == 100 and result["confusions"] == []
    assert len(coverage.warnings_of(result)) == count

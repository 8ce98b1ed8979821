"""How much is void, and what is predicted there."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from panoptic_tf.metrics import coverage, segments
from panoptic_tf.metrics.evaluator import PanopticEvaluator

THINGS, NUM_CATEGORIES = (1, 3), 4  # 2 and 4 are stuff


def counts():
    return coverage.Coverage(num_categories=NUM_CATEGORIES, thing_ids=THINGS)


def draw(seed, size=(7, 9)):
    """Category, instance and crowd masks of both sides, blocky; 0 is void."""
    rng = np.random.default_rng(seed)
    masks = []
    for _ in range(2):
        instances = rng.integers(0, 6, size)
        categories = rng.integers(0, NUM_CATEGORIES + 1, 6)[instances]
        masks.append((categories, np.where(np.isin(categories, THINGS), instances, 0)))
    return masks[0], np.isin(masks[0][1], [1, 2]) & (masks[0][1] > 0), masks[1]


def overlaps_of(truth, crowd, found):
    return segments.count_overlaps(
        segments.label_masks(*truth, crowd), segments.label_masks(*found)
    )


def expected_of(images):
    """Pixel by pixel."""
    totals = dict.fromkeys(("pixels", "void", "true", "found", "both"), 0)
    truths, predicted = [], []
    for number, ((category, instance), crowd, (found, found_instance)) in enumerate(images):
        for y, x in np.ndindex(category.shape):
            totals["pixels"] += 1
            totals["void"] += category[y, x] == 0
            totals["true"] += category[y, x] in THINGS
            totals["found"] += found[y, x] in THINGS
            totals["both"] += category[y, x] == 0 and found[y, x] in THINGS
            if category[y, x] and not crowd[y, x]:
                truths.append((number, category[y, x], instance[y, x]))
            if found[y, x]:
                predicted.append((number, found[y, x], found_instance[y, x]))
    return {
        "void_share": totals["void"] / totals["pixels"],
        "true_thing_share": totals["true"] / totals["pixels"],
        "predicted_thing_share": totals["found"] / totals["pixels"],
        "void_predicted_as_things": totals["both"] / totals["void"] if totals["void"] else None,
        "true_segments": len(set(truths)),
        "predicted_segments": len(set(predicted)),
        "true_things": len({s for s in truths if s[1] in THINGS}),
        "predicted_things": len({s for s in predicted if s[1] in THINGS}),
    }


@hypothesis.given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=3))
@hypothesis.settings(max_examples=60, deadline=None)
def test_equal_to_loops_alone_and_merged(seeds):
    images = [draw(seed) for seed in seeds]
    total = counts()
    for image in images:
        part = counts()
        part.update_overlaps(overlaps_of(*image))
        total.merge(part)
    assert total.result() == pytest.approx(expected_of(images))
    assert list(total.result()) == list(coverage.NAMES)


def test_nothing_counted_is_none():
    assert counts().result() == dict.fromkeys(coverage.NAMES)
    labelled = counts()
    ones = np.ones((2, 2), int)
    labelled.update_overlaps(overlaps_of((ones, ones), ones < 0, (ones, ones)))
    assert labelled.result()["void_predicted_as_things"] is None  # there is no void
    assert labelled.result()["void_share"] == 0.0


def test_masks_without_segments():
    truth, _, found = draw(3)
    semantic = counts()
    semantic.update_masks(truth[0], found[0])
    expected = expected_of([draw(3)])
    result = semantic.result()
    for name in coverage.SHARE_NAMES:
        assert result[name] == pytest.approx(expected[name])
    assert [result[name] for name in coverage.COUNT_NAMES] == [None] * 4


def one_object_on_void():
    """8 of 160 pixels are labelled, and the model sees objects of that category everywhere."""
    category = np.zeros((10, 16), int)
    category[2:4, 2:6] = 1
    everywhere = np.ones((10, 16), int)
    instances = np.kron(np.arange(1, 21).reshape(4, 5), np.ones((3, 4), int))[:10, :16]
    instances[2:4, 2:6] = 100
    return category, everywhere, instances


def evaluate(truth, category, instance):
    evaluator = PanopticEvaluator(num_categories=1, thing_ids=(1,), category_names=("void", "cat"))
    evaluator.update(
        {"category_mask": truth, "instance_mask": truth, "crowd_mask": truth < 0},
        {"category_mask": category, "instance_mask": instance},
    )
    return evaluator.result()


def test_objects_everywhere_score_100_and_are_told():
    result = evaluate(*one_object_on_void())
    assert result["PQ"] == result["mIoU"] == 100
    assert result["void_share"] == 152 / 160
    assert result["true_thing_share"] == 8 / 160
    assert result["predicted_thing_share"] == result["void_predicted_as_things"] == 1.0
    assert (result["true_things"], result["predicted_things"]) == (1, 17)
    (text,) = coverage.warnings_of(result)
    assert "PQ ignores the void: 95.0% of the pixels" in text
    assert "100.0% of the void, 17 things for 1 annotated" in text
    assert "\n" not in text


def test_a_model_that_leaves_the_void_alone_is_not_warned_of():
    truth, _, _ = one_object_on_void()
    assert coverage.warnings_of(evaluate(truth, truth, truth)) == []


@pytest.mark.parametrize(
    "void, things, expected",
    [(0.9, 0.1, 1), (0.9, 0.05, 0), (0.4, 0.6, 0), (1.0, 0.0, 1), (None, None, 0)],
)
def test_warning_of_annotations_alone(void, things, expected):
    """Of annotations that hold stuff, or little void, there is nothing to say."""
    found = coverage.warnings_of({"void_share": void, "true_thing_share": things})
    assert len(found) == expected
    assert all("neither trained nor scored" in text for text in found)


def test_warning_of_a_semantic_prediction():
    truth, everywhere, _ = one_object_on_void()
    evaluator = PanopticEvaluator(num_categories=1, thing_ids=(1,), category_names=("void", "cat"))
    evaluator.update(
        {"category_mask": truth, "instance_mask": truth}, {"semantic_mask": everywhere}
    )
    assert evaluator.result()["mIoU"] == 100
    (text,) = coverage.warnings_of(evaluator.result())
    assert "100.0% of the void." in text

"""Panoptic quality: drawn cases, plain loops, recorded values, properties."""

import hypothesis
import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import pytest
import recorded_pq
from drawn_masks import NUM_CATEGORIES, THINGS, masks_strategy, random_masks, segments_of

from panoptic_tf.metrics import segments
from panoptic_tf.metrics.panoptic_quality import PanopticQuality, average_quality


def quality(crowd_rule="all"):
    return PanopticQuality(num_categories=NUM_CATEGORIES, thing_ids=THINGS, crowd_rule=crowd_rule)


def match_in_loops(truths, found):
    """[(row of the truth, row of the prediction, IoU)]."""
    annotated = set().union(*(pixels for _, _, pixels in truths))
    pairs = []
    for i, (truth_category, is_crowd, truth) in enumerate(truths):
        for j, (category, _, pixels) in enumerate(found):
            iou = len(truth & pixels) / len(truth | (pixels & annotated))
            if not is_crowd and truth_category == category and iou > 0.5:
                pairs.append((i, j, iou))
    return pairs


def state_in_loops(masks, crowd_rule):
    """The state of one image, segment by segment and pixel by pixel."""
    truths = segments_of(*masks[:3])
    found = segments_of(*masks[3:], np.zeros_like(masks[2]))
    void = {(y, x) for y, x in np.ndindex(masks[0].shape) if not masks[0][y, x]}
    pairs = match_in_loops(truths, found)
    state = np.zeros((NUM_CATEGORIES + 1, 4))
    for i, _, iou in pairs:
        state[truths[i][0], :2] += (iou, 1)
    for i, (category, is_crowd, _) in enumerate(truths):
        if not is_crowd and i not in {pair[0] for pair in pairs}:
            state[category, 3] += 1
    for j, (category, _, pixels) in enumerate(found):
        crowds = [p for c, is_crowd, p in truths if is_crowd and c == category]
        crowds = crowds[-1:] if crowd_rule == "last" else crowds
        forgiven = sum(len(pixels & region) for region in [void, *crowds])
        if j not in {pair[1] for pair in pairs} and forgiven / len(pixels) <= 0.5:
            state[category, 2] += 1
    return state


def test_drawn():
    gt_category = np.array(
        [
            [1, 1, 1, 1, 3, 3, 3, 3],
            [1, 1, 1, 1, 3, 3, 3, 3],
            [0, 0, 2, 2, 4, 4, 4, 4],
        ]
    )
    gt_instance = np.array(
        [
            [1, 1, 2, 2, 0, 0, 0, 0],
            [1, 1, 2, 2, 0, 0, 0, 0],
            [0, 0, 3, 3, 0, 0, 0, 0],
        ]
    )
    category = np.array(
        [
            [1, 1, 1, 0, 3, 3, 3, 3],
            [1, 1, 0, 0, 3, 3, 3, 4],
            [1, 2, 1, 1, 0, 0, 4, 4],
        ]
    )
    instance = np.array(
        [
            [5, 5, 6, 0, 0, 0, 0, 0],
            [5, 5, 0, 0, 0, 0, 0, 0],
            [5, 7, 8, 8, 0, 0, 0, 0],
        ]
    )
    # Category 1: instance 1 is matched with IoU 4/4 (the fifth pixel is void), instance 2 is found
    # by a quarter: missed, and its prediction wrong; prediction 8 is wrong.
    # Category 2: instance 3 is missed; prediction 7 lies on void and is forgiven.
    # Category 3: 7 of 8 pixels. Category 4: 2 shared of 4 + 3 - 2 = 5: missed and wrong.
    metric = quality()
    metric.update(gt_category, gt_instance, None, category, instance)
    expected = [[0, 0, 0, 0], [1, 1, 2, 1], [0, 0, 0, 1], [7 / 8, 1, 0, 0], [0, 0, 1, 1]]
    np.testing.assert_allclose(metric.state(), expected)
    result = metric.result()
    assert result["PQ_things"] == pytest.approx(100 * (1 / 2.5 + 0) / 2)
    assert result["PQ_stuff"] == pytest.approx(100 * (7 / 8 + 0) / 2)
    assert result["SQ"] == pytest.approx(100 * (1 + 0 + 7 / 8 + 0) / 4)
    assert result["RQ"] == pytest.approx(100 * (1 / 2.5 + 0 + 1 + 0) / 4)
    row = result["per_category"][0]
    assert (row["id"], row["tp"], row["fp"], row["fn"]) == (1, 1, 2, 1)


def test_half_is_no_match_and_half_void_is_no_excuse():
    gt_category = np.array([[1, 1, 1, 1, 0, 0]])
    category = np.array([[1, 1, 0, 0, 2, 0]])  # IoU 2/4
    instance = np.array([[1, 1, 0, 0, 2, 0]])
    metric = quality()
    metric.update(gt_category, gt_category, None, category, instance)
    np.testing.assert_array_equal(metric.state()[1], [0, 0, 1, 1])
    np.testing.assert_array_equal(metric.state()[2], [0, 0, 0, 0])  # all on void
    half_void = np.array([[0, 0, 0, 2, 2, 0]])
    metric = quality()
    metric.update(gt_category, gt_category, None, half_void, half_void)
    np.testing.assert_array_equal(metric.state()[2], [0, 0, 1, 0])  # half on void


def test_crowd_rules_differ_on_two_crowds_of_a_category():
    gt_category = np.array([[1, 1, 1, 1, 1, 1, 2, 2]])
    gt_instance = np.array([[1, 1, 1, 2, 2, 2, 3, 3]])
    crowd = gt_instance < 4
    instance = np.array([[1, 1, 0, 0, 2, 2, 3, 3]])
    category = np.array([[1, 1, 0, 0, 1, 1, 1, 1]])  # the last lies on a crowd of category 2
    expected = {"all": 1, "last": 2}
    for crowd_rule, false_positives in expected.items():
        metric = quality(crowd_rule)
        metric.update(gt_category, gt_instance, crowd, category, instance)
        np.testing.assert_array_equal(metric.state()[1], [0, 0, false_positives, 0])
        np.testing.assert_array_equal(metric.state()[2], [0, 0, 0, 0])  # crowds are never missed


def test_crowd_may_share_the_instance_id_of_its_category():
    gt_category = np.array([[1, 1, 1, 1]])
    crowd = np.array([[False, False, True, True]])
    metric = quality()
    metric.update(gt_category, np.zeros_like(gt_category), crowd, gt_category * crowd, crowd * 1)
    np.testing.assert_array_equal(metric.state()[1], [0, 0, 0, 1])


@pytest.mark.parametrize("crowd_rule", ["all", "last"])
def test_equals_plain_loops(crowd_rule):
    rng = np.random.default_rng(0)
    metric, expected = quality(crowd_rule), np.zeros((NUM_CATEGORIES + 1, 4))
    for _ in range(60):
        masks = random_masks(rng)
        image_expected = state_in_loops(masks, crowd_rule)
        np.testing.assert_allclose(metric.update(*masks), image_expected, rtol=1e-12)
        expected += image_expected
    np.testing.assert_allclose(metric.state(), expected, rtol=1e-12)
    assert expected[:, 1:].sum(axis=0).min() > 10  # the inputs reach every outcome


@hypothesis.given(masks_strategy)
@hypothesis.settings(max_examples=50, deadline=None)
def test_ground_truth_as_prediction_is_perfect(masks):
    category, instance, crowd = masks[:3]
    metric = quality()
    metric.update(category, instance, crowd, category, instance)
    state = metric.state()
    assert not state[:, 2:].any()
    np.testing.assert_array_equal(state[:, 0], state[:, 1])
    assert metric.result()["PQ"] == (100 if state.any() else None)


@hypothesis.given(masks_strategy, st.permutations(range(1, 12)), st.sampled_from([1, 10**6]))
@hypothesis.settings(max_examples=50, deadline=None)
def test_instance_numbers_do_not_matter(masks, permutation, factor):
    numbers = factor * np.array([0, *permutation])
    one, other = quality(), quality()
    one.update(*masks)
    other.update(masks[0], numbers[masks[1]], masks[2], masks[3], numbers[masks[4]])
    np.testing.assert_allclose(one.state(), other.state(), rtol=1e-12)


@hypothesis.given(st.lists(masks_strategy, max_size=4), st.lists(masks_strategy, max_size=4))
@hypothesis.settings(max_examples=25, deadline=None)
def test_merge_equals_all_at_once(first, second):
    whole, one, other = quality(), quality(), quality()
    for masks in first:
        one.update(*masks)
    for masks in second:
        other.update(*masks)
    for masks in first + second:
        whole.update(*masks)
    one.merge(other)
    np.testing.assert_allclose(one.state(), whole.state(), rtol=1e-12)


@hypothesis.given(arrays.arrays(np.int32, (2, 5, 6), elements=st.integers(0, NUM_CATEGORIES)))
@hypothesis.settings(max_examples=50, deadline=None)
def test_pq_is_sq_times_rq_and_at_most_100(categories):
    metric = quality()
    metric.update(categories[0], categories[0], None, categories[1], categories[1])
    for row in metric.result()["per_category"]:
        if row["PQ"] is not None:
            assert row["PQ"] == pytest.approx(row["SQ"] * row["RQ"] / 100)
            assert 0 <= row["PQ"] <= 100


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.uint32])
def test_dtypes(dtype):
    masks = random_masks(np.random.default_rng(1))
    typed = [m if m.dtype == bool else m.astype(dtype) for m in masks]
    one, other = quality(), quality()
    np.testing.assert_array_equal(one.update(*masks), other.update(*typed))


def test_void_and_empty():
    void, one = np.zeros((4, 5), int), np.ones((4, 5), int)
    metric = quality()
    metric.update(void, void, None, void, void)
    metric.update(void, void, None, one, one)  # predictions on void are forgiven
    assert not metric.state().any()
    assert all(metric.result()[name] is None for name in ("PQ", "SQ", "RQ", "PQ_things"))
    metric.update(one, one, None, void, void)
    np.testing.assert_array_equal(metric.state()[1], [0, 0, 0, 1])
    assert metric.result()["PQ"] == 0
    assert metric.result()["PQ_stuff"] is None
    assert metric.result()["per_category"][1]["PQ"] is None


@pytest.mark.parametrize("thing_ids, empty", [((), "things"), ((1, 2, 3, 4), "stuff")])
def test_zero_things_or_zero_stuff(thing_ids, empty):
    metric = PanopticQuality(num_categories=NUM_CATEGORIES, thing_ids=thing_ids)
    mask = np.array([[1, 3], [4, 0]])
    metric.update(mask, mask, None, mask, mask)
    result = metric.result()
    assert result["PQ"] == 100
    assert result[f"PQ_{empty}"] is None


@pytest.mark.parametrize("name", ["synth_0", "synth_1"])
@pytest.mark.reference
def test_recorded_synthetic(golden, name):
    recorded_pq.check(recorded_pq.CASES / name, golden(f"pq_{name}"))


@pytest.mark.reference
def test_recorded_sample(reference_data):
    folder = reference_data / "golden"
    recorded_pq.check(folder / "pq_case", np.load(folder / "pq_sample.npz"))


def test_masks_and_id_maps_agree():
    masks = random_masks(np.random.default_rng(2))
    overlaps = segments.count_overlaps(
        segments.label_masks(*masks[:3]), segments.label_masks(*masks[3:])
    )
    state = quality().update_overlaps(overlaps)
    truth, found = (segments.label_masks(*part) for part in (masks[:3], masks[3:]))
    labelled = [part.label_runs(np.arange(masks[0].size)) for part in (truth, found)]
    id_maps = [1000 * part.labels.reshape(masks[0].shape) for part in labelled]
    by_ids = [
        segments.label_id_map(
            id_map,
            ids=1000 * np.arange(1, part.categories.size),
            categories=part.categories[1:],
            is_crowd=part.is_crowd[1:],
        )
        for id_map, part in zip(id_maps, labelled)
    ]
    from_ids = quality().update_overlaps(segments.count_overlaps(*by_ids))
    np.testing.assert_array_equal(from_ids, state)
    assert average_quality(state)["PQ"] is not None


@pytest.mark.parametrize(
    "change, message",
    [
        ({"crowd_rule": "first"}, "crowd_rule must be one of .*'first'"),
        ({"thing_ids": (0, 5)}, r"thing_ids must be 1\.\.4, got \[0, 5\]"),
    ],
)
def test_constructor_errors(change, message):
    with pytest.raises(ValueError, match=message):
        PanopticQuality(**{"num_categories": 4, "thing_ids": (1,), **change})


def test_update_errors():
    mask, metric = np.ones((3, 4), int), quality()
    with pytest.raises(ValueError, match=r"predicted categories must be 0\.\.4, got \[9\]"):
        metric.update(mask, mask, None, 9 * mask, mask)
    with pytest.raises(ValueError, match=r"ground truth's size \(3, 4\), got \(4, 3\)"):
        metric.update(mask, mask, None, mask.T, mask.T)
    with pytest.raises(ValueError, match="masks must be .* of one size"):
        metric.update(mask, mask.T, None, mask, mask)
    with pytest.raises(ValueError, match="category_mask must not be negative, got -1"):
        metric.update(-mask, mask, None, mask, mask)
    with pytest.raises(ValueError, match="state must have shape"):
        metric.add_state(np.zeros((3, 4)))
    assert not metric.state().any()

"""Boundary PQ: drawn cases, plain loops, what the authors' code counted, properties."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import recorded_pq
from drawn_masks import NUM_CATEGORIES, THINGS, masks_strategy, random_masks, segments_of

from panoptic_tf.metrics import boundaries, matching, segments
from panoptic_tf.metrics.panoptic_quality import PanopticQuality

RATIO = 0.06  # 1 pixel of 12 x 14


def score(images, ratio=RATIO):
    """State [N + 1, 4] of images, by masks and by boundaries."""
    by_masks, by_boundaries = (
        PanopticQuality(num_categories=NUM_CATEGORIES, thing_ids=THINGS) for _ in range(2)
    )
    for masks in images:
        overlaps = segments.count_overlaps(
            segments.label_masks(*masks[:3]), segments.label_masks(*masks[3:]), boundary_ratio=ratio
        )
        for metric, use in ((by_masks, False), (by_boundaries, True)):
            matches = matching.match_segments(
                overlaps, num_categories=NUM_CATEGORIES, use_boundaries=use
            )
            metric.update_matches(overlaps, matches)
    return by_masks.state(), by_boundaries.state()


def boundary_of(pixels, distance):
    """The pixels of a set with a pixel that is not of it, or outside, within the distance."""
    near = range(-distance, distance + 1)
    return {
        (y, x) for y, x in pixels if any((y + i, x + j) not in pixels for i in near for j in near)
    }


def state_in_loops(masks, distance):
    """The state of one image, segment by segment and pixel by pixel."""
    truths = segments_of(*masks[:3])
    found = segments_of(*masks[3:], np.zeros_like(masks[2]))
    void = {(y, x) for y, x in np.ndindex(masks[0].shape) if not masks[0][y, x]}
    state = np.zeros((NUM_CATEGORIES + 1, 4))
    matched = [set(), set()]
    for i, (truth_category, is_crowd, truth) in enumerate(truths):
        for j, (category, _, pixels) in enumerate(found):
            if is_crowd or truth_category != category or not truth & pixels:
                continue
            edges = [boundary_of(p, distance) for p in (truth, pixels)]
            iou = min(
                len(one & other) / len(one | (other - void))
                for one, other in ((truth, pixels), edges)
            )
            if iou > 0.5:
                state[category, :2] += (iou, 1)
                matched[0].add(i)
                matched[1].add(j)
    for i, (category, is_crowd, _) in enumerate(truths):
        state[category, 3] += not is_crowd and i not in matched[0]
    for j, (category, _, pixels) in enumerate(found):
        crowds = [p for c, is_crowd, p in truths if is_crowd and c == category]
        forgiven = sum(len(pixels & region) for region in [void, *crowds])
        state[category, 2] += j not in matched[1] and forgiven / len(pixels) <= 0.5
    return state


def test_boundary_drawn():
    mask = np.zeros((7, 8), int)
    mask[2:, 3:] = 5
    # The rim of the image, the edge of the segment, and the pixels beside that edge.
    expected = [
        "########",
        "#.######",
        "#.######",
        "#.##...#",
        "#.##...#",
        "#.##...#",
        "########",
    ]
    found = boundaries.find_boundary(mask, distance=1)
    assert ["".join(".#"[int(v)] for v in row) for row in found] == expected


@pytest.mark.parametrize(
    "size, distance", [((12, 14), 1), ((12, 14), 3), ((9, 30), 4), ((1, 5), 1)]
)
def test_boundary_equals_plain_loops(size, distance):
    rng = np.random.default_rng(0)
    for _ in range(20):
        blocks = rng.integers(0, 3, (2, 4, 8)).repeat(3, axis=1).repeat(4, axis=2)
        one, other = blocks[:, : size[0], : size[1]]
        expected = np.zeros(size, bool)
        for value in range(9):
            pixels = set(map(tuple, np.argwhere(3 * one + other == value).tolist()))
            for y, x in boundary_of(pixels, distance):
                expected[y, x] = True
        np.testing.assert_array_equal(
            boundaries.find_boundary(one, other, distance=distance), expected
        )


@pytest.mark.parametrize(
    "size, ratio, expected",
    [
        ((480, 640), 0.02, 16),
        ((427, 640), 0.02, 15),
        ((10, 10), 0.02, 1),
        ((1024, 2048), 0.005, 11),
    ],
)
def test_distance_is_rounded_and_at_least_one(size, ratio, expected):
    assert boundaries.boundary_distance(size, ratio) == expected


def test_a_boundary_that_is_off_fails_a_mask_that_matches():
    truth = np.zeros((20, 20), int)
    truth[2:18, 2:18] = 1
    shifted = np.zeros_like(truth)
    shifted[4:20, 2:18] = 1
    none = np.zeros_like(truth, bool)
    # 14 of 18 rows are shared: mask IoU 7/9, all of the prediction beyond the truth being void.
    by_masks, by_boundaries = score([(truth + 3 * (truth == 0), truth, none, shifted, shifted)])
    np.testing.assert_allclose(by_masks[1], [14 / 18, 1, 0, 0])
    # Of the rings, one pixel wide, 60 pixels each, the sides share 14 rows of two columns.
    np.testing.assert_array_equal(by_boundaries[1], [0, 0, 1, 1])
    assert 28 / (60 + 60 - 28) < 0.5


@pytest.mark.parametrize("ratio, distance", [(RATIO, 1), (0.12, 2)])
def test_equals_plain_loops(ratio, distance):
    rng = np.random.default_rng(0)
    total = np.zeros((NUM_CATEGORIES + 1, 4))
    for _ in range(40):
        masks = random_masks(rng)
        _, state = score([masks], ratio)
        expected = state_in_loops(masks, distance)
        np.testing.assert_allclose(state, expected, rtol=1e-12)
        total += expected
    assert total[:, 1:].sum(axis=0).min() > 5  # the inputs reach every outcome


@pytest.mark.parametrize("name", ["synth_0", "synth_1"])
@pytest.mark.reference
def test_recorded(golden, name):
    recorded = golden(f"boundary_pq_{name}")
    for i, ratio in enumerate(recorded["ratios"]):
        counts = {key: recorded[key][i] for key in ("iou", "tp", "fp", "fn", "averages")}
        same = {key: recorded[key] for key in ("cat_id", "isthing")}
        recorded_pq.check(recorded_pq.CASES / name, {**counts, **same}, boundary_ratio=float(ratio))


@hypothesis.given(masks_strategy)
@hypothesis.settings(max_examples=40, deadline=None)
def test_ground_truth_as_prediction_is_perfect(masks):
    category, instance, crowd = masks[:3]
    _, state = score([(category, instance, crowd, category, instance)])
    assert not state[:, 2:].any()
    np.testing.assert_array_equal(state[:, 0], state[:, 1])


@hypothesis.given(masks_strategy, st.floats(0.001, 1))
@hypothesis.settings(max_examples=40, deadline=None)
def test_never_above_the_quality_of_masks(masks, ratio):
    by_masks, by_boundaries = score([masks], ratio)
    assert (by_boundaries[:, :2] <= by_masks[:, :2] + 1e-12).all()
    assert (by_boundaries[:, 2:] >= by_masks[:, 2:]).all()


@hypothesis.given(masks_strategy)
@hypothesis.settings(max_examples=40, deadline=None)
def test_boundaries_as_wide_as_the_image_are_the_masks(masks):
    by_masks, by_boundaries = score([masks], 1.0)
    np.testing.assert_array_equal(by_masks, by_boundaries)


def test_boundaries_must_have_been_counted():
    mask = np.ones((3, 4), int)
    labels = segments.label_masks(mask, mask)
    with pytest.raises(ValueError, match="counted with a boundary_ratio"):
        matching.match_segments(
            segments.count_overlaps(labels, labels), num_categories=1, use_boundaries=True
        )

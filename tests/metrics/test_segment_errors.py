"""Kinds of errors: a drawn case, plain loops, and that their costs add up to what PQ lacks."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from drawn_masks import NUM_CATEGORIES, THINGS, masks_strategy, random_masks, segments_of

from panoptic_tf.metrics import matching, segments
from panoptic_tf.metrics.panoptic_quality import PanopticQuality
from panoptic_tf.metrics.segment_errors import KINDS, SegmentErrors

SUFFIXES = ("", "_things", "_stuff")


def results(images):
    """PQ and the rows of errors of images."""
    quality = PanopticQuality(num_categories=NUM_CATEGORIES, thing_ids=THINGS)
    metric = errors()
    for masks in images:
        overlaps, matches = match(masks)
        quality.update_matches(overlaps, matches)
        metric.update(overlaps, matches)
    return quality.result(), metric.result()


def errors():
    return SegmentErrors(num_categories=NUM_CATEGORIES, thing_ids=THINGS)


def match(masks):
    overlaps = segments.count_overlaps(
        segments.label_masks(*masks[:3]), segments.label_masks(*masks[3:])
    )
    return overlaps, matching.match_segments(overlaps, num_categories=NUM_CATEGORIES)


def kinds_in_loops(masks):
    """[(category, kind)] of the annotated and of the predicted segments of one image."""
    truths = segments_of(*masks[:3])
    found = segments_of(*masks[3:], np.zeros_like(masks[2]))
    annotated = set().union(*(pixels for _, _, pixels in truths))
    void = set(np.ndindex(masks[0].shape)) - annotated

    def iou(i, j):
        truth, pixels = truths[i][2], found[j][2]
        return len(truth & pixels) / len(truth | (pixels & annotated))

    pairs = [(i, j) for i in range(len(truths)) for j in range(len(found)) if not truths[i][1]]
    same = {(i, j) for i, j in pairs if truths[i][0] == found[j][0]}
    matches = {pair for pair in same if iou(*pair) > 0.5}
    matched = {i for i, _ in matches}, {j for _, j in matches}
    near = {p for p in same if iou(*p) >= 0.1 and p[0] not in matched[0] and p[1] not in matched[1]}
    other = {p for p in pairs if p not in same and iou(*p) > 0.5}

    def truth_kind(i):
        if i in matched[0]:
            return "correct"
        if any(i == pair[0] for pair in other):
            return "wrong_category"
        return "wrong_border" if any(i == pair[0] for pair in near) else "missed"

    def found_kind(j):
        category, _, pixels = found[j]
        crowds = [p for c, is_crowd, p in truths if is_crowd and c == category]
        forgiven = sum(len(pixels & region) for region in [void, *crowds])
        if j in matched[1]:
            return "correct"
        if 2 * forgiven > len(pixels):
            return "on_void"
        if any(j == pair[1] for pair in other):
            return "wrong_category"
        if any(j == pair[1] for pair in near):
            return "wrong_border"
        on_one = [len(pixels & truths[i][2]) for i, other_j in same if other_j == j]
        is_part = any(2 * shared > len(pixels & annotated) for shared in on_one)
        return "duplicate" if is_part else "spurious"

    return (
        [(truths[i][0], truth_kind(i)) for i in range(len(truths)) if not truths[i][1]],
        [(found[j][0], found_kind(j)) for j in range(len(found))],
    )


def test_drawn():
    gt_category = np.array(
        [
            [1, 1, 1, 1, 1, 2, 2, 2],
            [1, 1, 1, 1, 1, 2, 2, 2],
            [1, 1, 1, 1, 3, 3, 3, 3],
            [4, 4, 4, 4, 3, 3, 3, 3],
            [0, 0, 0, 0, 0, 0, 0, 0],
        ]
    )
    gt_instance = np.array(
        [
            [1, 1, 1, 1, 1, 3, 3, 3],
            [1, 1, 1, 1, 1, 3, 3, 3],
            [2, 2, 2, 2, 0, 0, 0, 0],
            [0, 0, 0, 0, 0, 0, 0, 0],
            [0, 0, 0, 0, 0, 0, 0, 0],
        ]
    )
    category = np.array(
        [
            [1, 1, 1, 1, 1, 1, 1, 1],
            [1, 1, 1, 1, 1, 1, 1, 1],
            [1, 1, 3, 3, 3, 3, 3, 3],
            [2, 2, 3, 3, 3, 3, 3, 3],
            [1, 1, 0, 0, 0, 0, 0, 0],
        ]
    )
    instance = np.array(
        [
            [4, 4, 4, 4, 5, 6, 6, 6],
            [4, 4, 4, 4, 5, 6, 6, 6],
            [7, 7, 0, 0, 0, 0, 0, 0],
            [8, 8, 0, 0, 0, 0, 0, 0],
            [9, 9, 0, 0, 0, 0, 0, 0],
        ]
    )
    # Instance 1 is found as 4, by 8 of 10 pixels; 5, the rest of it, is a second find.
    # Instance 3 is found as 6, of another category. Instance 2 is found by half, as 7.
    # Category 3 is found, with 8 of 12 pixels. Category 4 is missed; 8, on it, stands for nothing.
    # 9 is on void.
    panoptic, rows = results([(gt_category, gt_instance, None, category, instance)])
    counts = {row["kind"]: [row[name] for name in _COUNTS] for row in rows}
    assert counts == {
        "correct": [1, 1, 1, 1],
        "wrong_category": [1, 1, 0, 0],
        "wrong_border": [1, 1, 0, 0],
        "missed": [0, None, 1, None],
        "duplicate": [None, 1, None, 0],
        "spurious": [None, 1, None, 0],
        "on_void": [None, 1, None, 0],
    }
    # Category 1: 4 matches, 2 is missed, 5, 6 and 7 are wrong: D = 1 + 3/2 + 1/2 = 3, and PQ
    # 0.8 / 3. Category 2: 3 is missed, 8 is wrong: D = 1. Category 3: D = 1; 4: D = 1/2.
    lost = {row["kind"]: row["PQ_lost"] * 4 / 100 for row in rows}
    assert lost == {
        "correct": pytest.approx(0.2 / 3 + 4 / 12),
        "wrong_category": pytest.approx(0.5 / 3 + 0.5),
        "wrong_border": pytest.approx((0.5 + 0.5) / 3),
        "missed": pytest.approx(1),
        "duplicate": pytest.approx(0.5 / 3),
        "spurious": pytest.approx(0.5),
        "on_void": 0,
    }
    assert panoptic["PQ"] == pytest.approx(100 * (0.8 / 3 + 0 + 8 / 12 + 0) / 4)


_COUNTS = ("annotated_things", "predicted_things", "annotated_stuff", "predicted_stuff")


def test_equals_plain_loops():
    rng = np.random.default_rng(0)
    images = [random_masks(rng) for _ in range(60)]
    others = np.array([0, 2, 1, 4, 3])
    images[::2] = [(*masks[:3], others[masks[3]], masks[4]) for masks in images[::2]]
    _, rows = results(images)
    expected = {(name, kind): 0 for name in _COUNTS for kind in KINDS}
    for masks in images:
        for side, listed in zip(("annotated", "predicted"), kinds_in_loops(masks)):
            for category, kind in listed:
                expected[f"{side}_{'things' if category in THINGS else 'stuff'}", kind] += 1
    for row in rows:
        for name in _COUNTS:
            assert (row[name] or 0) == expected[name, row["kind"]], (name, row["kind"])
    assert all(max(row[name] or 0 for name in _COUNTS) > 0 for row in rows)  # every kind is there


@hypothesis.given(st.lists(masks_strategy, max_size=4))
@hypothesis.settings(max_examples=40, deadline=None)
def test_costs_add_up_to_what_pq_lacks(images):
    panoptic, rows = results(images)
    for suffix in SUFFIXES:
        lost = [row[f"PQ_lost{suffix}"] for row in rows]
        if panoptic[f"PQ{suffix}"] is None:
            assert lost == [None] * len(KINDS)
        else:
            assert sum(lost) == pytest.approx(100 - panoptic[f"PQ{suffix}"], abs=1e-9)
            assert min(lost) > -1e-9


@hypothesis.given(masks_strategy)
@hypothesis.settings(max_examples=40, deadline=None)
def test_counts_are_those_of_pq(masks):
    panoptic, rows = results([masks])
    by_kind = {row["kind"]: row for row in rows}
    for split, ids in (("things", THINGS), ("stuff", (3, 4))):
        of_split = [row for row in panoptic["per_category"] if row["id"] in ids]
        correct = by_kind["correct"]
        assert correct[f"annotated_{split}"] == sum(row["tp"] for row in of_split)
        assert correct[f"predicted_{split}"] == sum(row["tp"] for row in of_split)
        missed, wrong = (
            sum(
                row[f"{side}_{split}"] or 0
                for kind, row in by_kind.items()
                if kind not in ("correct", "on_void")
            )
            for side in ("annotated", "predicted")
        )
        assert missed == sum(row["fn"] for row in of_split)
        assert wrong == sum(row["fp"] for row in of_split)


@hypothesis.given(masks_strategy)
@hypothesis.settings(max_examples=40, deadline=None)
def test_ground_truth_as_prediction_costs_nothing(masks):
    category, instance, crowd = masks[:3]
    _, rows = results([(category, instance, crowd, category, instance)])
    assert all(row["PQ_lost"] in (None, pytest.approx(0, abs=1e-9)) for row in rows)
    assert all(not row[name] for row in rows[1:-1] for name in _COUNTS)


def test_merge_equals_all_at_once():
    rng = np.random.default_rng(1)
    images = [match(random_masks(rng)) for _ in range(6)]
    whole, one, other = errors(), errors(), errors()
    for i, image in enumerate(images):
        whole.update(*image)
        (one if i < 2 else other).update(*image)
    one.merge(other)
    for row, expected in zip(one.result(), whole.result()):
        assert row == {k: v if k == "kind" else pytest.approx(v) for k, v in expected.items()}

import functools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_tables import pixels_of, table

from panoptic_tf.postprocess import merge_by_query, segments
from panoptic_tf.structures import Prediction

SIZE = (14, 18)
THINGS, NUM_CATEGORIES = (1, 3, 4), 6
OPTIONS = dict(score_threshold=0.5, mask_threshold=0.5, overlap_threshold=0.8)


def merge_by_loops(probabilities, masks, things, options, void_outside_masks=True):
    """The published rule for one image, of [Q, N + 1] and [Q, H, W]: rows as `table` has them.

    Segments are numbered in the order of queries there; here things come first, then stuff by
    category.
    """
    best = np.argmax(probabilities, axis=1)
    scores = probabilities[np.arange(len(best)), best]
    kept = [
        q
        for q in range(len(best))
        if best[q] != NUM_CATEGORIES and scores[q] > options["score_threshold"]
    ]
    if not kept:
        return []
    values = np.stack([scores[q] * masks[q] for q in kept])
    owner = np.where(values.max(axis=0) > 0, np.argmax(values, axis=0), -1)
    found, stuff = [], {}
    for k, q in enumerate(kept):
        inside, owned = masks[q] >= options["mask_threshold"], owner == k
        painted = inside & owned if void_outside_masks else owned
        if not (inside.any() and painted.any()):
            continue
        if np.float32(owned.sum()) / np.float32(inside.sum()) < options["overlap_threshold"]:
            continue
        category = int(best[q]) + 1
        if category in things:
            found.append((category, True, float(scores[q]), pixels_of(painted)))
        else:
            stuff.setdefault(category, []).append((scores[q], painted))
    for category, parts in sorted(stuff.items()):
        areas = [mask.sum() for _, mask in parts]
        score = np.average([score for score, _ in parts], weights=areas)
        found.append((category, False, score, pixels_of(np.any([m for _, m in parts], axis=0))))
    return found


@functools.cache
def compiled(things, void_outside_masks, xla):
    """The merge as a function of tensors: thresholds as well, so that it is traced once."""

    @tf.function(autograph=False, jit_compile=xla)
    def run(probabilities, masks, measured, score_threshold, mask_threshold, overlap_threshold):
        queries = merge_by_query.choose_queries(probabilities, score_threshold=score_threshold)
        contest = merge_by_query.compete(
            lambda query: tf.gather(masks, query, axis=1, batch_dims=1),
            queries,
            size=tuple(masks.shape[2:]),
            mask_threshold=mask_threshold,
            measured=measured,
        )
        merged = merge_by_query.merge_by_query(
            contest,
            queries,
            thing_ids=things,
            num_categories=NUM_CATEGORIES,
            overlap_threshold=overlap_threshold,
            void_outside_masks=void_outside_masks,
        )
        return segments.build_segments(merged.row_map, merged.rows), contest

    return run


def merge(
    probabilities,
    masks,
    *,
    things=THINGS,
    measured=None,
    void_outside_masks=True,
    xla=False,
    **options,
):
    """Merged and numbered prediction of a batch as numpy, and the contest; masks [B, Q, H, W]."""
    arguments = (None if x is None else tf.constant(x) for x in (probabilities, masks, measured))
    thresholds = {k: tf.constant(v, tf.float32) for k, v in {**OPTIONS, **options}.items()}
    prediction, contest = compiled(things, void_outside_masks, xla)(*arguments, **thresholds)
    contest = {k: v.numpy() for k, v in contest._asdict().items() if v is not None}
    return {k: v.numpy() for k, v in prediction.items()}, contest


def assert_equal(found, expected):
    assert [(c, t, p) for c, t, _, p in found] == [(c, t, p) for c, t, _, p in expected]
    scores = [[score for _, _, score, _ in rows] for rows in (found, expected)]
    np.testing.assert_allclose(*scores, atol=1e-6)


def draw(seed, count=10, size=SIZE, steps=None):
    """Blobs of any size, some the copies of others, and classes of some certainty.

    Args:
      steps: round probabilities to so many steps, which makes ties.
    """
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1, (count, NUM_CATEGORIES + 1))
    certain = rng.choice(NUM_CATEGORIES + 1, count, p=[0.14] * NUM_CATEGORIES + [0.16])
    logits[np.arange(count), certain] += rng.choice([2.0, 5.0], count)
    exponents = np.exp(logits)
    probabilities = exponents / exponents.sum(axis=1, keepdims=True)
    y, x = np.mgrid[: size[0], : size[1]]
    masks = np.empty((count, *size))
    for q in range(count):
        center, radius = rng.uniform(0, size), rng.uniform(0, 7)
        distance = np.hypot(y - center[0], x - center[1])
        masks[q] = 1 / (1 + np.exp(distance - radius + rng.normal(0, 0.5, size)))
        if q and rng.random() < 0.3:
            masks[q] = masks[rng.integers(q)] * rng.choice([1.0, 0.9])
    if steps:
        probabilities, masks = (np.round(p * steps) / steps for p in (probabilities, masks))
    return probabilities.astype(np.float32), masks.astype(np.float32)


def of_category(*pairs):
    """Probabilities [1, Q, N + 1] of (category, probability); the rest is no object."""
    probabilities = np.zeros((1, len(pairs), NUM_CATEGORIES + 1), np.float32)
    for q, (category, probability) in enumerate(pairs):
        probabilities[0, q, category - 1] = probability
        probabilities[0, q, -1] = 1 - probability
    return probabilities


def test_drawn():
    # Tenths. The thing of the first query takes what the second, as probable a mask but of a lower
    # score, has in common with it: 4 of its 12 pixels, so it is dropped. Stuff 2 is of two queries
    # (the fourth and the sixth). The third is below the threshold. The fifth owns the two pixels on
    # the right, but not with half a probability: void, as are the pixels that the second took.
    rows = {
        0: ["99990000", "99990000", "00000000"],
        1: ["00999900", "00999900", "00999900"],
        2: ["99999999", "99999999", "99999999"],
        3: ["00000000", "00000000", "99000000"],
        4: ["00000044", "00000000", "00000999"],
        5: ["00000000", "00000090", "00000000"],
    }
    masks = np.array([[int(c) for row in r for c in row] for r in rows.values()], np.float32)
    masks = masks.reshape([1, 6, 3, 8]) / np.float32(10)
    probabilities = of_category((1, 0.9), (3, 0.8), (1, 0.4), (2, 0.75), (4, 0.85), (2, 0.6))
    prediction, contest = merge(probabilities, masks)
    expected = [
        [1, 1, 1, 1, 2, 2, 5, 5],
        [1, 1, 1, 1, 2, 2, 6, 0],
        [4, 4, 2, 2, 2, 5, 5, 5],
    ]
    np.testing.assert_array_equal(contest["owner"][0], expected)
    np.testing.assert_array_equal(contest["areas"][0], [8, 12, 0, 2, 3, 1])
    expected = [
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 2, 0],
        [2, 2, 0, 0, 0, 4, 4, 4],
    ]
    np.testing.assert_array_equal(prediction[Prediction.CATEGORY_MASK][0], expected)
    expected = [
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 2, 2, 2],
    ]
    np.testing.assert_array_equal(prediction[Prediction.INSTANCE_MASK][0], expected)
    assert prediction[Prediction.SEGMENT_AREA][0, :4].tolist() == [8, 3, 3, 0]
    np.testing.assert_allclose(prediction[Prediction.SEGMENT_SCORE][0, :3], [0.9, 0.85, 0.7])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    score=st.sampled_from([0.0, 0.5, 0.8, 0.99]),
    mask=st.sampled_from([0.3, 0.5, 0.9]),
    overlap=st.sampled_from([0.0, 0.5, 0.8, 1.0]),
    things_and_void=st.sampled_from(
        [((), True), (THINGS, True), (THINGS, False), (tuple(range(1, NUM_CATEGORIES + 1)), True)]
    ),
    steps=st.sampled_from([None, 4, 20]),
)
def test_against_loops(seed, score, mask, overlap, things_and_void, steps):
    options = dict(
        score_threshold=np.float32(score),
        mask_threshold=np.float32(mask),
        overlap_threshold=np.float32(overlap),
    )
    things, void = things_and_void
    probabilities, masks = draw(seed, steps=steps)
    found, _ = merge(
        probabilities[None], masks[None], things=things, void_outside_masks=void, **options
    )
    assert_equal(table(found), merge_by_loops(probabilities, masks, things, options, void))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), overlap=st.sampled_from([0.0, 0.8]))
def test_properties(seed, overlap):
    probabilities, masks = draw(seed)
    prediction, contest = merge(probabilities[None], masks[None], overlap_threshold=overlap)
    rows = table(prediction)
    # No pixel is in two segments, and each is within the mask of a query of its category.
    everyone = [pixel for *_, pixels in rows for pixel in pixels]
    assert len(everyone) == len(set(everyone))
    best = np.argmax(probabilities, axis=1) + 1
    for category, _, score, pixels in rows:
        in_masks = np.any(masks[best == category] >= 0.5, axis=0)
        assert pixels <= pixels_of(in_masks) and 0.5 < score <= 1
    stuff = [c for c, is_thing, *_ in rows if not is_thing]
    assert stuff == sorted(set(stuff))
    # A query that competes alone owns its whole mask.
    alone, _ = merge(probabilities[:, None], masks[:, None])
    for q in range(len(masks)):
        mask = pixels_of(masks[q] >= 0.5)
        kept = best[q] <= NUM_CATEGORIES and probabilities[q].max() > 0.5
        assert [p for *_, p in table(alone, q)] == ([mask] if mask and kept else [])


def test_a_batch_is_its_images():
    images = [draw(seed) for seed in (1, 2, 3, 4)]
    images[1][0][:] = of_category((2, 0.9))[0]  # one category for all
    images[2][0][:, -1] = 1.0  # no object
    images[3][1][:] = images[3][1][0]  # one mask for all
    probabilities, masks = (np.stack(values) for values in zip(*images))
    measured = np.zeros(masks.shape[:2], bool)
    measured[:, ::3] = True
    together, contest = merge(probabilities, masks, measured=measured)
    assert (together[Prediction.NUM_SEGMENTS] > 0).tolist() == [True, True, False, True]
    for i, image in enumerate(images):
        found, one = merge(*(x[None] for x in image), measured=measured[i : i + 1])
        for key, value in found.items():
            np.testing.assert_allclose(together[key][i], value[0], rtol=1e-6, err_msg=key)
        for name, value in one.items():
            np.testing.assert_allclose(contest[name][i], value[0], rtol=1e-6, err_msg=name)
        assert_equal(table(together, i), merge_by_loops(*image, THINGS, OPTIONS))


def test_xla():
    probabilities, masks = (np.stack(values) for values in zip(*(draw(s) for s in (5, 6))))
    measured = np.ones(masks.shape[:2], bool)
    expected, found = (
        merge(probabilities, masks, measured=measured, xla=xla) for xla in (False, True)
    )
    assert (expected[0][Prediction.NUM_SEGMENTS] > 1).all()
    tf.nest.map_structure(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)


def test_the_first_of_equals_wins():
    _, masks = draw(7)
    masks = np.repeat(masks[None, :1], 3, axis=1)
    assert (masks >= 0.5).any()
    prediction, contest = merge(of_category((2, 0.7), (1, 0.9), (3, 0.9)), masks)
    assert set(np.unique(contest["owner"])) == {2}
    assert prediction[Prediction.NUM_SEGMENTS] == 1
    assert prediction[Prediction.SEGMENT_CATEGORY][0, 0] == 1


@pytest.mark.parametrize("lost, is_kept", [(1, True), (2, False)])
def test_the_share_itself_is_enough(lost, is_kept):
    # The second has five pixels and loses one or two of them.
    masks = np.zeros([1, 2, 1, 8], np.float32)
    masks[0, 0, 0, :lost], masks[0, 1, 0, :5] = 0.9, 0.8
    prediction, _ = merge(of_category((1, 0.9), (3, 0.9)), masks)
    assert prediction[Prediction.NUM_SEGMENTS] == 1 + is_kept


@pytest.mark.parametrize("void", [True, False])
def test_faint_pixels_count_as_owned(void):
    # The second loses three of its five pixels, and owns two where it has no mask: 4 of 5.
    masks = np.zeros([1, 2, 1, 8], np.float32)
    masks[0, 0, 0, :3], masks[0, 1, 0, :5], masks[0, 1, 0, 5:7] = 0.9, 0.8, 0.3
    prediction, _ = merge(of_category((1, 0.9), (3, 0.9)), masks, void_outside_masks=void)
    np.testing.assert_array_equal(
        prediction[Prediction.CATEGORY_MASK][0, 0], [1, 1, 1, 3, 3, *[0 if void else 3] * 2, 0]
    )


@pytest.mark.parametrize("reason", ["score", "no object", "empty"])
def test_nothing_to_see(reason):
    _, masks = draw(8)
    masks = masks * (0.4 if reason == "empty" else 1.0)
    probability = dict(score=0.5, empty=0.9).get(reason, 0.49)
    threshold = 0.3 if reason == "no object" else 0.5
    probabilities = of_category(*[(1 + q % 6, probability) for q in range(len(masks))])
    prediction, contest = merge(
        probabilities, masks[None].astype(np.float32), score_threshold=threshold
    )
    assert contest["owner"].any() == (reason == "empty")
    for key, value in prediction.items():
        assert not value.any(), key


def test_mean_probabilities():
    probabilities, masks = draw(9, count=12)
    masks[3] = 0.5  # not above
    measured = np.arange(12) % 2 == 1
    _, contest = merge(probabilities[None], masks[None], measured=measured[None])
    for q in np.flatnonzero(measured):
        above = masks[q][masks[q] > 0.5]
        expected = above.mean() if len(above) else 0.0
        np.testing.assert_allclose(contest["mean_probabilities"][0, q], expected, rtol=1e-6)
    assert contest["mean_probabilities"][0, 3] == 0.0 < contest["mean_probabilities"][0, 5]
    np.testing.assert_array_equal(
        contest["owner"], merge(probabilities[None], masks[None])[1]["owner"]
    )


def test_what_is_not_kept_does_not_matter():
    probabilities, masks = draw(10)
    expected, _ = merge(probabilities[None], masks[None])
    score = probabilities[:, :-1].max(axis=1)
    dropped = (probabilities.argmax(axis=1) == NUM_CATEGORIES) | (score <= 0.5)
    assert dropped.any() and expected[Prediction.NUM_SEGMENTS] > 1
    masks[dropped] = np.nan
    probabilities[np.flatnonzero(dropped)[0]] = np.nan
    found, _ = merge(probabilities[None], masks[None])
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)


@pytest.mark.parametrize("measured, expected", [(None, 3), ([0, 1, 2], 4)])
def test_the_loop_visits_what_is_needed(measured, expected):
    # Of the first image queries 1, 4 and 6, of the second 5, none of the third.
    asked = []

    def probability_of(query):
        asked.append(query.numpy().tolist())
        return tf.ones([3, *SIZE])

    kept = np.zeros([3, 8], bool)
    kept[0, [1, 4, 6]], kept[1, 5] = True, True
    mask = None
    if measured:
        mask = np.zeros([3, 8], bool)
        mask[1, measured] = True
    queries = merge_by_query.Queries(
        tf.constant(kept * np.float32(0.9)), tf.ones([3, 8], tf.int32), tf.constant(kept)
    )
    contest = merge_by_query.compete(probability_of, queries, size=SIZE, measured=mask)
    assert len(asked) == expected
    assert [query[0] for query in asked][:3] == [1, 4, 6]
    assert [query[1] for query in asked] == ([0, 1, 2, 5] if measured else [5, 0, 0])
    assert contest.owner[:, 0, 0].numpy().tolist() == [2, 6, 0]

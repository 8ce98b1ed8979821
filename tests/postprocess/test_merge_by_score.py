import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_tables import pixels_of, table

from panoptic_tf.postprocess import merge_by_score, painting, segments
from panoptic_tf.structures import Prediction

SIZE = (14, 18)
THINGS, NUM_CATEGORIES = (1, 3, 4), 6
OPTIONS = dict(score_threshold=0.5, overlap_threshold=0.5, stuff_area=9)
FCN_MASK_THRESHOLD = 0.4


def merge_by_loops(masks, scores, categories, valid, stuff_mask, probability, things, options):
    """[(category, is_thing, score, frozenset of flat pixels)] of one image, in order."""
    taken, found = np.zeros(stuff_mask.shape, bool), []
    for mask, score, category, ok in zip(masks, scores, categories, valid):
        area = int(mask.sum())
        if not ok or score < options["score_threshold"] or area == 0:
            continue
        overlap = np.float32((mask & taken).sum()) / np.float32(area)
        if overlap > np.float32(options["overlap_threshold"]):
            continue
        visible = mask & ~taken
        taken |= mask
        if visible.any():
            found.append((int(category), True, float(score), pixels_of(visible)))
    for category in range(1, NUM_CATEGORIES + 1):
        rest = (stuff_mask == category) & ~taken
        if category not in things and rest.sum() >= max(options["stuff_area"], 1):
            score = 1.0 if probability is None else float(probability[rest].mean())
            found.append((category, False, score, pixels_of(rest)))
    return found


def merge(
    masks,
    scores,
    categories,
    valid,
    stuff_mask,
    probability,
    *,
    things=THINGS,
    **options,
):
    """Painted, merged and numbered prediction of a batch as numpy; masks [B, K, H, W]."""
    options = {**OPTIONS, "num_categories": NUM_CATEGORIES, **options}
    masks, size = tf.constant(masks), masks.shape[2:]
    painted = painting.paint(
        lambda k: tf.gather(masks, k, axis=1),
        tf.constant(valid & (scores >= options["score_threshold"])),
        size=size,
        overlap_threshold=options["overlap_threshold"],
    )
    merged = merge_by_score.merge_by_score(
        painted.owner,
        scores=tf.constant(scores),
        categories=tf.constant(categories),
        stuff_mask=tf.constant(stuff_mask, tf.float32),
        stuff_probability=None if probability is None else tf.constant(probability),
        thing_ids=things,
        num_categories=options["num_categories"],
        stuff_area=options["stuff_area"],
    )
    prediction = segments.build_segments(merged.row_map, merged.rows)
    return {key: value.numpy() for key, value in prediction.items()}


def assert_equal(found, expected):
    assert [(c, t, p) for c, t, _, p in found] == [(c, t, p) for c, t, _, p in expected]
    scores = [[score for _, _, score, _ in rows] for rows in (found, expected)]
    np.testing.assert_allclose(*scores, atol=1e-5)


def draw(seed, count=12, things=THINGS, size=SIZE, above=0.6):
    """Random rectangles with holes (some empty), scores around the threshold, a stuff map."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, *size), bool)
    for mask in masks:
        y, x = rng.integers(0, size[0]), rng.integers(0, size[1])
        mask[y : y + rng.integers(0, 9), x : x + rng.integers(1, 9)] = True
        mask &= rng.random(size) < rng.choice([0.5, 1.0])
    scores = np.sort(rng.random(count).astype(np.float32) * 0.5 + above - 0.2)[::-1].copy()
    categories = rng.choice(things or (1,), count).astype(np.int32)
    valid = np.arange(count) < rng.integers(0, count + 1)
    stuff = [c for c in range(NUM_CATEGORIES + 1) if c not in things]
    blocks = rng.choice(stuff, (-(-size[0] // 4), -(-size[1] // 4)))
    stuff_mask = np.kron(blocks, np.ones((4, 4), int))[: size[0], : size[1]].astype(np.int32)
    probability = rng.random(size).astype(np.float32)
    return (
        masks,
        np.where(valid, scores, 0.0),
        categories,
        valid,
        stuff_mask,
        probability,
    )


def batch_of(*images):
    return [np.stack(values) for values in zip(*images)]


@pytest.mark.reference
@pytest.mark.parametrize("case", [0, 1, 2])
def test_recorded_of_panoptic_fpn(golden, case):
    recorded = golden(f"panoptic_fpn_merge_{case}")
    order = np.argsort(-recorded["scores"], kind="stable")
    masks = recorded["masks"][order][None] > 0
    scores = recorded["scores"][order][None]
    things, stuff = 80, 54
    semantic = recorded["semantic"][None]  # 0 is "things", s is stuff category s
    prediction = merge(
        masks,
        scores,
        recorded["classes"][order][None] + 1,
        scores > 0,
        np.where(semantic > 0, semantic + things, 0),
        None,
        things=range(1, things + 1),
        num_categories=things + stuff,
        score_threshold=float(recorded["instances_score_thresh"]),
        overlap_threshold=float(recorded["overlap_threshold"]),
        stuff_area=int(recorded["stuff_area_thresh"]),
    )
    assert_recorded(table(prediction), recorded, things)


@pytest.mark.reference
@pytest.mark.parametrize("case", [0, 1])
def test_recorded_of_panoptic_fcn(golden, case):
    recorded = golden(f"pfcn_combine_{case}")
    things, stuff = 80, 54
    semantic = recorded["semantic"][None]  # 0 is "things", s is stuff category s
    prediction = merge(
        recorded["masks"][None] > FCN_MASK_THRESHOLD,
        recorded["scores"][None],
        recorded["classes"][None] + 1,
        recorded["use_things"][None] > 0,
        np.where(semantic > 0, semantic + things, 0),
        None,
        things=range(1, things + 1),
        num_categories=things + stuff,
        score_threshold=float(recorded["inst_threshold"]),
        overlap_threshold=float(recorded["overlap_threshold"]),
        stuff_area=int(recorded["stuff_area_limit"]),
    )
    assert_recorded(table(prediction), recorded, things)


def assert_recorded(found, recorded, things):
    """Segments are the recorded ones in their order; the score of stuff is 1."""
    columns = zip(*(recorded[f"seg_{k}"] for k in ("id", "isthing", "category_id", "score")))
    expected = []
    for number, is_thing, category, score in columns:
        pixels = pixels_of(recorded["panoptic"] == number)
        category = category + 1 if is_thing else category + things
        expected.append((category, bool(is_thing), score if is_thing else 1.0, pixels))
    assert_equal(found, expected)
    areas = [len(pixels) for _, is_thing, _, pixels in found if not is_thing]
    assert areas == recorded["seg_area"][recorded["seg_isthing"] == 0].tolist()


def test_drawn():
    # 1: two thirds of the second lie on the first, dropped; half of the third, it keeps the rest;
    # the fourth is empty, the fifth below the threshold. Stuff 2 keeps 4 pixels, stuff 5 only 3.
    rows = ["AAAAAA..", "..AAAA..", "........"]
    first = np.array([[c == "A" for c in row] for row in rows])
    second, third = np.zeros_like(first), np.zeros_like(first)
    second[0:2, 5], second[2, 5] = True, True
    third[0, 4:8] = True
    empty, faint = np.zeros_like(first), np.ones_like(first)
    masks = np.stack([first, second, third, empty, faint])[None]
    stuff_mask = np.array([[[2] * 8, [2, 2, 2, 2, 2, 2, 5, 5], [0] * 7 + [5]]], np.int32)
    stuff_mask[0, 2, :2] = 2
    prediction = merge(
        masks,
        np.array([[0.9, 0.8, 0.7, 0.6, 0.4]], np.float32),
        np.array([[1, 3, 1, 4, 3]], np.int32),
        np.ones((1, 5), bool),
        stuff_mask,
        None,
        stuff_area=4,
    )
    expected = [
        [1, 1, 1, 1, 1, 1, 1, 1],
        [2, 2, 1, 1, 1, 1, 0, 0],
        [2, 2, 0, 0, 0, 0, 0, 0],
    ]
    np.testing.assert_array_equal(prediction[Prediction.CATEGORY_MASK][0], expected)
    expected = [
        [1, 1, 1, 1, 1, 1, 2, 2],
        [0, 0, 1, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
    ]
    np.testing.assert_array_equal(prediction[Prediction.INSTANCE_MASK][0], expected)
    assert prediction[Prediction.SEGMENT_AREA][0, :4].tolist() == [10, 2, 4, 0]
    np.testing.assert_allclose(prediction[Prediction.SEGMENT_SCORE][0, :3], [0.9, 0.7, 1.0])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    score=st.sampled_from([0.0, 0.5, 0.99]),
    overlap=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    stuff_area=st.sampled_from([0, 1, 9, 40]),
    things=st.sampled_from([(), (1, 3, 4), tuple(range(1, NUM_CATEGORIES + 1))]),
    has_probability=st.booleans(),
)
def test_against_loops(seed, score, overlap, stuff_area, things, has_probability):
    image = list(draw(seed, things=things))
    image[5] = image[5] if has_probability else None
    options = dict(score_threshold=score, overlap_threshold=overlap, stuff_area=stuff_area)
    batched = [None if value is None else value[None] for value in image]
    found = table(merge(*batched, things=things, **options))
    assert_equal(found, merge_by_loops(*image, things, options))


def test_a_batch_is_its_images():
    images = [draw(seed) for seed in (1, 2, 3, 4)]
    for value in (images[1][1], images[1][3]):
        value[:] = 0  # an image without instances: no score, none valid
    images[2][4][:] = 0  # one without stuff
    images[3][1][:] = images[3][1][0]  # one of equal scores
    together = merge(*batch_of(*images))
    for i, image in enumerate(images):
        alone = merge(*batch_of(image))
        assert alone[Prediction.NUM_SEGMENTS][0] > 0
        for key, value in alone.items():
            np.testing.assert_allclose(together[key][i], value[0], rtol=1e-6)
        assert_equal(table(together, i), merge_by_loops(*image, THINGS, OPTIONS))


@pytest.mark.parametrize("reason", ["score", "invalid", "empty"])
def test_no_instance(reason):
    masks, scores, categories, _, stuff_mask, probability = draw(6)
    valid = np.full(scores.shape, reason != "invalid")
    scores = np.full_like(scores, 0.4 if reason == "score" else 0.9)
    masks = masks & (reason != "empty")
    prediction = merge(*batch_of((masks, scores, categories, valid, stuff_mask, probability)))
    assert not prediction[Prediction.INSTANCE_MASK].any()
    expected = np.where(np.isin(stuff_mask, [c for c, *_ in table(prediction)]), stuff_mask, 0)
    np.testing.assert_array_equal(prediction[Prediction.CATEGORY_MASK][0], expected)
    assert expected.any()


def test_things_in_the_stuff_map_stay_void():
    masks, scores, categories, valid, stuff_mask, probability = draw(7)
    stuff_mask = np.where(stuff_mask > 0, 3, 0).astype(np.int32)
    prediction = merge(
        *batch_of((masks, scores * 0, categories, valid, stuff_mask, probability)),
    )
    assert not prediction[Prediction.CATEGORY_MASK].any()

import grouping_oracle as oracle
import numpy as np
import pytest
import tensorflow as tf
from heads import draw_heads
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from panoptic_tf.postprocess import grouping, merge_by_vote, segments
from panoptic_tf.structures import Prediction

SETTINGS = dict(thing_ids=(1, 3), center_threshold=0.1, nms_kernel=3, top_k=12, stuff_area=9)


def merge(semantic, logits, instance_ids, scores, **options):
    """`merge_by_vote` with the probabilities of logits [B, H, W, N]; ids are integers."""
    return merge_by_vote.merge_by_vote(
        tf.cast(semantic, tf.float32),
        instance_ids,
        scores,
        probability_of=lambda channel: tf.gather(
            tf.nn.softmax(logits), tf.cast(channel, tf.int32), axis=3, batch_dims=3
        ),
        num_categories=logits.shape[-1],
        **options,
    )


def group(heads, *, thing_ids, center_threshold, nms_kernel, top_k, stuff_area):
    """All steps on a batch of heads; prediction as numpy."""
    semantic, logits, heatmap, offsets = (tf.constant(np.stack(v)) for v in zip(*heads))
    centers = grouping.find_centers(
        heatmap, threshold=center_threshold, nms_kernel=nms_kernel, top_k=top_k
    )
    merged = merge(
        semantic,
        logits,
        grouping.group_pixels(offsets, centers),
        centers.scores,
        thing_ids=thing_ids,
        stuff_area=stuff_area,
    )
    prediction = segments.build_segments(merged.row_map, merged.rows)
    return {key: value.numpy() for key, value in prediction.items()}


def found_segments(prediction, i):
    """{(category, instance): flat pixels} of the masks of image i."""
    category = prediction[Prediction.CATEGORY_MASK][i].reshape(-1)
    instance = prediction[Prediction.INSTANCE_MASK][i].reshape(-1)
    found = {}
    for pixel in np.flatnonzero(category):
        found.setdefault((int(category[pixel]), int(instance[pixel])), set()).add(int(pixel))
    return {key: frozenset(pixels) for key, pixels in found.items()}


def table_rows(prediction, i):
    """{(category, instance): (area, score)} of the segment table of image i."""
    count = int(prediction[Prediction.NUM_SEGMENTS][i])
    keys = (
        Prediction.SEGMENT_CATEGORY,
        Prediction.SEGMENT_INSTANCE,
        Prediction.SEGMENT_AREA,
        Prediction.SEGMENT_SCORE,
    )
    columns = [prediction[key][i] for key in keys]
    for column in columns:
        assert not column[count:].any(), "rows past num_segments must be zero"
    rows = {}
    for category, instance, area, score in zip(*(c[:count].tolist() for c in columns)):
        assert (category, instance) not in rows
        rows[category, instance] = (area, score)
    return rows


def assert_consistent(prediction, i, thing_ids):
    """Table and masks tell the same."""
    found, rows = found_segments(prediction, i), table_rows(prediction, i)
    assert found.keys() == rows.keys()
    for key, (area, score) in rows.items():
        assert area == len(found[key]) > 0
        assert 0.0 <= score <= 1.0
        assert (key[1] > 0) == (key[0] in thing_ids)
    instances = sorted(k[1] for k in rows if k[1])
    assert instances == list(range(1, len(instances) + 1))
    category = prediction[Prediction.CATEGORY_MASK][i]
    assert sum(area for area, _ in rows.values()) == (category > 0).sum()
    assert not prediction[Prediction.INSTANCE_MASK][i][category == 0].any()


def equals_oracle(heads, prediction, i, settings):
    """Compares an image with the oracle; False where a pixel lies between two centers."""
    expected, margin = oracle.panoptic_segments(*heads, **settings)
    if margin < 1e-3:
        return False  # a tie may be broken either way
    found, rows = found_segments(prediction, i), table_rows(prediction, i)
    assert {(c, pixels) for (c, _), pixels in found.items()} == {
        (s.category, s.pixels) for s in expected
    }
    scores = {found[key]: score for key, (_, score) in rows.items()}
    for segment in expected:
        if segment.score is not None:
            np.testing.assert_allclose(scores[segment.pixels], segment.score, atol=1e-5)
    return True


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    plateaus=st.booleans(),
    nms_kernel=st.sampled_from([1, 3, 7, 41]),
    top_k=st.sampled_from([2, 5, 12, 400]),
    stuff_area=st.sampled_from([1, 9, 30]),
    things=st.sampled_from([(), (1, 3), (5,), (1, 2, 3, 4, 5)]),
)
def test_against_loops(seed, plateaus, nms_kernel, top_k, stuff_area, things):
    options = dict(
        thing_ids=things,
        center_threshold=0.1,
        nms_kernel=nms_kernel,
        top_k=top_k,
        stuff_area=stuff_area,
    )
    heads = draw_heads(seed, plateaus=plateaus)
    prediction = group([heads], **options)
    assert_consistent(prediction, 0, things)
    assume(equals_oracle(heads, prediction, 0, options))


def test_a_batch_is_its_images():
    heads = [draw_heads(1), draw_heads(2, plateaus=True), draw_heads(3)]
    heads[2] = (heads[2][0], heads[2][1], heads[2][2] * 0.0, heads[2][3])  # no center
    together = group(heads, **SETTINGS)
    for i in range(3):
        alone = group(heads[i : i + 1], **SETTINGS)
        assert alone[Prediction.NUM_SEGMENTS][0] > 0
        for key, value in alone.items():
            if key == Prediction.SEGMENT_SCORE:
                np.testing.assert_allclose(together[key][i], value[0], rtol=1e-6)
            else:
                np.testing.assert_array_equal(together[key][i], value[0])
        assert_consistent(together, i, SETTINGS["thing_ids"])


@pytest.mark.parametrize("top_k", [1, 2, 3, 4, 5])
def test_more_centers_than_top_k(top_k):
    # Peaks 0.9, 0.5, 0.5, 0.3: of k or more candidates those strictly above the k-th are kept.
    heatmap = np.zeros((1, 9, 9), np.float32)
    for (y, x), heat in {(0, 0): 0.5, (0, 8): 0.9, (8, 0): 0.3, (8, 8): 0.5}.items():
        heatmap[0, y, x] = heat
    centers = grouping.find_centers(tf.constant(heatmap), threshold=0.1, nms_kernel=3, top_k=top_k)
    valid = centers.valid[0].numpy()
    kept = [tuple(p) for p in centers.positions[0].numpy()[valid]]
    expected = {
        1: [],
        2: [(0, 8)],
        3: [(0, 8)],
        4: [(0, 0), (0, 8), (8, 8)],
        5: [(0, 0), (0, 8), (8, 0), (8, 8)],
    }
    assert kept == expected[top_k]
    np.testing.assert_array_equal(centers.scores[0].numpy()[~valid], 0)


@pytest.mark.parametrize("window", [1, 3, 5, 7, 41])
@pytest.mark.parametrize("axis", [1, 2])
def test_largest_in_a_window(window, axis):
    x = np.random.default_rng(0).normal(size=(2, 9, 60)).astype(np.float32)
    found = grouping._largest_around(tf.constant(x), window, axis=axis).numpy()
    reach = window // 2
    for i in range(x.shape[axis]):
        part = np.take(x, range(max(i - reach, 0), min(i + reach + 1, x.shape[axis])), axis=axis)
        np.testing.assert_array_equal(np.take(found, i, axis=axis), part.max(axis=axis))


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (4, 3)])
@pytest.mark.parametrize("nms_kernel", [1, 7])
def test_smaller_than_window_and_top_k(shape, nms_kernel):
    heatmap = np.full((1, *shape), 0.5, np.float32)
    heatmap[0, -1, -1] = 0.6
    centers = grouping.find_centers(
        tf.constant(heatmap), threshold=0.1, nms_kernel=nms_kernel, top_k=200
    )
    expected = oracle.find_centers(heatmap[0], threshold=0.1, nms_kernel=nms_kernel, top_k=200)
    kept = [tuple(p) for p in centers.positions[0].numpy()[centers.valid[0].numpy()]]
    assert kept == expected


def test_no_center():
    semantic, logits, heatmap, offsets = draw_heads(6)
    prediction = group([(semantic, logits, heatmap * 0, offsets)], **SETTINGS)
    assert not prediction[Prediction.INSTANCE_MASK].any()
    assert not np.isin(prediction[Prediction.CATEGORY_MASK], SETTINGS["thing_ids"]).any()
    assert_consistent(prediction, 0, SETTINGS["thing_ids"])


@pytest.mark.parametrize("only", [0, 2, 3])
def test_an_image_of_void_or_of_one_category(only):
    semantic, logits, heatmap, offsets = draw_heads(7)
    heads = (np.full_like(semantic, only), logits, heatmap, offsets)
    prediction = group([heads], **SETTINGS)
    assert_consistent(prediction, 0, SETTINGS["thing_ids"])
    assert set(np.unique(prediction[Prediction.CATEGORY_MASK])) == {only}
    if only == 0:
        assert prediction[Prediction.NUM_SEGMENTS][0] == 0


@pytest.mark.parametrize("things", [(), (1, 2, 3, 4, 5)])
def test_no_thing_or_no_stuff_category(things):
    settings_ = {**SETTINGS, "thing_ids": things}
    heads = [draw_heads(8), draw_heads(9)]
    prediction = group(heads, **settings_)
    for i in range(2):
        assert_consistent(prediction, i, things)
        assert equals_oracle(heads[i], prediction, i, settings_)


def test_one_category_in_all():
    heads = draw_one_category()
    for things in ((), (1,)):
        settings_ = {**SETTINGS, "thing_ids": things}
        prediction = group([heads], **settings_)
        assert_consistent(prediction, 0, things)
        assert equals_oracle(heads, prediction, 0, settings_)


def draw_one_category():
    rng = np.random.default_rng(1)
    return (
        rng.integers(0, 2, (8, 9)).astype(np.int32),
        rng.normal(size=(8, 9, 1)).astype(np.float32),
        rng.random((8, 9)).astype(np.float32),
        rng.normal(0, 2, (8, 9, 2)).astype(np.float32),
    )


def test_scores_stay_in_range_where_the_heat_does_not():
    # A regressed heat map may exceed 1; the table's scores may not.
    semantic, logits, heatmap, offsets = draw_heads(10)
    prediction = group([(semantic, logits * 9, heatmap * 40, offsets)], **SETTINGS)
    assert_consistent(prediction, 0, SETTINGS["thing_ids"])
    assert prediction[Prediction.SEGMENT_SCORE].max() > 0.5


def test_static_shapes_with_unknown_batch():
    function = tf.function(
        lambda s, lo, h, o: segments.build_segments(
            *merge(
                s,
                lo,
                grouping.group_pixels(
                    o, grouping.find_centers(h, threshold=0.1, nms_kernel=3, top_k=12)
                ),
                tf.zeros_like(h[:, 0, :12]),
                thing_ids=(1, 3),
                stuff_area=9,
            )
        )
    )
    outputs = function.get_concrete_function(
        tf.TensorSpec([None, 13, 16], tf.int32),
        tf.TensorSpec([None, 13, 16, 5]),
        tf.TensorSpec([None, 13, 16]),
        tf.TensorSpec([None, 13, 16, 2]),
    ).structured_outputs
    for key, value in outputs.items():
        assert None not in value.shape[1:], key
    assert outputs[Prediction.SEGMENT_CATEGORY].shape[1] == 12 + 5

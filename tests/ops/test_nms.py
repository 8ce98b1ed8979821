import numpy as np
import pytest
import tensorflow as tf
from layers import box_oracle

from panoptic_tf.ops import forms, nms

FORMS = forms.registered()["nms.suppress_by_rank"]


@pytest.fixture(params=FORMS, ids=lambda form: form.value, autouse=True)
def form(request):
    """Every test runs with every form."""
    with forms.use(request.param):
        yield request.param


def suppress(boxes, scores, groups=None, **settings):
    """Kept indices of every image."""
    groups = np.zeros(np.shape(scores), np.int32) if groups is None else groups
    settings = {"iou_threshold": 0.5, "max_outputs": np.shape(scores)[1], **settings}
    indices, valid = nms.batched_nms(*(tf.constant(x) for x in (boxes, scores, groups)), **settings)
    assert indices.shape == valid.shape == (len(scores), settings["max_outputs"])
    assert not indices.numpy()[~valid.numpy()].any()
    count = valid.numpy().sum(axis=1)
    np.testing.assert_array_equal(valid, np.arange(indices.shape[1]) < count[:, None])
    return [x[:n].tolist() for x, n in zip(indices.numpy(), count)]


@pytest.mark.reference
def test_kept_boxes_equal_the_recorded_ones(golden):
    case = golden("nms")
    boxes, scores, classes = (case[k][np.newaxis] for k in ("boxes", "scores", "classes"))
    kept = suppress(box_oracle.yxyx(boxes), scores, classes)
    np.testing.assert_array_equal(kept[0], case["keep"])


@pytest.mark.parametrize("threshold", [0.25, 0.5, 0.7])
@pytest.mark.parametrize("groups", [1, 2, 81, 1203])
def test_against_loops(threshold, groups):
    rng = np.random.default_rng(groups)
    boxes = box_oracle.random_boxes(rng, (3, 150), extent=60, largest=30)
    scores = rng.integers(0, 30, (3, 150)).astype(np.float32) / 30  # many are equal
    group = rng.integers(0, groups, (3, 150)).astype(np.int32)
    boxes[:, :40, 2:] = boxes[:, 40:80, 2:] + 1
    boxes[:, :40, :2], group[:, :40] = boxes[:, 40:80, :2], group[:, 40:80]
    kept = suppress(boxes, scores, group, iou_threshold=threshold)
    for i in range(3):
        expected = []
        for g in np.unique(group[i]):
            in_group = np.where(group[i] == g, scores[i], -np.inf)
            expected += box_oracle.nms(boxes[i], in_group, threshold)
        assert kept[i] == sorted(expected, key=lambda k: (-scores[i, k], k))
        assert len(kept[i]) < 150


def test_equal_to_the_threshold_stays():
    # IoU of the two is 8 / 16.
    boxes = np.array([[[0, 0, 4, 4], [0, 0, 2, 4]]], np.float32)
    scores = np.array([[0.5, 0.6]], np.float32)
    assert suppress(boxes, scores) == [[1, 0]]
    assert suppress(boxes, scores, iou_threshold=0.49) == [[1]]


def test_equal_scores_go_by_index():
    boxes = np.tile(np.array([0, 0, 4, 4], np.float32), [1, 200, 1])
    boxes[0, :, ::2] += 8 * (np.arange(200)[:, None] // 2)  # pairs of the same box
    assert suppress(boxes, np.ones([1, 200], np.float32)) == [list(range(0, 200, 2))]
    assert suppress(boxes, np.ones([1, 200], np.float32), max_outputs=3) == [[0, 2, 4]]


def test_degenerate_boxes_suppress_nothing():
    boxes = np.array([[[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 2, 2], [1, 0, 1, 2]]], np.float32)
    assert suppress(boxes, np.array([[4, 3, 2, 1]], np.float32)) == [[0, 1, 2, 3]]


def test_what_is_no_candidate():
    boxes = np.tile(np.array([0, 0, 4, 4], np.float32), [1, 7, 1])
    boxes[0, 0, 1], boxes[0, 1, 2], boxes[0, 2, 3] = np.nan, np.inf, -np.inf
    scores = np.array([[9, 8, 7, np.nan, -np.inf, 0.5, 0.4]], np.float32)
    assert suppress(boxes, scores) == [[5]]
    assert suppress(boxes, scores, score_threshold=0.5) == [[]]
    assert suppress(boxes, scores, np.array([[0, 0, 0, 0, 0, 1, 3]], np.int32)) == [[5, 6]]


def test_padded_to_more_outputs_than_boxes():
    boxes = np.array([[[0, 0, 4, 4], [0, 0, 4, 4]], [[0, 0, 4, 4], [4, 0, 8, 4]]], np.float32)
    scores = np.array([[1, 2], [1, 2]], np.float32)
    assert suppress(boxes, scores, max_outputs=5) == [[1], [1, 0]]


def test_negative_coordinates_and_groups():
    boxes = np.array([[[-9, -9, -5, -5], [-9, -9, -5, -5], [-9, -9, -5, -5]]], np.float32)
    scores = np.array([[1, 2, 3]], np.float32)
    assert suppress(boxes, scores, np.array([[7, 2, 7]], np.int32)) == [[2, 1]]


def test_unknown_batch():
    rng = np.random.default_rng(0)
    boxes = box_oracle.random_boxes(rng, (4, 50))
    scores, groups = rng.random((4, 50)).astype(np.float32), rng.integers(0, 3, (4, 50))
    function = tf.function(
        lambda *x: nms.batched_nms(*x, iou_threshold=0.5, max_outputs=20),
        input_signature=[
            tf.TensorSpec([None, 50, 4]),
            tf.TensorSpec([None, 50]),
            tf.TensorSpec([None, 50], tf.int32),
        ],
    )
    shapes = [x.shape.as_list() for x in function.get_concrete_function().outputs]
    assert shapes == [[None, 20], [None, 20]]
    for batch in (4, 1, 0):
        inputs = boxes[:batch], scores[:batch], groups[:batch].astype(np.int32)
        indices, valid = function(*inputs)
        kept = [x[v].tolist() for x, v in zip(indices.numpy(), valid.numpy())]
        assert kept == (suppress(*inputs, max_outputs=20) if batch else [])


def test_the_reference_compiles(form):
    if form is not forms.Form.ACCELERATOR:
        return
    rng = np.random.default_rng(0)
    boxes = box_oracle.random_boxes(rng, (2, 50))
    scores, groups = rng.random((2, 50)).astype(np.float32), rng.integers(0, 3, (2, 50))
    inputs = [tf.constant(x) for x in (boxes, scores, groups.astype(np.int32))]

    def keep(*inputs):
        return nms.batched_nms(*inputs, iou_threshold=0.5, max_outputs=20)

    for found, expected in zip(tf.function(keep, jit_compile=True)(*inputs), keep(*inputs)):
        np.testing.assert_array_equal(found, expected)

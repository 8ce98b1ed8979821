import numpy as np
import pytest
import tensorflow as tf
from layers import box_oracle

from panoptic_tf.ops import boxes

RPN, ROI = (1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)


def test_intersection_over_union():
    # A 4x4 box: itself, its lower half, a 4x4 box that shares a 2x2 corner (4 / 28), a touching
    # one, one without area.
    a = tf.constant([[0.0, 0, 4, 4]])
    b = tf.constant([[0.0, 0, 4, 4], [2, 0, 4, 4], [2, 2, 6, 6], [0, 4, 4, 8], [1, 1, 1, 3]])
    np.testing.assert_allclose(boxes.pairwise_iou(a, b), [[1, 0.5, 1 / 7, 0, 0]])
    np.testing.assert_array_equal(boxes.box_areas(b), [16, 8, 16, 16, 0])
    empty = tf.constant([[3.0, 3, 3, 3]])
    np.testing.assert_array_equal(boxes.pairwise_iou(empty, empty), [[0]])


def test_intersection_over_union_of_batches_and_of_nothing():
    rng = np.random.default_rng(0)
    a, b = (box_oracle.random_boxes(rng, (2, n)) for n in (5, 7))
    found = boxes.pairwise_iou(tf.constant(a), tf.constant(b)).numpy()
    for i in np.ndindex(2, 5, 7):
        np.testing.assert_allclose(found[i], box_oracle.iou(a[i[0], i[1]], b[i[0], i[2]]))
    function = tf.function(
        boxes.pairwise_iou,
        input_signature=[tf.TensorSpec([None, 5, 4]), tf.TensorSpec([None, None, 4])],
    )
    assert function(a, b[:, :0]).shape == (2, 5, 0)


@pytest.mark.reference
@pytest.mark.parametrize("name, weights", [("rpn", RPN), ("roi", ROI)])
def test_deltas_equal_the_recorded_ones(golden, name, weights):
    case = {key: golden("box2box")[key] for key in golden("box2box").files}
    anchors, truth = (tf.constant(box_oracle.yxyx(case[key])) for key in ("src", "tgt"))

    def close(found, key):
        expected = box_oracle.yxyx(case[f"{key}_{name}"])
        np.testing.assert_allclose(found, expected.reshape(found.shape), rtol=1e-5, atol=1e-4)

    close(boxes.encode_boxes(truth, anchors, weights=weights), "get_deltas")
    deltas = tf.constant(box_oracle.yxyx(case["deltas"]))
    close(boxes.decode_boxes(deltas, anchors, weights=weights), "apply")
    of_categories = tf.reshape(box_oracle.yxyx(case["deltas3"]), [-1, 3, 4])
    close(boxes.decode_boxes(of_categories, anchors[:, tf.newaxis], weights=weights), "apply3")


def test_encoded_boxes_decode_to_themselves():
    rng = np.random.default_rng(1)
    truth, anchors = (tf.constant(box_oracle.random_boxes(rng, (2, 30))) for _ in range(2))
    deltas = boxes.encode_boxes(truth, anchors, weights=ROI)
    np.testing.assert_allclose(
        boxes.decode_boxes(deltas, anchors, weights=ROI), truth, rtol=1e-4, atol=1e-3
    )


def test_padded_boxes_give_finite_deltas():
    box, nothing = tf.constant([[0.0, 0, 4, 4]]), tf.zeros([1, 4])
    for pair in ((nothing, box), (box, nothing), (nothing, nothing)):
        assert np.isfinite(boxes.encode_boxes(*pair, weights=ROI)).all()


def test_extreme_deltas():
    # NaN stays (and is found), a huge scale is cut to 1000 / 16, an infinite shift is not finite.
    anchor = tf.constant([0.0, 0, 16, 16])
    deltas = tf.constant(
        [[0.0, 0, 99, np.inf], [0, 0, np.nan, 0], [np.nan, 0, 0, 0], [0, -np.inf, 0, 0], [0] * 4]
    )
    decoded = boxes.decode_boxes(deltas, anchor, weights=RPN)
    np.testing.assert_allclose(decoded[0], [-492, -492, 508, 508], rtol=1e-5)
    np.testing.assert_array_equal(boxes.finite_boxes(decoded), [1, 0, 0, 0, 1])
    np.testing.assert_array_equal(boxes.valid_boxes(decoded)[1:], [0, 0, 0, 1])


def test_clip_boxes_to_the_size_of_each_image():
    box = tf.constant([[[-5.0, 2, 30, 12]], [[-5, 2, 30, 12]]])
    sizes = tf.constant([[20.0, 10], [40, 50]])
    clipped = boxes.clip_boxes(box, sizes)
    np.testing.assert_array_equal(clipped, [[[0, 2, 20, 10]], [[0, 2, 30, 12]]])
    of_categories = boxes.clip_boxes(tf.tile(box[:, tf.newaxis], [1, 3, 2, 1]), sizes)
    assert of_categories.shape == (2, 3, 2, 4)
    np.testing.assert_array_equal(of_categories[:, 1, 1], clipped[:, 0])


def test_valid_boxes_have_height_and_width():
    box = tf.constant([[0.0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 1, 0], [2, 0, 1, 1]])
    np.testing.assert_array_equal(boxes.valid_boxes(box), [True, False, False, False])

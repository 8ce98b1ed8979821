import numpy as np
import pytest
import tensorflow as tf

from layers import box_oracle
from panoptic_tf.layers import matching
from panoptic_tf.ops import boxes

RPN = dict(thresholds=(0.3, 0.7), labels=(0, -1, 1), allow_low_quality_matches=True)
ROI = dict(thresholds=(0.5,), labels=(0, 1), allow_low_quality_matches=False)


@pytest.mark.reference
def test_matches_equal_the_recorded_ones(golden):
    case = golden("matcher")
    anchors, truth = (tf.constant(box_oracle.yxyx(case[k])) for k in ("anchors", "gt_boxes"))
    iou = boxes.pairwise_iou(anchors, truth)
    np.testing.assert_allclose(iou, case["iou"].T, atol=1e-6)
    for name, overlaps, settings in (
        ("rpn", iou, RPN),
        ("roi", iou, ROI),
        ("emptygt", iou[:, :0], RPN),
    ):
        index, label = matching.match(overlaps, **settings)
        np.testing.assert_array_equal(index, case[f"{name}_matches"])
        np.testing.assert_array_equal(label, case[f"{name}_labels"])
        assert (index.dtype, label.dtype) == (tf.int64, tf.float32)


def test_low_quality_matches_change_the_label_only():
    # Anchor 1 is the best of ground truth 1 (0.2), though it overlaps ground truth 0 more (0.4);
    # anchors 2 and 3 tie as the best of ground truth 2. Ground truth 3 meets no anchor.
    iou = tf.constant([[0.8, 0, 0, 0], [0.4, 0.2, 0, 0], [0, 0, 0.1, 0], [0, 0, 0.1, 0], [0] * 4])
    index, label = matching.match(iou, **RPN)
    np.testing.assert_array_equal(index, [0, 0, 2, 2, 0])
    np.testing.assert_array_equal(label, [1, 1, 1, 1, 0])
    _, label = matching.match(iou, **{**RPN, "allow_low_quality_matches": False})
    np.testing.assert_array_equal(label, [1, -1, 0, 0, 0])
    # A threshold belongs to the interval above it.
    _, label = matching.match(tf.constant([[0.5], [0.49]]), **ROI)
    np.testing.assert_array_equal(label, [1, 0])


@pytest.mark.parametrize("padding", [-1.0, 0.0])
def test_padded_ground_truth_changes_nothing(padding):
    rng = np.random.default_rng(0)
    iou = rng.random((2, 40, 5)).astype(np.float32) * (rng.random((2, 40, 5)) < 0.4)
    padded = np.pad(iou, [(0, 0), (0, 0), (0, 3)], constant_values=padding)
    for settings in (RPN, ROI):
        for a, b in zip(*(matching.match(tf.constant(x), **settings) for x in (iou, padded))):
            np.testing.assert_array_equal(a, b)
    index, label = matching.match(tf.fill([2, 40, 3], padding), **RPN)
    assert not index.numpy().any() and not label.numpy().any()


def test_no_ground_truth_in_a_graph():
    function = tf.function(
        lambda iou: matching.match(iou, **RPN), input_signature=[tf.TensorSpec([None, 6, None])]
    )
    index, label = function(tf.zeros([2, 6, 0]))
    np.testing.assert_array_equal(index, np.zeros([2, 6]))
    np.testing.assert_array_equal(label, np.zeros([2, 6]))
    some = tf.one_hot([[1, 0, 2, -1, 1, 0]], 3)
    np.testing.assert_array_equal(function(some)[0], [[1, 0, 2, 0, 1, 0]])
    np.testing.assert_array_equal(function(some)[1], [[1, 1, 1, 0, 1, 1]])


def sample_oracle(labels, priority, count, fraction):
    order = sorted(range(len(labels)), key=lambda i: (-priority[i], i))
    positive = [i for i in order if labels[i] == 1][: int(count * fraction)]
    negative = [i for i in order if labels[i] == 0][: count - len(positive)]
    return positive, negative


@pytest.mark.parametrize("positives, negatives", [(20, 60), (2, 60), (60, 3), (0, 4), (1, 0)])
def test_sample_against_loops(positives, negatives):
    rng = np.random.default_rng(positives)
    labels = np.full((3, 90), -1, np.int32)
    labels[:, :positives], labels[:, positives : positives + negatives] = 1, 0
    labels = rng.permuted(labels, axis=1)
    priority = rng.integers(0, 8, labels.shape).astype(np.float32) / 8  # with ties, and 0
    function = tf.function(
        lambda x, p: matching.sample(x, count=16, positive_fraction=0.25, priority=p),
        input_signature=[tf.TensorSpec([None, 90], tf.int32), tf.TensorSpec([None, 90])],
    )
    indices, is_positive, is_valid = (x.numpy() for x in function(labels, priority))
    assert indices.shape == is_positive.shape == is_valid.shape == (3, 16)
    for i in range(3):
        positive, negative = sample_oracle(labels[i], priority[i], 16, 0.25)
        drawn = len(positive) + len(negative)
        assert indices[i, :drawn].tolist() == positive + negative
        assert not indices[i, drawn:].any()
        np.testing.assert_array_equal(is_positive[i], np.arange(16) < len(positive))
        np.testing.assert_array_equal(is_valid[i], np.arange(16) < drawn)


def test_sample_more_than_there_are():
    labels = tf.constant([0, 1, -1, 1])
    indices, is_positive, is_valid = matching.sample(
        labels, count=10, positive_fraction=0.5, priority=tf.constant([0.0, 0.1, 0.9, 0.2])
    )
    np.testing.assert_array_equal(indices, [3, 1, 0] + [0] * 7)
    assert is_positive.numpy().sum() == 2 and is_valid.numpy().sum() == 3

import numpy as np
import pytest

from panoptic_tf.metrics import segments
from panoptic_tf.metrics.segmentation import SegmentationMetrics


def test_drawn():
    truth = np.array([[1, 1, 1, 1, 2, 2, 0, 0]])
    found = np.array([[1, 1, 0, 2, 2, 2, 3, 2]])
    # 1: 2 of 4. 2: 2 of 2 + 1. 3 was predicted on ground-truth void only: left out.
    metric = SegmentationMetrics(num_categories=4)
    metric.update(truth, found)
    result = metric.result()
    assert result["IoU"] == [pytest.approx(50), pytest.approx(200 / 3), None, None]
    assert result["mIoU"] == pytest.approx((50 + 200 / 3) / 2)
    assert result["fIoU"] == pytest.approx((50 * 4 + 200 / 3 * 2) / 6)


def test_predicted_but_never_annotated_counts_as_zero():
    metric = SegmentationMetrics(num_categories=2)
    metric.update(np.array([[1, 1]]), np.array([[1, 2]]))
    assert metric.result() == {"mIoU": 25, "fIoU": 50, "IoU": [50, 0]}


def test_equals_plain_loops():
    rng = np.random.default_rng(0)
    truth, found = rng.integers(0, 5, (2, 16, 17))
    metric = SegmentationMetrics(num_categories=4)
    metric.update(truth, found)
    ious = [
        np.sum((truth == c) & (found == c)) / np.sum((truth == c) | ((found == c) & (truth > 0)))
        for c in range(1, 5)
    ]
    np.testing.assert_allclose(metric.result()["IoU"], 100 * np.array(ious))
    shares = np.array([np.sum(truth == c) for c in range(1, 5)]) / np.sum(truth > 0)
    assert metric.result()["fIoU"] == pytest.approx(100 * shares @ ious)


def test_all_void_is_none():
    metric = SegmentationMetrics(num_categories=2)
    metric.update(np.zeros((2, 2), int), np.ones((2, 2), int))
    assert metric.result() == {"mIoU": None, "fIoU": None, "IoU": [None, None]}


def test_merge_and_overlaps_equal_pixels():
    rng = np.random.default_rng(1)
    truth, found = rng.integers(0, 5, (2, 3, 9, 8))
    whole, parts, by_segments = (SegmentationMetrics(num_categories=4) for _ in range(3))
    for t, f in zip(truth, found):
        whole.update(t, f)
        part = SegmentationMetrics(num_categories=4)
        part.update(t, f)
        parts.merge(part)
        by_segments.update_overlaps(
            segments.count_overlaps(segments.label_masks(t, t % 2), segments.label_masks(f, f % 3))
        )
    np.testing.assert_array_equal(whole.state(), parts.state())
    np.testing.assert_array_equal(whole.state(), by_segments.state())


def test_errors():
    metric = SegmentationMetrics(num_categories=2)
    with pytest.raises(ValueError, match=r"predicted categories must be 0\.\.2, got 3\.\.3"):
        metric.update(np.ones((2, 2), int), np.full((2, 2), 3))
    with pytest.raises(ValueError, match=r"ground truth's size \(2, 3\), got \(3, 2\)"):
        metric.update(np.ones((2, 3), int), np.ones((3, 2), int))
    with pytest.raises(ValueError, match="state must have shape"):
        metric.add_state(np.zeros((2, 2)))

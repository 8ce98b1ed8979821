"""What a model that only detects shows."""

import numpy as np

from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.serving.result import PanopticResult
from panoptic_tf.structures import Prediction


def test_the_best_detection_lies_on_top():
    # Two overlapping squares; the second is better. A third is too unsure to be shown.
    arrays = {
        Prediction.DETECTION_BOXES: np.float32([[0, 0, 4, 4], [2, 2, 6, 6], [0, 6, 2, 8], [0] * 4]),
        Prediction.DETECTION_CATEGORIES: np.int32([1, 2, 3, 0]),
        Prediction.DETECTION_SCORES: np.float32([0.6, 0.9, 0.4, 0.0]),
        Prediction.DETECTION_MASKS: np.ones([4, 2, 2], np.float32),
        Prediction.NUM_DETECTIONS: np.int32(3),
        Prediction.IMAGE_SIZE: np.int32([8, 8]),
    }
    result = PanopticResult(np.zeros([8, 8, 3], np.uint8), arrays, DatasetInfo.load("shapes"))
    expected = np.zeros([8, 8], np.int32)
    expected[0:4, 0:4] = 1
    expected[2:6, 2:6] = 2
    np.testing.assert_array_equal(result.category_mask, expected)
    assert [(s.category_id, s.area) for s in result.segments] == [(1, 12), (2, 16)]
    np.testing.assert_allclose([s.score for s in result.segments], [0.6, 0.9], rtol=1e-6)
    assert result.plot().shape == (8, 8, 3)

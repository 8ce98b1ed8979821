import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.layers import matching
from panoptic_tf.ops import boxes
from panoptic_tf.systems.panoptic_fpn.targets import PanopticFPNTargetGenerator


@pytest.mark.parametrize("count", [0, 1, 7])
@pytest.mark.parametrize("seed", range(3))
def test_labels_of_anchors_are_those_of_the_matcher(count, seed):
    rng = np.random.default_rng(seed)

    def draw(number):
        corners = rng.integers(0, 40, (number, 2))
        sizes = rng.integers(1, 30, (number, 2))
        return np.concatenate([corners, corners + sizes], axis=1).astype(np.float32)

    anchors, truth = draw(200), draw(count)
    generator = PanopticFPNTargetGenerator(
        thing_ids=(1,), channel_of_category=(), anchors={"2": anchors}
    )
    _, expected = matching.match(
        boxes.pairwise_iou(anchors, truth),
        thresholds=[0.3, 0.7],
        labels=[0, -1, 1],
        allow_low_quality_matches=True,
    )
    found = generator._label_anchors(boxes.pairwise_iou(tf.constant(truth), anchors))
    np.testing.assert_array_equal(found, expected)

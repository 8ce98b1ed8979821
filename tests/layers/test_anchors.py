import numpy as np
import pytest

from layers import box_oracle
from panoptic_tf.layers import anchors


@pytest.mark.reference
def test_anchors_equal_the_recorded_ones(golden):
    case = golden("anchors")
    found = anchors.generate_anchors((128, 160))
    assert list(found) == ["2", "3", "4", "5", "6"]
    for level, boxes in found.items():
        expected = box_oracle.yxyx(case[f"anchors_p{level}"])
        np.testing.assert_allclose(boxes, expected, atol=1e-4)
        assert boxes.dtype == np.float32


def test_order_and_offset():
    # Level 3 of 9x20 pixels: 2x3 cells of 8 pixels, anchors of area 16^2. y, then x, then ratio.
    settings = dict(min_level=3, max_level=3, scale=2.0, aspect_ratios=(1.0, 4.0), offset=0.5)
    found = anchors.generate_anchors((9, 20), **settings)["3"]
    assert found.shape == (2 * 3 * 2, 4)
    np.testing.assert_allclose(found[0], [-4, -4, 12, 12])
    np.testing.assert_allclose(found[1], [-12, 0, 20, 8])
    np.testing.assert_allclose(found[2], [-4, 4, 12, 20])
    np.testing.assert_allclose(found[6], [4, -4, 20, 12])


def test_number_of_anchors():
    found = anchors.generate_anchors((512, 512))
    assert [len(found[k]) for k in "23456"] == [49152, 12288, 3072, 768, 192]

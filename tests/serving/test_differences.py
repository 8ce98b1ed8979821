"""In what predictions differ: words, tolerances, and detections in whatever order."""

import numpy as np
import pytest

from panoptic_tf.serving.differences import differences

COUNT = 40


def table():
    return {
        "category_mask": np.zeros([1, 100, 100], np.int32),
        "segment_area": np.array([[9000, 1000]], np.int32),
        "segment_score": np.array([[1.0, 0.5]], np.float32),
        "num_segments": np.array([2], np.int32),
    }


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("segment_area", np.int32([[8992, 1008]]), None),
        ("segment_score", np.float32([[0.9995, 0.5]]), None),
        ("num_segments", np.int32([1]), "num_segments is [1], not [2]"),
        ("segment_area", np.int32([[1, 1]]), "segment_area differs by 8999 pixels"),
        ("segment_score", np.float32([[1.0, 0.6]]), "segment_score differs by 0.1"),
        ("segment_score", np.float32([[1.0, np.nan]]), "segment_score differs by nan"),
        ("num_segments", np.int64([2]), "num_segments is int64 (1,), not int32 (1,)"),
        (
            "category_mask",
            np.eye(100, dtype=np.int32)[np.newaxis],
            "category_mask differs in 1.00% of the pixels",
        ),
    ],
)
def test_of_masks_and_segments(key, value, words):
    assert list(differences(table(), table())) == []
    assert list(differences({**table(), key: value}, table())) == ([words] if words else [])


def test_of_outputs():
    (problem,) = differences({}, table())
    assert problem.startswith("the outputs are [] instead of")


def detections(kind):
    """Two images: one of 40 detections of 64 rows, and one without any."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 20, [2, 64, 2])
    found = {
        "detection_boxes": np.concatenate([corner, corner + 10], axis=-1).astype(np.float32),
        "detection_categories": rng.integers(1, 4, [2, 64]).astype(np.int32),
        "detection_scores": -np.sort(-rng.uniform(size=[2, 64])).astype(np.float32),
        "num_detections": np.array([COUNT, 0], np.int32),
    }
    if kind == "masks":
        found["detection_masks"] = rng.uniform(size=[2, 64, 7, 7]).astype(np.float32)
    else:
        bits = rng.integers(-(2**31), 2**31, [2, 32, 32, 2])
        found["detection_bit_masks"] = bits.astype(np.int32)
    return found


def swap(prediction, a, b):
    """Two rows of every table of the first image."""
    swapped = {}
    for key, value in prediction.items():
        swapped[key] = value.copy()
        if key in ("detection_bit_masks", "num_detections"):
            continue
        swapped[key][0, [a, b]] = value[0, [b, a]]
    return swapped


@pytest.fixture(params=["masks", "bits"])
def expected(request):
    return detections(request.param)


def test_detections_that_are_equal(expected):
    assert list(differences(expected, expected)) == []
    # Rows past the last do not count.
    other = {**expected, "detection_scores": expected["detection_scores"].copy()}
    other["detection_scores"][:, COUNT:] = np.nan
    assert list(differences(other, expected)) == []


def test_equal_scores_in_another_order():
    expected = detections("masks")
    expected["detection_scores"][0, 3:5] = 0.7
    assert list(differences(swap(expected, 3, 4), expected)) == []


def test_no_detection_is_the_partner_of_two():
    expected = detections("masks")
    found = {key: value.copy() for key, value in expected.items()}
    for key in set(found) - {"num_detections"}:
        found[key][0, :COUNT] = found[key][0, 0]
    assert list(differences(found, expected)) == ["39 of 40 detections of image 0 are not the same"]


@pytest.mark.parametrize(
    "key, change",
    [
        ("detection_boxes", 0.6),
        ("detection_categories", 1),
        ("detection_scores", 0.002),
        ("detection_scores", np.nan),
        ("detection_masks", 0.01),
        ("detection_bit_masks", 1),
    ],
)
def test_detections_that_differ(key, change):
    """In two of forty something may, in three not; bit 0 is of one detection on all pixels."""
    expected = detections("bits" if key == "detection_bit_masks" else "masks")
    for count in (2, 3):
        found = {**expected, key: expected[key].copy()}
        if key == "detection_bit_masks":
            found[key][0, ..., 0] ^= (1 << count) - 1
        else:
            found[key][0, :count] += np.asarray(change, found[key].dtype)
        words = [f"{count} of {COUNT} detections of image 0 are not the same"]
        assert list(differences(found, expected)) == (words if count > 2 else [])


def test_detections_of_one_alone(expected):
    found = {**expected, "num_detections": np.array([COUNT, 1], np.int32)}
    assert list(differences(found, expected)) == ["1 of 1 detections of image 1 are not the same"]
    found = {**expected, "num_detections": np.array([COUNT - 3, 0], np.int32)}
    words = [f"3 of {COUNT} detections of image 0 are not the same"]
    assert list(differences(found, expected)) == words
    assert list(differences(expected, found)) == words


def test_a_mask_that_is_small_in_its_image():
    expected = {
        "detection_boxes": np.float32([[[8, 8, 24, 24]]]),
        "detection_categories": np.int32([[1]]),
        "detection_scores": np.float32([[0.9]]),
        "num_detections": np.int32([1]),
        "detection_bit_masks": np.zeros([1, 640, 640, 1], np.int32),
    }
    expected["detection_bit_masks"][:, 8:24, 8:24] = 1
    found = {**expected, "detection_bit_masks": expected["detection_bit_masks"].copy()}
    found["detection_bit_masks"][:, 8, 8:12] = 0  # rounding: IoU 0.98
    assert list(differences(found, expected)) == []
    found["detection_bit_masks"][:] = 0
    (problem,) = differences(found, expected)
    assert "1 of 1 detections of image 0 are not the same" in problem

"""What a response may hold, and how much."""

import time

import numpy as np
import pytest

from panoptic_tf.serving.client import messages, responses

SIZE = (4, 6)


def outputs(**changed):
    """Of a red thing on green, and of three detections, masks in both forms."""
    category = np.full([1, *SIZE], 2, np.int32)
    category[0, :, :2] = 1
    every = {
        "valid": np.array([True]),
        "category_mask": category,
        "instance_mask": (category == 1).astype(np.int32),
        "image_size": np.array([SIZE], np.int32),
        "num_segments": np.array([2], np.int32),
        "segment_category": np.array([[1, 2]], np.int32),
        "segment_instance": np.array([[1, 0]], np.int32),
        "segment_score": np.array([[0.5, 1.00001]], np.float32),  # as a softmax may round
        "num_detections": np.array([3], np.int32),
        "detection_categories": np.array([[1, 3, 1]], np.int32),
        "detection_scores": np.array([[0.9, 0.8, 0.7]], np.float32),
        "detection_boxes": np.tile(np.array([0, 0, 4, 6], np.float32), [1, 3, 1]),
        "detection_masks": np.ones([1, 3, 2, 2], np.float32),
        "detection_bit_masks": np.full([1, *SIZE, 1], -1, np.int32),
    }
    return {**every, **changed}


def read(response):
    return responses.read_prediction(response, SIZE, num_categories=3)


def test_what_is_right_is_read():
    found = read(outputs())
    for key, value in outputs().items():
        if key != "valid":
            np.testing.assert_array_equal(found[key], value[0])
    as_json = {key: np.asarray(value.tolist()) for key, value in outputs().items()}
    assert {key: value.dtype for key, value in read(as_json).items()} == {
        key: value.dtype for key, value in found.items()
    }


def scores(*values):
    return np.array([values])


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("segment_category", np.array([[2**32 + 1, 2]]), "values that int32 does not"),
        ("instance_mask", np.full([1, *SIZE], 2**40), "values that int32 does not"),
        ("num_segments", np.array([2**32 + 2]), "values that int32 does not"),
        ("segment_score", scores(0.5, 1e300), "not finite"),
        ("segment_score", scores(0.5, -np.inf), "not finite"),
        ("detection_boxes", np.full([1, 3, 4], 1e39), "not finite"),
        ("segment_score", scores(0.5, 1.01), "must lie in 0..1"),
        ("segment_score", scores(0.5, -0.01), "must lie in 0..1"),
        ("detection_scores", scores(1.5, 0.8, 0.7), "must lie in 0..1"),
        ("detection_masks", np.full([1, 3, 2, 2], 2.0), "must lie in 0..1"),
        ("detection_masks", np.ones([1, 2, 2, 2]), r"as many rows as the table, got \[2, 2, 2\]"),
        ("detection_masks", np.ones([1, 4, 2, 2]), r"as many rows as the table, got \[4, 2, 2\]"),
        ("detection_boxes", np.ones([1, 3, 1]), r"must be \[K, 4\]"),
        ("detection_boxes", np.ones([1, 2, 4]), "num_detections is 3"),
        ("detection_bit_masks", np.zeros([1, *SIZE, 0], np.int32), "bits for 0 detections"),
    ],
)
def test_values_out_of_range(key, value, message):
    with pytest.raises(ValueError, match=message):
        read(outputs(**{key: value}))


# The wire


def response(*tensors):
    """(key, shape, int_val) of each tensor."""
    message = messages.message("PredictResponse")()
    for key, shape, values in tensors:
        tensor = message.outputs.add(key=key).value
        tensor.dtype = 3
        for size in shape:
            tensor.tensor_shape.dim.add(size=size)
        tensor.int_val.extend(values)
    return message.SerializeToString()


def test_one_value_cannot_stand_for_many_millions():
    content = response(("x", [2**26 + 1], [1]))
    assert len(content) < 50
    with pytest.raises(ValueError, match="'x' of shape .* have more than 67,108,864 values"):
        messages.decode_response(content, ["x"])


def test_all_values_of_a_response_are_bounded_together(monkeypatch):
    monkeypatch.setattr(messages, "_MOST_VALUES", 100)
    tensors = [(key, [6, 10], [1]) for key in "xyz"]
    assert messages.decode_response(response(tensors[0]), "xyz")["x"].shape == (6, 10)
    with pytest.raises(ValueError, match="up to 'y' .* more than 100 values"):
        messages.decode_response(response(*tensors), "xyz")
    assert set(messages.decode_response(response(*tensors), ["z"])) == {"z"}


@pytest.mark.parametrize("shape", [[2**62] * 100_000, [1] * 9, [-1], [-(2**40), -1]])
def test_shapes_that_no_output_has(shape):
    content = response(("x", shape, [1]))
    start = time.process_time()
    with pytest.raises(ValueError, match="'x' has a shape that starts with"):
        messages.decode_response(content, ["x"])
    assert time.process_time() - start < 1.0  # The product has millions of digits.

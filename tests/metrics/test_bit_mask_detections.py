"""Detections whose masks are bits of integers: what counts, sizes, AP as with masks in boxes."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.metrics import detections
from panoptic_tf.metrics.evaluator import METRIC_NAMES, PanopticEvaluator
from panoptic_tf.ops import bit_masks
from panoptic_tf.serving.result import PanopticResult
from panoptic_tf.structures import Prediction

AP_NAMES = METRIC_NAMES[METRIC_NAMES.index("AP") :]


def decode(rles):
    return [coco_mask.decode(rle) for rle in rles]


def pack(masks, num_planes):
    """Bit by bit, with Python's integers: int32 [H, W, P]."""
    _, height, width = masks.shape
    planes = np.zeros((height, width, num_planes), np.int32)
    for i, y, x in zip(*np.nonzero(masks)):
        bit = i % 32
        # The highest bit of a plane is its sign.
        planes[y, x, i // 32] += -(2**31) if bit == 31 else 2**bit
    return planes


def tight_boxes(masks):
    boxes = np.zeros((len(masks), 4), np.float32)
    for box, mask in zip(boxes, masks):
        ys, xs = np.nonzero(mask)
        if len(ys):
            box[:] = ys.min(), xs.min(), ys.max() + 1, xs.max() + 1
    return boxes


def prediction(masks, *, scores=None, categories=None, frame=None, padding=3):
    """Detections of one image, in a frame that is larger, with rows past the last."""
    count, height, width = masks.shape
    frame = frame or (height + 5, width + 2)
    scores = np.linspace(0.9, 0.5, count) if scores is None else scores
    categories = np.ones(count) if categories is None else categories
    planes = pack(masks, max(-(-(count + padding) // 32), 1))
    planes = np.pad(planes, [(0, frame[0] - height), (0, frame[1] - width), (0, 0)])
    rows = {
        Prediction.DETECTION_BOXES: tight_boxes(masks),
        Prediction.DETECTION_SCORES: np.asarray(scores, np.float32),
        Prediction.DETECTION_CATEGORIES: np.asarray(categories, np.int32),
    }
    return {
        **{k: np.pad(v, [(0, padding)] + [(0, 0)] * (v.ndim - 1)) for k, v in rows.items()},
        Prediction.DETECTION_BIT_MASKS: planes,
        Prediction.NUM_DETECTIONS: np.int32(count),
        Prediction.IMAGE_SIZE: np.asarray([height, width], np.int32),
    }


def random_masks(rng, count, size):
    """Overlapping rectangles with holes."""
    masks = np.zeros((count, *size), np.uint8)
    for mask in masks:
        top, left = rng.integers(0, size[0] - 4), rng.integers(0, size[1] - 4)
        mask[top : top + rng.integers(3, 12), left : left + rng.integers(3, 12)] = 1
    return masks * (rng.random(masks.shape) > 0.1)


def test_every_bit_of_every_plane_comes_back():
    masks = random_masks(np.random.default_rng(0), 67, (13, 17))
    masks[31, 4, 4] = masks[63, 12, 16] = masks[66, 0, 0] = 1
    planes = pack(masks, 3)
    np.testing.assert_array_equal(
        planes, bit_masks.pack_masks(masks.astype(np.uint8), num_planes=3)
    )
    rles = detections.encode_bit_masks(planes, range(67), (13, 17), (13, 17))
    np.testing.assert_array_equal(decode(rles), masks)
    rles = detections.encode_bit_masks(planes, [63, 31, 5], (13, 17), (13, 17))
    np.testing.assert_array_equal(decode(rles), masks[[63, 31, 5]])
    assert detections.encode_bit_masks(planes, [], (13, 17), (13, 17)) == []


def test_an_empty_mask_and_a_full_one():
    masks = np.stack([np.zeros((3, 4)), np.ones((3, 4))])
    rles = detections.encode_bit_masks(pack(masks, 1), [0, 1], (3, 4), (3, 4))
    np.testing.assert_array_equal(decode(rles), masks)


def test_masks_come_to_the_image_from_their_frame():
    # The image of 40 x 12 fills 20 x 24 of a frame of 25 x 26: rows double, columns halve.
    masks = np.zeros((1, 20, 24), np.uint8)
    masks[0, 5:10, 6:12] = 1
    given = prediction(masks)
    given[Prediction.DETECTION_BIT_MASKS][20:] = given[Prediction.DETECTION_BIT_MASKS][:, 24:] = 1
    found = detections.detected_instances(given, (40, 12))
    np.testing.assert_array_equal(found.boxes, [[10, 3, 20, 6]])
    (mask,) = decode(found.rles)
    assert mask.shape == (40, 12) and mask.sum() == mask[10:20, 3:6].sum() == 30


def test_low_scores_and_empty_masks_do_not_count():
    rng = np.random.default_rng(1)
    masks = random_masks(rng, 40, (20, 24))
    masks[7] = 0
    scores = np.full(40, 0.01)
    scores[[7, 31, 36]] = 0.9, 0.5, 0.7
    found = detections.detected_instances(
        prediction(masks, scores=scores, categories=np.arange(1, 41)), (20, 24)
    )
    assert found.categories.tolist() == [37, 32]
    np.testing.assert_allclose(found.scores, [0.7, 0.5])
    np.testing.assert_array_equal(decode(found.rles), masks[[36, 31]])
    none = detections.detected_instances(prediction(masks[:0]), (20, 24))
    assert (none.rles, len(none.categories), none.boxes.shape) == ([], 0, (0, 4))


def test_planes_that_cannot_be():
    planes = np.zeros((4, 5, 2), np.int32)
    with pytest.raises(ValueError, match="must be int32.*got float32"):
        detections.encode_bit_masks(planes.astype(np.float32), [0], (4, 5), (4, 5))
    with pytest.raises(ValueError, match="detection 64 has no bit in the 2 planes"):
        detections.encode_bit_masks(planes, [64], (4, 5), (4, 5))
    with pytest.raises(ValueError, match="valid size must be within"):
        detections.encode_bit_masks(planes, [0], (5, 5), (4, 5))


# Average precision


def evaluator():
    names = ["void", "a", "b", "c"]
    return PanopticEvaluator(num_categories=3, thing_ids=(1, 2), category_names=names)


def ground_truth(size=(20, 24)):
    category, instance = np.full(size, 3, np.int32), np.zeros(size, np.int32)
    category[2:8, 3:9], instance[2:8, 3:9] = 1, 1
    category[10:18, 10:20], instance[10:18, 10:20] = 2, 2
    return {"category_mask": category, "instance_mask": instance, "image_id": b"5"}


def found_masks(size=(20, 24)):
    """The two instances, the second without its last rows: IoU 0.75; and the first once more."""
    masks = np.zeros((3, *size), np.uint8)
    masks[0, 2:8, 3:9] = masks[1, 10:16, 10:20] = masks[2, 2:8, 3:10] = 1
    return masks


def test_average_precision_of_masks_and_of_boxes():
    metric = evaluator()
    metric.update(ground_truth(), prediction(found_masks(), categories=[1, 2, 1]))
    result = metric.result()
    # Category 1 is found by its best detection; IoU of category 2 is 0.75, 6 of 10 thresholds.
    expected = {"AP": 80, "AP50": 100, "AP75": 100, "AP_box": 80, "AP50_box": 100, "AP75_box": 100}
    assert {name: result[name] for name in AP_NAMES} == pytest.approx(expected)
    assert [row["AP"] for row in result["per_category"]] == pytest.approx([100, 60, None])
    assert all(result[name] is None for name in METRIC_NAMES if name not in AP_NAMES)


def test_average_precision_equals_that_of_masks_in_boxes():
    # Rectangles, whose masks in boxes are all ones; smaller than 28 pixels, so that the corners
    # see only ones.
    rng = np.random.default_rng(3)
    in_bits, in_boxes = evaluator(), evaluator()
    for _ in range(4):
        masks = np.zeros((40, 20, 24), np.uint8)
        near = np.array([[2, 3, 8, 9], [10, 10, 18, 20]])[rng.integers(0, 2, 40)]
        near = np.clip(near + rng.integers(-2, 3, (40, 4)), 0, [20, 24, 20, 24])
        for mask, (top, left, bottom, right) in zip(masks, near):
            mask[top:bottom, left:right] = 1
        given = prediction(masks, scores=rng.uniform(0.1, 1, 40), categories=rng.integers(1, 3, 40))
        in_bits.update(ground_truth(), given)
        del given[Prediction.DETECTION_BIT_MASKS]
        given[Prediction.DETECTION_MASKS] = np.ones((43, 28, 28), np.float32)
        in_boxes.update(ground_truth(), given)
    assert in_bits.result() == in_boxes.result()
    assert 10 < in_bits.result()["AP"] < 90


def test_detections_in_bits_go_before_segments():
    masks = ground_truth()
    segments = {
        **masks,
        "segment_category": np.array([1, 2, 3]),
        "segment_instance": np.array([1, 2, 0]),
        "segment_score": np.array([0.9, 0.9, 0.9]),
    }
    metric = evaluator()
    given = prediction(found_masks()[:2], categories=[1, 1], frame=(20, 24))
    metric.update(masks, {**segments, **given})
    result = metric.result()
    assert result["PQ"] == result["mIoU"] == 100
    assert result["AP"] == pytest.approx(50)
    assert result["AP_box"] == pytest.approx(50)


def test_what_a_model_of_things_alone_shows():
    masks = np.zeros((3, 8, 8), np.uint8)
    masks[0, 2:6, 2:6] = masks[1, 0:4, 0:4] = masks[2, 6:, 6:] = 1
    given = prediction(masks, scores=[0.9, 0.6, 0.4], categories=[2, 1, 3], frame=(8, 8))
    result = PanopticResult(np.zeros([8, 8, 3], np.uint8), given, DatasetInfo.load("shapes"))
    expected = np.zeros([8, 8], np.int32)
    expected[0:4, 0:4] = 1
    expected[2:6, 2:6] = 2
    np.testing.assert_array_equal(result.category_mask, expected)
    assert [(s.category_id, s.area) for s in result.segments] == [(1, 12), (2, 16)]

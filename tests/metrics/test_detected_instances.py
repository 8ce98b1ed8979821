"""Detections in the image's frame: pasting, what counts, and AP as pycocotools computes it."""

import contextlib
import io
import json

import numpy as np
import pytest
from coco_masks import encode_masks
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from panoptic_tf.metrics import detections
from panoptic_tf.metrics.evaluator import METRIC_NAMES, PanopticEvaluator

AP_NAMES = METRIC_NAMES[METRIC_NAMES.index("AP") :]


def decode(rles):
    return [coco_mask.decode(rle) for rle in rles]


def prediction(boxes, masks=None, *, scores=None, categories=None, image_size=(20, 24), padding=3):
    """Detections of one image, with rows past the last as a network fills them."""
    count = len(boxes)
    masks = np.ones([count, 4, 4]) if masks is None else masks
    scores = np.linspace(0.9, 0.5, count) if scores is None else scores
    categories = np.ones(count) if categories is None else categories
    rows = {
        "detection_boxes": np.asarray(boxes, np.float32).reshape(-1, 4),
        "detection_masks": np.asarray(masks, np.float32),
        "detection_scores": np.asarray(scores, np.float32),
        "detection_categories": np.asarray(categories, np.int32),
    }
    return {
        **{k: np.pad(v, [(0, padding)] + [(0, 0)] * (v.ndim - 1)) for k, v in rows.items()},
        "num_detections": np.int32(count),
        "image_size": np.asarray(image_size, np.int32),
    }


# Pasting


@pytest.mark.reference
def test_pasting_equals_the_reference(golden):
    case = golden("paste_masks")
    rles = detections.paste_masks(case["masks"], case["boxes"][:, [1, 0, 3, 2]], case["image_hw"])
    np.testing.assert_array_equal(decode(rles), case["pasted"])


def paste_by_loops(mask, box, size):
    """Bilinear samples at pixel centers, zero outside of the mask, pixel by pixel, tap by tap."""
    pasted = np.zeros(size)
    side = len(mask)
    for y, x in np.ndindex(*size):
        v = (y + 0.5 - box[0]) / (box[2] - box[0]) * side - 0.5
        u = (x + 0.5 - box[1]) / (box[3] - box[1]) * side - 0.5
        for i in (int(np.floor(v)), int(np.floor(v)) + 1):
            for j in (int(np.floor(u)), int(np.floor(u)) + 1):
                if 0 <= i < side and 0 <= j < side:
                    pasted[y, x] += (1 - abs(v - i)) * (1 - abs(u - j)) * mask[i, j]
    return pasted


@pytest.mark.parametrize("seed", range(4))
def test_pasting_equals_loops(seed):
    rng = np.random.default_rng(seed)
    size = (13, 17)
    corner = rng.uniform(-6, 12, (6, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.2, 14, (6, 2))], axis=1)
    masks = rng.random((6, 5, 5)).astype(np.float32)
    for mask, box, found in zip(masks, boxes, decode(detections.paste_masks(masks, boxes, size))):
        soft = paste_by_loops(mask, box, size)
        assert (found == (soft >= 0.5))[np.abs(soft - 0.5) > 1e-5].all()


def test_a_box_on_pixel_borders_and_one_on_pixel_centers():
    # A pixel whose center is on the edge of the box sees half of the mask's last sample.
    boxes = np.array([[1.0, 2, 3, 5], [1.5, 2.5, 3.5, 4.5], [-9, -9, -1, -1], [0, 0, 6, 7]])
    pasted = decode(detections.paste_masks(np.ones((4, 4, 4), np.float32), boxes, (6, 7)))
    expected = np.zeros((4, 6, 7))
    expected[0, 1:3, 2:5] = 1
    expected[1, 1:4, 2:5] = 1
    expected[1, [1, 1, 3, 3], [2, 4, 2, 4]] = 0  # at a corner it is a quarter
    expected[3] = 1
    np.testing.assert_array_equal(pasted, expected)


# What counts


def test_boxes_come_to_the_image_from_the_frame_of_the_masks():
    # The image of 40 x 12 fills 20 x 24 of the frame.
    found = detections.detected_instances(prediction([[5, 6, 10, 12]]), (40, 12))
    np.testing.assert_array_equal(found.boxes, [[10, 3, 20, 6]])
    (mask,) = decode(found.rles)
    assert mask.shape == (40, 12) and mask.sum() == mask[10:20, 3:6].sum() == 30


def test_low_scores_empty_boxes_and_padding_do_not_count():
    nan = float("nan")
    boxes = [[0, 0, 5, 5], [1, 1, 1, 9], [2, 2, 9, 9], [5, 5, 4, 9], [0, 0, nan, 9], [3, 3, 6, 6]]
    scores = [0.4, 0.9, 0.05, 0.9, 0.9, 0.6]
    given = prediction(boxes, scores=scores, categories=[1, 2, 3, 4, 5, 6])
    found = detections.detected_instances(given, (20, 24))
    assert found.categories.tolist() == [6, 1]
    np.testing.assert_allclose(found.scores, [0.6, 0.4], rtol=1e-6)
    none = detections.detected_instances(prediction([]), (20, 24))
    assert (none.rles, len(none.categories), none.boxes.shape) == ([], 0, (0, 4))
    del given["image_size"]
    with pytest.raises(ValueError, match="detections need image_size"):
        detections.detected_instances(given, (20, 24))


def test_the_best_hundred_count():
    scores = np.random.default_rng(0).permutation(np.linspace(0.1, 1, 130))
    found = detections.detected_instances(
        prediction(np.tile([[0, 0, 5, 5]], [130, 1]), scores=scores), (20, 24)
    )
    np.testing.assert_allclose(found.scores, np.sort(scores)[:-101:-1], rtol=1e-6)


# Average precision


def evaluator(num_categories=3, thing_ids=(1, 2)):
    names = ["void", *"abcdefgh"[:num_categories]]
    return PanopticEvaluator(
        num_categories=num_categories, thing_ids=thing_ids, category_names=names
    )


def disk_masks(rng, count, size=14):
    axis = np.linspace(-1, 1, size)
    distance = np.hypot(*np.meshgrid(axis, axis))
    noise = rng.normal(0, 0.05, (count, size, size))
    return np.clip(1 / (1 + np.exp(8 * (distance - 0.9))) + noise, 0, 1)


def draw_image(rng, size):
    """Overlapping ground truth with crowds, and detections near it, some false, some double."""
    height, width = size
    count = rng.integers(0, 7)
    corner = rng.uniform(0, 0.6, (count, 2)) * size
    boxes = np.concatenate([corner, corner + rng.uniform(0.1, 0.4, (count, 2)) * size], axis=1)
    masks = np.array(
        decode(detections.paste_masks(np.ones((count, 2, 2), np.float32), boxes, size))
    ).reshape(count, height, width)
    truth = (masks, rng.integers(1, 4, count), rng.random(count) < 0.25)
    around = np.repeat(boxes, 2, axis=0) + rng.normal(0, 0.03 * height, (2 * count, 4))
    noise = rng.uniform(0, 0.5, (3, 2)) * size
    found_boxes = np.concatenate([around, np.concatenate([noise, noise + 9.0], axis=1)])
    categories = np.concatenate([np.repeat(truth[1], 2), rng.integers(1, 4, 3)])
    scores = rng.uniform(0.06, 1, len(found_boxes))
    return truth, (found_boxes, disk_masks(rng, len(found_boxes)), scores, categories)


def score_with_pycocotools(images, sizes, kind):
    """COCOeval, from files' contents as its users have them; things are 1 and 2."""
    annotations, results = [], []
    for image_id, ((masks, categories, crowds), found) in enumerate(images):
        for mask, category, crowd in zip(masks, categories, crowds):
            rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(category),
                    "iscrowd": int(crowd),
                    "segmentation": rle,
                    "area": int(mask.sum()),
                    "bbox": coco_mask.toBbox(rle).tolist(),
                }
            )
        for box, mask, score, category in zip(*found):
            top, left, bottom, right = (float(v) for v in box)
            pasted = paste_by_loops(mask, box, sizes[image_id]) >= 0.5
            results.append(
                {
                    "image_id": image_id,
                    "category_id": int(category),
                    "score": float(score),
                    "segmentation": coco_mask.encode(np.asfortranarray(pasted.astype(np.uint8))),
                    "bbox": [left, top, right - left, bottom - top],
                }
            )
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": i, "height": h, "width": w} for i, (h, w) in enumerate(sizes)],
        "categories": [{"id": 1}, {"id": 2}],
        "annotations": [a for a in annotations if a["category_id"] < 3],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        if kind == "bbox":
            results = [{k: v for k, v in r.items() if k != "segmentation"} for r in results]
        else:
            results = [{k: v for k, v in r.items() if k != "bbox"} for r in results]
        found = truth.loadRes([r for r in results if r["category_id"] < 3])
        evaluation = COCOeval(truth, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [100 * value for value in evaluation.stats[:3]]


def test_average_precision_equals_pycocotools():
    rng = np.random.default_rng(0)
    sizes = [(30, 40), (41, 33), (20, 20), (36, 50)] * 2
    images = [draw_image(rng, size) for size in sizes]
    # The frame of the prediction is half of the image, a quarter of it, or the image itself.
    scales = [(2, 2), (1, 1), (4, 4), (2, 1)] * 2
    metric = evaluator()
    for i, (size, scale) in enumerate(zip(sizes, scales)):
        (masks, categories, crowds), (boxes, found_masks, scores, found_categories) = images[i]
        order = np.argsort(-scores)
        given = prediction(
            boxes[order] / np.tile(scale, 2),
            found_masks[order],
            scores=scores[order],
            categories=found_categories[order],
            image_size=np.array(size) // scale,
        )
        counts = [rle["counts"] for rle in encode_masks(masks)]
        truth = {
            "category_mask": np.zeros(size, np.int32),
            "instance_mask": np.zeros(size, np.int32),
            "image_size": np.array(size),
            "instance_rles": np.array(counts + [b""], object),
            "instance_categories": np.append(categories, 0),
            "instance_is_crowd": np.append(crowds, False),
            "num_instances": np.int32(len(masks)),
        }
        metric.update(truth, given)
    result = metric.result()
    expected = [
        value for kind in ("segm", "bbox") for value in score_with_pycocotools(images, sizes, kind)
    ]
    assert [result[name] for name in AP_NAMES] == pytest.approx(expected, abs=1e-6)
    assert all(10 < value < 99 for value in expected), expected
    assert len(set(expected)) == 6


def masks_of_image(size=(20, 24)):
    category, instance = np.full(size, 3, np.int32), np.zeros(size, np.int32)
    category[2:8, 3:9], instance[2:8, 3:9] = 1, 1
    category[10:18, 10:20], instance[10:18, 10:20] = 2, 2
    return {"category_mask": category, "instance_mask": instance, "image_id": b"5"}


BOXES = [[2, 3, 8, 9], [10, 10, 18, 20]]


def test_a_prediction_of_instances_alone():
    metric = evaluator()
    metric.update(masks_of_image(), prediction(BOXES, categories=[1, 2]))
    result = metric.result()
    known = {name for name in METRIC_NAMES if result[name] is not None}
    assert known == set(AP_NAMES)
    assert [result[name] for name in AP_NAMES] == pytest.approx([100] * 6)
    assert [row["AP"] for row in result["per_category"]] == [pytest.approx(100)] * 2 + [None]
    assert metric.image_scores() == [("5", None)]
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_detections_go_before_segments():
    # The segments are perfect; of the two detections one is of the wrong category.
    masks = masks_of_image()
    segments = {
        **masks,
        "segment_category": np.array([1, 2, 3]),
        "segment_instance": np.array([1, 2, 0]),
        "segment_score": np.array([0.9, 0.9, 0.9]),
        "image_size": np.array([20, 24]),
    }
    metric = evaluator()
    metric.update(masks, {**segments, **prediction(BOXES, categories=[1, 1])})
    result = metric.result()
    assert result["PQ"] == result["mIoU"] == 100
    assert [result[name] for name in AP_NAMES] == pytest.approx([50] * 6)


def test_an_image_with_nothing_detected_and_merging():
    whole, one, other = evaluator(), evaluator(), evaluator()
    for part, given in ((one, prediction(BOXES, categories=[1, 2])), (other, prediction([]))):
        for metric in (whole, part):
            metric.update(masks_of_image(), given)
    one.merge(other)
    assert one.result() == whole.result()
    # Recall ends at one half: 51 of the 101 points of recall.
    assert whole.result()["AP_box"] == pytest.approx(100 * 51 / 101)

"""The result files of an evaluation: pycocotools finds in them the AP that it reports."""

import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.evaluation.results import ResultCollector
from panoptic_tf.metrics import instances
from panoptic_tf.metrics.evaluator import PanopticEvaluator

INFO = DatasetInfo.from_coco(
    [
        {"id": 30, "name": "cat", "isthing": 1},
        {"id": 7, "name": "dog", "isthing": 1},
        {"id": 200, "name": "grass", "isthing": 0},
    ],
    name="drawn",
    source="a test",
)
NUMBER = {c.name: c.id for c in INFO.categories}
SIZE, IMAGES = (24, 32), (3, 12, 40)


def square(rng):
    y, x = rng.integers(0, 16), rng.integers(0, 22)
    return slice(y, y + rng.integers(4, 9)), slice(x, x + rng.integers(4, 11))


def draw_truth(rng, image_id):
    """Grass below four cats and dogs, one of them a crowd, and void above."""
    category, instance = np.full(SIZE, NUMBER["grass"], np.int32), np.zeros(SIZE, np.int32)
    category[:3] = 0
    for number in range(1, 5):
        place = square(rng)
        category[place], instance[place] = NUMBER[("cat", "dog")[number % 2]], number
    return {
        "category_mask": category,
        "instance_mask": instance,
        "crowd_mask": instance == 3,
        "image_id": json.dumps(image_id).encode(),
        "image_size": np.array(SIZE),
    }


def draw_segments(rng, truth):
    """Its things, moved by some pixels, and its grass, in a frame of twice the size, padded."""
    moved = [np.roll(truth[key], 1, axis=1) for key in ("category_mask", "instance_mask")]
    frame = [np.pad(np.kron(mask, np.ones((2, 2), np.int32)), ((0, 5), (0, 9))) for mask in moved]
    numbers = [n for n in np.unique(moved[1]) if n]
    categories = [moved[0][moved[1] == n][0] for n in numbers]
    pad = [0] * 3
    return {
        "category_mask": frame[0],
        "instance_mask": frame[1],
        "segment_category": np.array([*categories, NUMBER["grass"], *pad]),
        "segment_instance": np.array([*numbers, 0, *pad]),
        "segment_score": np.array([*rng.random(len(numbers) + 1), *pad], np.float32),
        "num_segments": np.int32(len(numbers) + 1),
        "image_size": 2 * np.array(SIZE),
    }


def draw_detections(rng, truth):
    """Two of each thing, masks narrower than their boxes; one of grass, and one of low score."""
    found = instances.ground_truth_instances(truth["category_mask"], truth["instance_mask"])
    x, y, width, height = np.repeat(instances.coco_boxes(found), 2, axis=0).T
    boxes = np.stack([y, x, y + height, x + width], axis=1) + rng.uniform(-1.5, 1.5, (x.size, 4))
    count = x.size + 2
    masks = np.ones((count, 6, 6), np.float32)
    masks[:, :, 5] = 0
    return {
        "detection_boxes": np.concatenate([boxes, [[0, 0, 9, 9]] * 2]),
        "detection_masks": masks,
        "detection_categories": np.array([*np.repeat(found.categories, 2), NUMBER["grass"], 1]),
        "detection_scores": np.array([*rng.uniform(0.1, 1, count - 1), 0.01], np.float32),
        "num_detections": np.int32(count),
        "image_size": np.array(SIZE),
    }


def evaluate(folder, draw):
    """Metrics of an evaluation that writes its predictions, and pycocotools' ground truth."""
    rng = np.random.default_rng(0)
    evaluator = PanopticEvaluator(
        num_categories=INFO.num_categories, thing_ids=INFO.thing_ids, category_names=INFO.names
    )
    collector = ResultCollector(INFO, str(folder), write_predictions=True, gallery_size=0)
    content = {"images": [], "annotations": [], "categories": [{"id": 30}, {"id": 7}]}
    for image_id in IMAGES:
        truth = draw_truth(rng, image_id)
        prediction = draw(rng, truth)
        evaluator.update(truth, prediction)
        collector.add(truth, prediction, None)
        content["images"].append({"id": image_id, "height": SIZE[0], "width": SIZE[1]})
        found = instances.ground_truth_instances(
            *(truth[key] for key in ("category_mask", "instance_mask", "crowd_mask"))
        )
        for rle, category, is_crowd in zip(found.rles, found.categories, found.is_crowd):
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": INFO.dataset_ids[category],
                    "segmentation": rle,
                    "bbox": instances.coco_boxes(instances.Instances([rle], [category]))[0],
                    "area": 1.0,
                    "iscrowd": int(is_crowd),
                }
            )
    metrics = evaluator.result()
    collector.finish(metrics, input_path="", title="")
    return metrics, content


def average_precision(content, results, kind):
    """AP, AP50 and AP75 in percent, as pycocotools has them without being told anything."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(str(results)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100 * evaluation.stats[:3]


def test_segments(tmp_path):
    metrics, content = evaluate(tmp_path, draw_segments)
    found = average_precision(content, tmp_path / "coco_instances_results.json", "segm")
    assert 0 < metrics["AP"] < 100 and metrics["AP_box"] is None
    np.testing.assert_allclose(found, [metrics[k] for k in ("AP", "AP50", "AP75")], rtol=1e-12)

    results = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert {r["image_id"] for r in results} == set(IMAGES)
    assert {r["category_id"] for r in results} == {30, 7}  # no grass
    for result in results:
        assert set(result) == {"image_id", "category_id", "segmentation", "score"}
        assert result["segmentation"]["size"] == list(SIZE)
    panoptic = json.loads((tmp_path / "predictions.json").read_text())
    listed = [s for a in panoptic["annotations"] for s in a["segments_info"]]
    scores = [s["score"] for s in listed if s["category_id"] != 200]
    assert sorted(scores) == sorted(r["score"] for r in results)


def test_detections(tmp_path):
    metrics, content = evaluate(tmp_path, draw_detections)
    path = tmp_path / "coco_instances_results.json"
    for kind, suffix in (("segm", ""), ("bbox", "_box")):
        expected = [metrics[name + suffix] for name in ("AP", "AP50", "AP75")]
        assert metrics["AP50" + suffix] > 0
        np.testing.assert_allclose(average_precision(content, path, kind), expected, rtol=1e-12)
    results = json.loads(path.read_text())
    assert len(results) == 2 * len(content["annotations"])
    assert {r["category_id"] for r in results} == {30, 7}
    assert json.loads((tmp_path / "predictions.json").read_text())["annotations"] == []


def test_detections_beside_a_panoptic_map(tmp_path):
    """The list holds what AP is computed of; the panoptic files hold the map."""
    _, content = evaluate(
        tmp_path,
        lambda rng, truth: {
            **draw_detections(rng, truth),
            "category_mask": truth["category_mask"],
            "instance_mask": truth["instance_mask"],
        },
    )
    results = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert len(results) == 2 * len(content["annotations"])
    assert all("bbox" in r for r in results)
    panoptic = json.loads((tmp_path / "predictions.json").read_text())
    assert len(panoptic["annotations"]) == len(IMAGES)


@pytest.mark.parametrize("image_id", ["frankfurt_0", "a/b c"])
def test_ids_that_are_names(tmp_path, image_id):
    rng = np.random.default_rng(1)
    truth = draw_truth(rng, image_id)
    collector = ResultCollector(INFO, str(tmp_path), write_predictions=True, gallery_size=0)
    collector.add(truth, draw_segments(rng, truth), None)
    collector.finish({"PQ": None, "per_category": []}, input_path="", title="")
    results = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert results and {r["image_id"] for r in results} == {image_id}


def test_no_list_of_a_model_without_instances(tmp_path):
    rng = np.random.default_rng(1)
    truth = draw_truth(rng, 5)
    collector = ResultCollector(INFO, str(tmp_path), write_predictions=True, gallery_size=0)
    collector.add(truth, {"semantic_mask": truth["category_mask"]}, None)
    collector.finish({"PQ": None, "per_category": []}, input_path="", title="")
    assert not (tmp_path / "coco_instances_results.json").exists()

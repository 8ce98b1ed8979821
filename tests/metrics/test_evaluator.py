import json
import pathlib
import re

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from coco_masks import encode_masks
from drawn_masks import NUM_CATEGORIES, THINGS, masks_strategy

from panoptic_tf.metrics import coverage, diagnosis, segments, summary
from panoptic_tf.metrics import instances as instances_lib
from panoptic_tf.metrics.evaluator import METRIC_NAMES, PanopticEvaluator
from panoptic_tf.metrics.original_size import restore_original_size

NAMES = ("void", "cat", "dog", "sky")


def evaluator(**kwargs):
    return PanopticEvaluator(num_categories=3, thing_ids=(1, 2), category_names=NAMES, **kwargs)


def ground_truth(image_id=b"7"):
    category = np.full((8, 10), 3, np.int32)
    instance = np.zeros((8, 10), np.int32)
    category[:4, :4], instance[:4, :4] = 1, 1
    category[4:, :5], instance[4:, :5] = 2, 2
    category[:, 9] = 0
    return {
        "category_mask": category,
        "instance_mask": instance,
        "crowd_mask": np.zeros((8, 10), bool),
        "image_size": np.array([8, 10], np.int32),
        "image_id": image_id,
    }


def perfect_prediction():
    truth = ground_truth()
    return {
        "category_mask": truth["category_mask"],
        "instance_mask": truth["instance_mask"],
        "segment_category": np.array([1, 2, 3, 0]),
        "segment_instance": np.array([1, 2, 0, 0]),
        "segment_score": np.array([0.9, 0.8, 0.7, 0]),
        "segment_area": np.array([16, 20, 36, 0]),
        "num_segments": np.int32(3),
        "image_size": np.array([8, 10]),
    }


BOX_NAMES = ("AP_box", "AP50_box", "AP75_box")
ECE_NAMES = ("ECE", "ECE_things", "ECE_stuff")
BOUNDARY_NAMES = tuple(name for name in METRIC_NAMES if "boundary" in name)
MASK_NAMES = tuple(n for n in METRIC_NAMES if n not in (*BOX_NAMES, *ECE_NAMES, *BOUNDARY_NAMES))


def test_perfect():
    metric = evaluator()
    metric.update(ground_truth(), perfect_prediction())
    result = metric.result()
    lists = ["errors", "calibration", "per_category"]
    assert list(result) == [*METRIC_NAMES, *coverage.NAMES, *diagnosis.NAMES, *lists]
    assert [result[name] for name in MASK_NAMES] == pytest.approx([100] * len(MASK_NAMES))
    assert [result[name] for name in BOX_NAMES] == [None] * 3  # nothing was detected
    assert [result[name] for name in BOUNDARY_NAMES] == [None] * 9  # nor were boundaries asked for
    # All are right, at scores of 0.9 and 0.8 (things) and 0.7.
    assert [result[name] for name in ECE_NAMES] == pytest.approx([20, 15, 30])
    assert result["per_category"][0] == {
        "id": 1,
        "name": "cat",
        "is_thing": True,
        "PQ": 100.0,
        "SQ": 100.0,
        "RQ": 100.0,
        "PQ_dagger": 100.0,
        "PQ_boundary": None,
        "IoU": 100.0,
        "AP": pytest.approx(100),
        "tp": 1,
        "fp": 0,
        "fn": 0,
    }
    assert result["per_category"][2]["AP"] is None
    assert metric.image_scores() == [("7", 100.0)]
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_boundaries():
    assert len(BOUNDARY_NAMES) == 9
    shifted = perfect_prediction()
    shifted["category_mask"] = np.roll(shifted["category_mask"], 1, axis=0)
    shifted["instance_mask"] = np.roll(shifted["instance_mask"], 1, axis=0)
    for prediction, expected in ((perfect_prediction(), 100), (shifted, None)):
        metric = evaluator(boundary_ratio=0.02)
        metric.update(ground_truth(), prediction)
        result = metric.result()
        for name in BOUNDARY_NAMES:
            assert 0 <= result[name] <= result[name.replace("_boundary", "")]
            assert expected is None or result[name] == expected
        assert expected == 100 or result["PQ_boundary"] < result["PQ"]
        rows = result["per_category"]
        assert result["PQ_boundary"] == pytest.approx(np.mean([r["PQ_boundary"] for r in rows]))


def test_segments_without_a_score_are_not_calibrated():
    metric, prediction = evaluator(), perfect_prediction()
    prediction["segment_category"] = np.array([1, 2, 0, 0])  # the row of the stuff is missing
    metric.update(ground_truth(), prediction)
    assert metric.result()["ECE"] == pytest.approx(15)
    assert metric.result()["ECE_stuff"] is None
    del prediction["segment_score"]
    metric.update(ground_truth(), prediction)
    assert sum(row["segments"] for row in metric.result()["calibration"]) == 2


def test_every_key_is_documented():
    text = (pathlib.Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    metric, prediction = evaluator(), perfect_prediction()
    prediction["category_mask"] = np.where(np.eye(8, 10) > 0, 0, prediction["category_mask"])
    metric.update(ground_truth(), prediction)
    result = metric.result()
    tables = [value for value in result.values() if isinstance(value, list)]
    assert all(tables)
    for key in {*result, *(key for table in tables for key in table[0])}:
        split = re.sub("_(things|stuff)$", "", key)
        assert f"`{key}`" in text or f"`{split}`" in text, key


def test_nothing_seen_is_none():
    result = evaluator().result()
    assert [result[name] for name in METRIC_NAMES] == [None] * len(METRIC_NAMES)
    assert all(row["PQ"] is None and row["tp"] == 0 for row in result["per_category"])


def test_semantic_only_and_instances_only():
    semantic, instance = evaluator(), evaluator()
    prediction = perfect_prediction()
    semantic.update(ground_truth(), {"semantic_mask": prediction["category_mask"]})
    del prediction["category_mask"]
    instance.update(ground_truth(), prediction)
    known = {"mIoU", "fIoU"}, {"AP", "AP50", "AP75"}
    for metric, names in zip((semantic, instance), known):
        result = metric.result()
        assert {name for name in METRIC_NAMES if result[name] is not None} == names
        assert metric.image_scores() == [("7", None)]


def test_semantic_mask_goes_before_category_mask():
    metric, prediction = evaluator(), perfect_prediction()
    prediction["semantic_mask"] = np.full((8, 10), 3)
    metric.update(ground_truth(), prediction)
    assert metric.result()["PQ"] == 100
    assert metric.result()["fIoU"] == pytest.approx(100 * (36 / 72) ** 2)


def test_padding_is_cut_from_both():
    truth, prediction = ground_truth(), perfect_prediction()
    for key in ("category_mask", "instance_mask", "crowd_mask"):
        truth[key] = np.pad(truth[key], ((0, 3), (0, 2)))
    for key in ("category_mask", "instance_mask"):
        prediction[key] = np.pad(prediction[key], ((0, 5), (0, 6)), constant_values=1)
    metric = evaluator()
    metric.update(truth, prediction)
    assert [metric.result()[name] for name in ("PQ", "AP")] == pytest.approx([100, 100])


def test_smaller_prediction_is_resized():
    truth, prediction = ground_truth(), perfect_prediction()
    for key in ("category_mask", "instance_mask", "crowd_mask"):
        truth[key] = np.kron(truth[key], np.ones((3, 3), truth[key].dtype))
    truth["image_size"] = np.array([24, 30])
    metric = evaluator()
    metric.update(truth, prediction)
    found = [metric.result()[name] for name in ("PQ", "mIoU", "AP")]
    assert found == pytest.approx([100, 100, 100])


def test_overlapping_ground_truth_instances():
    truth, prediction = ground_truth(), perfect_prediction()
    masks = np.stack([truth["instance_mask"] == 1, truth["category_mask"] > 0])
    listed = instances_lib.Instances(encode_masks(masks), [1, 2], is_crowd=[0, 0])
    metric = evaluator()
    metric.update(truth, prediction, listed)
    assert metric.result()["AP"] == pytest.approx(
        50
    )  # 20 pixels are no match for an instance of 72
    assert metric.result()["PQ"] == 100


def stored_instances(masks, categories, is_crowd, padding=2):
    """Labels as the pipeline pads them to the largest number of the batch."""
    counts = [rle["counts"] for rle in encode_masks(masks)]
    return {
        "instance_rles": np.array(counts + [b""] * padding, object),
        "instance_categories": np.array([*categories, *[0] * padding]),
        "instance_is_crowd": np.array([*is_crowd, *[False] * padding]),
        "num_instances": np.int32(len(counts)),
    }


def test_overlapping_instances_of_the_labels():
    truth, prediction = ground_truth(), perfect_prediction()
    masks = np.stack([truth["instance_mask"] == 1, truth["category_mask"] > 0])
    listed = instances_lib.Instances(encode_masks(masks), [1, 2], is_crowd=[0, 0])
    values = []
    for labels, given in [
        ({}, listed),
        (stored_instances(masks, [1, 2], [False, False]), None),
        (stored_instances(masks, [1, 2], [False, True]), None),
        ({"num_instances": np.int32(-1)}, None),
        (stored_instances(masks[:0], [], []), None),
        (stored_instances(masks[:0], [], []), listed),
    ]:
        metric = evaluator()
        metric.update({**truth, **labels}, prediction, given)
        values.append(metric.result()["AP"])
    # Twice the same; the second as a crowd; those of the masks; none at all; what is handed in.
    assert values == [*[pytest.approx(v) for v in (50, 50, 100, 100)], None, pytest.approx(50)]


def test_without_ap():
    metric = evaluator(compute_ap=False)
    metric.update(ground_truth(), perfect_prediction())
    assert metric.result()["PQ"] == 100
    assert metric.result()["AP"] is None


def test_merge_equals_all_at_once():
    rng = np.random.default_rng(0)

    def draw(i):
        prediction = perfect_prediction()
        noise = rng.random((8, 10)) < 0.1 * i
        prediction["category_mask"] = np.where(noise, 0, prediction["category_mask"])
        prediction["instance_mask"] = np.where(noise, 0, prediction["instance_mask"])
        return ground_truth(f'"image_{i}"'.encode()), prediction

    images = [draw(i) for i in range(5)]
    whole, one, other = (evaluator(boundary_ratio=0.1) for _ in range(3))
    for i, image in enumerate(images):
        whole.update(*image)
        (one if i < 2 else other).update(*image)
    one.merge(other)
    first, second = one.result(), whole.result()
    assert 0 < first["PQ_boundary"] < 100 and first["ECE"] > 0
    lists = [name for name, value in first.items() if isinstance(value, list)]
    assert {"errors", "calibration", "per_category"} <= set(lists)
    for name in lists:
        rows, expected_rows = first.pop(name), second.pop(name)
        assert len(rows) == len(expected_rows)
        for row, expected in zip(rows, expected_rows):
            assert row == {
                k: v if isinstance(v, str) else pytest.approx(v) for k, v in expected.items()
            }
    assert first == pytest.approx(second)
    assert one.image_scores() == whole.image_scores()
    assert [image_id for image_id, _ in one.image_scores()][3] == '"image_3"'


def score_drawn(images, numbers):
    """The result over drawn images whose instances are renumbered."""
    metric = PanopticEvaluator(
        num_categories=NUM_CATEGORIES,
        thing_ids=THINGS,
        category_names=("void", "1", "2", "3", "4"),
        compute_ap=False,
        boundary_ratio=0.06,
    )
    for masks in images:
        found = np.unique(np.stack(masks[3:], axis=-1).reshape(-1, 2), axis=0)
        truth = {"category_mask": masks[0], "instance_mask": numbers[masks[1]]}
        prediction = {"category_mask": masks[3], "instance_mask": numbers[masks[4]]}
        prediction["segment_category"] = found[:, 0]
        prediction["segment_instance"] = numbers[found[:, 1]]
        prediction["segment_score"] = np.linspace(0, 1, len(found))
        metric.update({**truth, "crowd_mask": masks[2]}, prediction)
    return metric.result()


@hypothesis.given(st.lists(masks_strategy, min_size=1, max_size=3), st.permutations(range(1, 9)))
@hypothesis.settings(max_examples=30, deadline=None)
def test_numbers_of_instances_and_order_of_images_do_not_matter(images, permutation):
    one = score_drawn(images, np.arange(9))
    other = score_drawn(images[::-1], np.array([0, *permutation]))
    for name, value in one.items():
        rows = value if isinstance(value, list) else [{name: value}]
        other_rows = other[name] if isinstance(value, list) else [{name: other[name]}]
        for row, expected in zip(other_rows, rows):
            texts = {key for key, entry in expected.items() if isinstance(entry, str)}
            assert {k: v for k, v in row.items() if k not in texts} == {
                key: entry if entry is None else pytest.approx(entry, abs=1e-9)
                for key, entry in expected.items()
                if key not in texts
            }
    for name in METRIC_NAMES:
        assert one[name] is None or 0 <= one[name] <= 100 + 1e-9


def test_void_image_has_no_score():
    truth = ground_truth(np.bytes_(b"3"))
    truth = {**truth, "category_mask": np.zeros((8, 10)), "instance_mask": np.zeros((8, 10), int)}
    truth["category_mask"] = truth["category_mask"].astype(int)
    metric = evaluator()
    metric.update(truth, perfect_prediction())
    assert metric.image_scores() == [("3", None)]
    assert metric.result()["PQ"] is None


def test_labels_equal_masks():
    truth, prediction = ground_truth(), perfect_prediction()
    prediction["category_mask"] = np.where(np.eye(8, 10) > 0, 0, prediction["category_mask"])
    by_masks, by_labels = evaluator(), evaluator()
    by_masks.update(truth, prediction)
    by_labels.update_labels(
        "7",
        segments.label_masks(truth["category_mask"], truth["instance_mask"]),
        segments.label_masks(prediction["category_mask"], prediction["instance_mask"]),
    )
    assert by_labels.result()["errors"] == by_masks.result()["errors"]
    for name in METRIC_NAMES[: METRIC_NAMES.index("ECE")]:
        assert by_masks.result()[name] == by_labels.result()[name]
    assert by_masks.image_scores() == by_labels.image_scores()


def test_errors_name_the_image():
    prediction = perfect_prediction()
    prediction["category_mask"] = prediction["category_mask"] + 7
    with pytest.raises(ValueError, match=r"image 7: predicted categories must be 0\.\.3"):
        evaluator().update(ground_truth(), prediction)
    prediction = {**perfect_prediction(), "image_size": np.array([9, 10])}
    with pytest.raises(ValueError, match=r"image 7: the valid size must be within .*got \(9, 10\)"):
        evaluator().update(ground_truth(), prediction)
    with pytest.raises(ValueError, match=r"boundary_ratio must be within 0\.\.1, got 2"):
        evaluator(boundary_ratio=2)
    with pytest.raises(ValueError, match="void and 3 categories, got 3 names"):
        PanopticEvaluator(num_categories=3, thing_ids=(), category_names=NAMES[1:])


@pytest.mark.parametrize(
    "valid, original", [((5, 7), (11, 3)), ((4, 4), (9, 13)), ((6, 8), (6, 8))]
)
def test_restore_original_size_equals_plain_loops(valid, original):
    mask = np.random.default_rng(0).integers(0, 99, (6, 8))
    expected = np.zeros(original, int)
    for y, x in np.ndindex(original):
        source_y = int(np.floor((y + 0.5) * valid[0] / original[0]))
        source_x = int(np.floor((x + 0.5) * valid[1] / original[1]))
        expected[y, x] = mask[source_y, source_x]
    np.testing.assert_array_equal(restore_original_size(mask, valid, original), expected)


def test_table():
    metric = evaluator()
    metric.update(ground_truth(), {"semantic_mask": ground_truth()["category_mask"]})
    text = summary.format_metrics(metric.result())
    assert "mIoU 100.00" in text
    assert "AP -" in text
    assert "void 10.0%, things 45.0% annotated, 45.0% predicted" in text
    assert "segments:" not in text
    metric.update(ground_truth(), perfect_prediction())
    assert "_box" not in text
    assert "AP75_box 12.50" in summary.format_metrics({**metric.result(), "AP75_box": 12.5})
    text = summary.format_metrics(metric.result())
    assert "segments: 3 annotated (2 things), 3 predicted (2 things)" in text
    assert "PQ_dagger 100.00  ECE 20.00" in text
    assert "boundary" not in text and "lost" not in text  # nothing is
    lines = text.splitlines()
    assert [line.split()[-1] for line in lines[1:4]] == ["3", "2", "1"]


def test_table_of_boundaries_and_errors():
    metric, prediction = evaluator(boundary_ratio=0.02), perfect_prediction()
    prediction["category_mask"] = np.where(
        prediction["instance_mask"] == 1, 2, prediction["category_mask"]
    )
    metric.update(ground_truth(), prediction)
    lines = summary.format_metrics(metric.result()).splitlines()
    assert lines[4].split() == ["boundary", "55.56", "66.67", "55.56", "3"]
    # cat is missed and dog found twice: PQ 0, 2/3 and 1.
    assert lines[6] == "points of PQ lost: borders of matches 0.0, wrong category 44.4"

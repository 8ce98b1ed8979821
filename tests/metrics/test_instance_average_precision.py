import numpy as np
import pytest
from coco_masks import encode_masks
from pycocotools import mask as coco_mask

from panoptic_tf.metrics import instances as lib

SIZE = (20, 24)


def square(y, x, side):
    mask = np.zeros(SIZE, bool)
    mask[y : y + side, x : x + side] = True
    return mask


def average_precision(*images, num_categories=3, thing_ids=(1, 2)):
    metric = lib.InstanceAveragePrecision(num_categories=num_categories, thing_ids=thing_ids)
    for truth, found in images:
        metric.update(SIZE, truth, found)
    return metric.result()


def instances(masks, categories, **kwargs):
    return lib.Instances(encode_masks(np.array(masks)), categories, **kwargs)


def test_perfect():
    masks = [square(0, 0, 5), square(3, 3, 6), square(10, 10, 8)]
    result = average_precision(
        (instances(masks, [1, 1, 2]), instances(masks, [1, 1, 2], scores=[0.3, 0.9, 0.5]))
    )
    assert [result[name] for name in ("AP", "AP50", "AP75")] == pytest.approx([100, 100, 100])
    assert result["per_category"] == [pytest.approx(100), pytest.approx(100), None]


def test_iou_between_thresholds():
    # 60 of 100 pixels: matched at IoU 0.50, 0.55 and 0.60, three of the ten thresholds.
    truth, found = square(0, 0, 10), square(0, 0, 10)
    found[:4] = False
    result = average_precision((instances([truth], [1]), instances([found], [1], scores=[1.0])))
    assert result["AP"] == pytest.approx(30)
    assert result["AP50"] == pytest.approx(100)
    assert result["AP75"] == pytest.approx(0)


def test_a_wrong_prediction_costs_by_its_score():
    right, wrong = square(0, 0, 5), square(12, 12, 5)
    values = {}
    for order, scores in (("last", [0.9, 0.1]), ("first", [0.1, 0.9])):
        found = instances([right, wrong], [1, 1], scores=scores)
        values[order] = average_precision((instances([right], [1]), found))["AP"]
    assert values["last"] == pytest.approx(100)
    assert values["first"] == pytest.approx(50)


def test_crowd_is_ignored_not_missed():
    one, crowd = square(0, 0, 5), square(8, 8, 10)
    truth = instances([one, crowd], [1, 1], is_crowd=[False, True])
    found = instances([one, square(9, 9, 4)], [1, 1], scores=[0.5, 0.9])
    assert average_precision((truth, found))["AP"] == pytest.approx(100)


def test_matches_stay_within_their_image():
    one, other = square(0, 0, 5), square(10, 10, 5)
    swapped = average_precision(
        (instances([one], [1]), instances([other], [1], scores=[1])),
        (instances([other], [1]), instances([one], [1], scores=[1])),
    )
    assert swapped["AP"] == 0


def test_none_without_things_or_ground_truth(capsys):
    nothing = lib.Instances([], [], scores=[])
    found = instances([square(0, 0, 5)], [1], scores=[1.0])
    crowd = instances([square(0, 0, 5)], [1], is_crowd=[True])
    assert average_precision()["AP"] is None
    assert average_precision((nothing, found))["AP"] is None
    assert average_precision((crowd, found))["AP"] is None
    only_stuff = average_precision((instances([square(0, 0, 5)], [3]), found), thing_ids=())
    assert only_stuff["AP"] is None
    assert only_stuff["per_category"] == [None] * 3
    assert average_precision((instances([square(0, 0, 5)], [1]), nothing))["AP"] == 0
    assert capsys.readouterr().out == ""


def test_merge_equals_all_at_once():
    rng = np.random.default_rng(0)

    def draw():
        truth = [square(*rng.integers(0, 12, 2), 7) for _ in range(3)]
        found = [np.roll(mask, rng.integers(0, 3), axis=1) for mask in truth]
        categories = rng.integers(1, 3, 3)
        return (
            instances(truth, categories),
            instances(found, categories, scores=rng.random(3)),
        )

    images = [draw() for _ in range(6)]
    one, other, whole = (
        lib.InstanceAveragePrecision(num_categories=2, thing_ids=(1, 2)) for _ in range(3)
    )
    for i, image in enumerate(images):
        (one if i < 3 else other).update(SIZE, *image)
        whole.update(SIZE, *image)
    one.merge(other)
    assert one.result() == whole.result()
    assert 0 < whole.result()["AP"] < 100


@pytest.mark.parametrize("seed", range(5))
def test_encode_id_map_equals_mask_by_mask(seed):
    rng = np.random.default_rng(seed)
    id_map = np.array([0, 3, 900_000, 8, 4])[rng.integers(0, 5, (13, 7))]
    id_map = id_map if seed else np.kron(id_map, np.ones((4, 3), int))
    ids, rles, points = lib.encode_id_map(id_map)
    assert ids.tolist() == [3, 4, 8, 900_000]
    assert rles == encode_masks(np.stack([id_map == i for i in ids]))
    assert id_map[points[:, 0], points[:, 1]].tolist() == ids.tolist()


def test_encode_id_map_without_background_and_without_instance():
    ids, rles, _ = lib.encode_id_map(np.full((3, 4), 7))
    assert ids.tolist() == [7]
    np.testing.assert_array_equal(coco_mask.decode(rles[0]), np.ones((3, 4)))
    ids, rles, points = lib.encode_id_map(np.zeros((3, 4), int))
    assert (ids.tolist(), rles, points.shape) == ([], [], (0, 2))


def test_instances_of_masks():
    category = np.array([[1, 1, 3], [2, 2, 0]])
    instance = np.array([[4, 4, 0], [6, 6, 0]])
    truth = lib.ground_truth_instances(category, instance, instance == 6)
    assert truth.categories.tolist() == [1, 2]
    assert truth.is_crowd.tolist() == [False, True]
    table = {
        "segment_instance": np.array([0, 6, 4, 9, 0]),  # 9 has no pixel left
        "segment_category": np.array([3, 2, 1, 1, 0]),
        "segment_score": np.array([1, 0.6, 0.4, 0.9, 0]),
    }
    found = lib.predicted_instances(instance, **table)
    assert found.categories.tolist() == [1, 2]
    assert found.scores.tolist() == [0.4, 0.6]
    assert found.rles == truth.rles
    with pytest.raises(ValueError, match=r"instances \[7\] of instance_mask have no row"):
        lib.predicted_instances(np.full((2, 2), 7), **table)


def test_errors():
    metric = lib.InstanceAveragePrecision(num_categories=2, thing_ids=(1,))
    small = lib.Instances(encode_masks(np.ones((1, 2, 2))), [1], scores=[1.0])
    with pytest.raises(ValueError, match=r"predicted masks must have size \[20, 24\]"):
        metric.update(SIZE, lib.Instances([], []), small)
    with pytest.raises(ValueError, match="must have scores"):
        metric.update(SIZE, lib.Instances([], []), lib.Instances([], []))

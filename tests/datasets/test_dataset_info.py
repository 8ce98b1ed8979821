"""Categories: contiguous ids, built-in data sets, malformed lists."""

import pytest

from panoptic_tf.datasets.dataset_info import DatasetInfo, built_in_names

GRASS = {"id": 200, "name": "grass", "isthing": 0, "color": [1, 2, 3]}
CAT = {"id": 3, "name": "cat", "isthing": 1}


def test_contiguous_ids_follow_the_data_sets():
    info = DatasetInfo.from_coco([GRASS, CAT], name="pets")
    assert info.contiguous_ids() == {3: 1, 200: 2}
    assert info.dataset_ids == (0, 3, 200) and info.names == ("void", "cat", "grass")
    assert info.thing_ids == (1,) and info.stuff_ids == (2,)
    assert info.colors[2] == (1, 2, 3) and info.num_categories == 2


@pytest.mark.parametrize(
    "name,things,stuff",
    [("coco_panoptic", 80, 53), ("cityscapes_panoptic", 8, 11), ("shapes", 6, 4)],
)
def test_built_in(name, things, stuff):
    assert name in built_in_names()
    info = DatasetInfo.load(name)
    assert (info.name, len(info.thing_ids), len(info.stuff_ids)) == (name, things, stuff)
    assert len(set(info.names)) == len(set(info.dataset_ids)) == info.num_categories + 1


def test_save_and_load(tmp_path):
    info = DatasetInfo.from_coco([GRASS, CAT], name="pets")
    info.save(str(tmp_path / "info.json"))
    assert DatasetInfo.load(str(tmp_path / "info.json")) == info


@pytest.mark.parametrize("category", [CAT, GRASS])
def test_only_things_or_only_stuff(category):
    info = DatasetInfo.from_coco([category], name="one")
    assert sorted(info.thing_ids + info.stuff_ids) == [1]


MALFORMED = [
    ([], "must be a non-empty list"),
    ([CAT, dict(CAT, name="dog")], r"categories\[1\].id 3 is used twice, for 'cat' and 'dog'"),
    ([dict(CAT, id="3")], r"categories\[0\].id must be an integer"),
    ([{"id": 1}], r"categories\[0\].name must be a non-empty string, got None"),
    ([dict(CAT, isthing=2)], r"categories\[0\].isthing must be 0 or 1, got 2"),
    ([dict(CAT, color=[1, 2])], r"categories\[0\].color must be three integers"),
    (["cat"], r"categories\[0\] must be an object"),
]


@pytest.mark.parametrize("categories,message", MALFORMED)
def test_malformed(categories, message):
    with pytest.raises(ValueError, match="x.json: " + ".*" + message):
        DatasetInfo.from_coco(categories, name="x", source="x.json")


def test_neither_name_nor_file():
    with pytest.raises(ValueError, match="nothing_here.*expected a dataset_info.json"):
        DatasetInfo.load("nothing_here")

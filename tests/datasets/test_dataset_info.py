"""Categories: contiguous ids, built-in data sets, malformed lists."""

import pytest

from panoptic_tf.datasets import notes
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
    [
        ("coco_panoptic", 80, 53),
        ("cityscapes_panoptic", 8, 11),
        ("ade20k_panoptic", 100, 50),
        ("shapes", 6, 4),
    ],
)
def test_built_in(name, things, stuff):
    assert name in built_in_names()
    info = DatasetInfo.load(name)
    assert (info.name, len(info.thing_ids), len(info.stuff_ids)) == (name, things, stuff)
    # The first of ADE20K has the id 0 in its files, as void has in tensors.
    assert len(set(info.dataset_ids[1:])) == info.num_categories == len(set(info.names)) - 1


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
    ([dict(CAT, id=2**31)], r"categories\[0\].id must be an integer of 0..2147483646, got 21474"),
    ([dict(CAT, id=2**70)], r"categories\[0\].id must be an integer"),
    ([dict(CAT, id=True)], r"categories\[0\].id must be an integer .* got True"),
    ([dict(CAT, id=3.0)], r"categories\[0\].id must be an integer .* got 3.0"),
    ([dict(CAT, name="\ud800")], r"categories\[0\].name must be a non-empty string, got '.ud800'"),
    ([dict(CAT, name="c\nat")], r"categories\[0\].name must be a non-empty string, got 'c.nat'"),
    ([dict(CAT, isthing=[])], r"categories\[0\].isthing must be 0 or 1"),
    (["cat"], r"categories\[0\] must be an object"),
]


@pytest.mark.parametrize("categories,message", MALFORMED)
def test_malformed(categories, message):
    with pytest.raises(ValueError, match="x.json: " + ".*" + message):
        DatasetInfo.from_coco(categories, name="x", source="x.json")


@pytest.mark.parametrize(
    "color",
    ["#1ea03c", [0.47, 0.31, 0.16], [1, 2], [1, 2, 3, 4], [1, 2, 256], [-1, 2, 3], {}, "red", 7]
    + [[True, False, True], [float("nan")] * 3, [[1], [2], [3]]],
)
def test_what_is_no_colour_is_replaced_and_noted(color):
    found = notes.Notes()
    info = DatasetInfo.from_coco([GRASS, dict(CAT, color=color)], name="pets", notes=found)
    plain = DatasetInfo.from_coco([GRASS, CAT], name="pets")
    assert info == plain
    (text,) = found.texts()
    assert text.startswith("1 colours are not three integers") and "id 3 ('cat')" in text


def test_null_colour_and_kind_are_as_good_as_missing():
    found = notes.Notes()
    info = DatasetInfo.from_coco([dict(CAT, color=None, isthing=None)], name="x", notes=found)
    assert info == DatasetInfo.from_coco([CAT], name="x") and not found.texts()


def test_neither_name_nor_file():
    with pytest.raises(ValueError, match="nothing_here.*expected a dataset_info.json"):
        DatasetInfo.load("nothing_here")

"""Maps of categories: what becomes of segments, crowds and instances; files that are no map."""

import json
import pathlib
import pickle
import re

import converted
import numpy as np
import pytest

from panoptic_tf.datasets import category_map, importers, recategorizing, rle
from panoptic_tf.datasets.annotations import Instance, Segment
from panoptic_tf.datasets.checks import LoadedAnnotation
from panoptic_tf.datasets.dataset_info import DatasetInfo

INFO = DatasetInfo.from_coco(
    [
        {"id": 2, "name": "car", "color": [1, 1, 1]},
        {"id": 4, "name": "bus", "color": [2, 2, 2]},
        {"id": 5, "name": "person", "color": [3, 3, 3]},
        {"id": 11, "name": "road", "isthing": 0, "color": [4, 4, 4]},
        {"id": 12, "name": "parking", "isthing": 0, "color": [5, 5, 5]},
        {"id": 20, "name": "sky", "isthing": 0, "color": [6, 6, 6]},
    ],
    name="streets",
)
CAR, BUS, PERSON, ROAD, PARKING, SKY = 2, 4, 5, 11, 12, 20
SEGMENTS = (
    Segment(101, ROAD),
    Segment(102, CAR),
    Segment(103, CAR, True),
    Segment(104, PARKING),
    Segment(105, BUS),
    Segment(106, SKY),
    Segment(107, PERSON),
    Segment(108, ROAD),  # a second piece
)
ROWS = np.array([[0, 6, 6, 6, 6], [1, 2, 2, 3, 8], [1, 4, 5, 7, 8]], np.int32)
"""Void, sky; road, a car, a crowd of cars; parking, a bus, a person."""


def mask_of(*rows):
    return np.isin(ROWS, rows)


INSTANCES = tuple(
    Instance(rle.encode_rle(mask), category, is_crowd)
    for mask, category, is_crowd in [
        (mask_of(2, 5), 1, False),  # the car is whole, below the bus
        (mask_of(3), 1, True),
        (mask_of(5), 2, False),
        (mask_of(7), 3, False),
    ]
)
LOADED = LoadedAnnotation(b"image", ROWS, SEGMENTS, None, ("noted",))


def write(tmp_path, content):
    path = tmp_path / "map.yaml"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def remap(tmp_path, content, loaded=LOADED):
    found = category_map.read(write(tmp_path, content), INFO)
    result = recategorizing.remap(loaded, found)
    table = [(s.id, found.dataset_info.names[s.category_id], s.is_crowd) for s in result.segments]
    return result, table, found.dataset_info


MAP = """
categories:
- {name: road, from: [road, parking]}
- {name: vehicle, from: [bus, car], isthing: 1, color: [9, 8, 7]}
- {name: person}
void: [sky]
"""


def test_merge_rename_recolour_drop(tmp_path):
    result, table, info = remap(tmp_path, MAP)
    assert info.name == "streets" and info.dataset_ids == (0, 1, 2, 3)
    assert info.names == ("void", "road", "vehicle", "person")
    assert info.colors[1:] == ((4, 4, 4), (9, 8, 7), (3, 3, 3)) and info.thing_ids == (2, 3)
    # All pieces of road and parking are one segment; cars and buses stay apart, sky is void.
    assert table == [
        (101, "road", False),
        (102, "vehicle", False),
        (103, "vehicle", True),
        (105, "vehicle", False),
        (107, "person", False),
    ]
    expected = [[0, 0, 0, 0, 0], [1, 2, 2, 3, 1], [1, 1, 4, 5, 1]]
    np.testing.assert_array_equal(result.rows, expected)
    assert result.rows.dtype == np.int32
    assert result.image_bytes == b"image" and result.notes == ("noted",)
    assert result.instances is None


def test_things_that_become_stuff_are_one_segment(tmp_path):
    content = {
        "categories": [
            {"name": "traffic", "from": ["car", "bus", "road"], "isthing": 0},
            {"name": "person"},
        ],
        "others": "void",
    }
    loaded = LoadedAnnotation(b"", ROWS, SEGMENTS, INSTANCES)
    result, table, info = remap(tmp_path, content, loaded)
    # A crowd of things that nobody needs to tell apart any more is no crowd.
    assert table == [(101, "traffic", False), (107, "person", False)]
    np.testing.assert_array_equal(result.rows == 1, mask_of(1, 2, 3, 5, 8))
    np.testing.assert_array_equal(result.rows == 2, mask_of(7))
    assert result.instances == (Instance(INSTANCES[3].rle, 2),) and info.thing_ids == (2,)
    assert result.notes == ()


def test_instances_stay_whole(tmp_path):
    loaded = LoadedAnnotation(b"", ROWS, SEGMENTS, INSTANCES)
    result, _, _ = remap(tmp_path, MAP, loaded)
    expected = [(0, 2, False), (1, 2, True), (2, 2, False), (3, 3, False)]
    assert result.instances == tuple(
        Instance(INSTANCES[i].rle, c, crowd) for i, c, crowd in expected
    )
    none_left, _, _ = remap(tmp_path, {"categories": [{"name": "sky"}], "others": "void"}, loaded)
    assert none_left.instances == ()


def test_stuff_that_becomes_a_thing(tmp_path):
    content = {
        "categories": [{"name": "ground", "from": ["road", "parking"], "isthing": 1}],
        "others": "keep",
    }
    loaded = LoadedAnnotation(b"", ROWS, SEGMENTS, INSTANCES)
    result, table, info = remap(tmp_path, content, loaded)
    assert info.names[1:] == ("ground", "car", "bus", "person", "sky")
    # Both pieces of the road are one instance, the parking is another.
    assert table[:1] + table[3:4] == [(101, "ground", False), (104, "ground", False)]
    np.testing.assert_array_equal(result.rows == 1, mask_of(1, 8))
    assert result.notes == (recategorizing.STUFF_AS_THING,)
    assert [i.category for i in result.instances] == [2, 2, 3, 4, 1, 1]
    assert result.instances[4].rle == rle.encode_rle(mask_of(1, 8))
    assert result.instances[5].rle == rle.encode_rle(mask_of(4))


@pytest.mark.parametrize("flags, is_crowd", [((1, 1, 1), True), ((1, 0, 1), False)])
def test_crowds_of_stuff(tmp_path, flags, is_crowd):
    road, parking, other = (bool(flag) for flag in flags)
    table = (Segment(1, ROAD, road), Segment(2, PARKING, parking), Segment(3, ROAD, other))
    loaded = LoadedAnnotation(b"", np.array([[1, 2, 3]], np.int32), table)
    content = {"categories": [{"name": "flat", "from": ["road", "parking"]}], "others": "void"}
    result, found, _ = remap(tmp_path, content, loaded)
    assert found == [(1, "flat", is_crowd)] and (result.rows == 1).all()


def test_others(tmp_path):
    kept = category_map.read(write(tmp_path, {"others": "keep", "void": ["sky"]}), INFO)
    assert kept.dataset_info.names[1:] == ("car", "bus", "person", "road", "parking")
    assert kept.new_ids == {CAR: 1, BUS: 2, PERSON: 3, ROAD: 4, PARKING: 5}
    content = {"categories": [{"name": "auto", "from": ["car"]}], "others": "void"}
    void = category_map.read(write(tmp_path, content), INFO)
    assert void.dataset_info.names == ("void", "auto") and void.new_ids == {CAR: 1}


def test_names_are_compared_without_spaces_around(tmp_path):
    info = DatasetInfo.load("ade20k_panoptic")  # it has 'window '
    found = category_map.read(write(tmp_path, "categories: [{name: window}]\nothers: void"), info)
    assert found.dataset_info.names == ("void", "window") and found.new_ids == {8: 1}


def test_categories_of_one_name_go_together(tmp_path):
    info = DatasetInfo.from_coco([{"id": 1, "name": "a"}, {"id": 2, "name": "a"}], name="n")
    found = category_map.read(write(tmp_path, "categories: [{name: b, from: [a]}]"), info)
    assert found.new_ids == {1: 1, 2: 1}


WRONG = {
    "not YAML": ("categories: [", "map.yaml is not YAML"),
    "empty": ("", "map.yaml: must be an object, got None; expected a map of categories"),
    "list": ("[]", r"map.yaml: must be an object, got \[\]"),
    "text": ("car", "map.yaml: must be an object, got 'car'"),
    "nested": ("[" * 100000, r"map.yaml is not YAML \(nested more than"),
    "alias": ("a: &a [x]\nb: *a", r"map.yaml is not YAML \(the alias \*a is not read\)"),
    "tag": ("categories: !!python/object:os.system {}", "map.yaml is not YAML"),
    "tag of a truth value": ("categories: !!bool car", "map.yaml is not YAML"),
    "tag of a time": ("categories: !!timestamp car", "map.yaml is not YAML"),
    "huge number": ("categories: 0x" + "f" * 9000, "map.yaml is not YAML"),
    "bytes": ("\0", "map.yaml is not YAML"),
    "unknown field": ({"category": []}, "map.yaml has an unknown field 'category'; known are cat"),
    "no text as field": ("1: 2", "map.yaml has an unknown field 1"),
    "others": ({"others": "drop"}, "map.yaml: others must be one of error, void, keep, got 'drop'"),
    "others list": ({"others": []}, r"others must be one of .*, got \[\]"),
    "no list": ({"categories": {}}, "map.yaml: categories must be a list of categories"),
    "null": ({"categories": None}, "map.yaml: categories must be a list of categories"),
    "none left": ({"others": "void"}, "map.yaml: categories must name one at least"),
    "no object": ({"categories": ["car"]}, r"map.yaml: categories\[0\] must be an object, got str"),
    "no name": ({"categories": [{}]}, r"categories\[0\].name must be a name, got None"),
    "empty name": (
        {"categories": [{"name": " "}]},
        r"categories\[0\].name must be a name, got ' '",
    ),
    "number as name": ("categories: [{name: 7}]", r"name must be a name, got 7. Put it in quotes"),
    "no as name": ("categories: [{name: no}]", "name must be a name, got False. Put it in quotes"),
    "unprintable": ({"categories": [{"name": "a\nb"}]}, r"name must be a name, got 'a\\nb'"),
    "field of a category": (
        {"categories": [{"name": "car", "thing": 1}]},
        r"categories\[0\] has an unknown field 'thing'; known are name, from, isthing, color",
    ),
    "from text": (
        {"categories": [{"name": "x", "from": "car"}]},
        r"categories\[0\].from must be a list of names, got 'car'",
    ),
    "from nothing": ({"categories": [{"name": "x", "from": []}]}, r"from must be a list of names"),
    "from null": ({"categories": [{"name": "x", "from": None}]}, r"from must be a list of names"),
    "from number": (
        {"categories": [{"name": "x", "from": [3]}]},
        r"from\[0\] must be a name, got 3",
    ),
    "from unknown": (
        {"categories": [{"name": "x", "from": ["car", "busses"]}]},
        r"categories\[0\].from\[1\] 'busses' is no category of 'streets'. Did you mean 'bus'\?",
    ),
    "unknown": ({"categories": [{"name": "zzz"}]}, r"categories\[0\].name 'zzz' is no category of"),
    "long name": ({"categories": [{"name": "z" * 10**5}]}, r"name 'zzz.* is no category of"),
    "twice": (
        {"categories": [{"name": "a", "from": ["car", "bus"]}, {"name": "car"}]},
        r"categories\[1\].name 'car' is used already, by \S+map.yaml: categories\[0\].from\[0\]",
    ),
    "void twice": (
        {"categories": [{"name": "car"}], "void": ["car"]},
        r"map.yaml: void\[0\] 'car' is used already",
    ),
    "void text": ({"categories": [{"name": "car"}], "void": "sky"}, "void must be a list of names"),
    "void unknown": ({"void": ["skies"]}, r"void\[0\] 'skies' is no category"),
    "things and stuff": (
        {"categories": [{"name": "x", "from": ["car", "road"]}]},
        r"categories\[0\].isthing is missing, and its categories are both things and stuff",
    ),
    "isthing": ({"categories": [{"name": "car", "isthing": 2}]}, "isthing must be 0 or 1, got 2"),
    "isthing text": (
        {"categories": [{"name": "car", "isthing": "yes"}]},
        "isthing must be 0 or 1, got 'yes'",
    ),
    "color": (
        {"categories": [{"name": "car", "color": [1, 2]}]},
        r"categories\[0\].color must be red, green and blue of 0..255, got \[1, 2\]",
    ),
    "color range": ({"categories": [{"name": "car", "color": [1, 2, 256]}]}, "color must be red"),
    "color NaN": ("categories: [{name: car, color: [.nan, 1, 1]}]", "color must be red"),
    "one name twice": (
        {
            "categories": [{"name": "x", "from": ["car"]}, {"name": "x", "from": ["bus"]}],
            "others": "void",
        },
        "map.yaml: two categories of the result are called 'x'",
    ),
    "kept name twice": (
        {"categories": [{"name": "car", "from": ["bus"]}], "others": "keep"},
        "map.yaml: two categories of the result are called 'car'; others: keep may",
    ),
    "not all named": (
        {"categories": [{"name": "car"}], "void": ["sky"]},
        "does not name 4 categories of 'streets': 'bus', 'person', 'road', 'parking'. Name them",
    ),
}


@pytest.mark.parametrize("content, message", WRONG.values(), ids=WRONG)
def test_files_that_are_no_map(tmp_path, content, message):
    with pytest.raises(ValueError) as error:
        category_map.read(write(tmp_path, content), INFO)
    text = str(error.value)
    assert re.search(message, text), text
    assert str(tmp_path / "map.yaml") in text and len(text) < 900


@pytest.mark.parametrize("kind", converted.NO_FILE)
def test_what_is_no_file(tmp_path, kind):
    path = write(tmp_path, MAP)
    change, message = converted.NO_FILE[kind]
    change(path)
    with pytest.raises(ValueError, match=f"map.yaml: ({message})"):
        category_map.read(path, INFO)


CATS_AND_DOGS = """
categories:
- {name: ground, from: [grass]}
- {name: pet, from: [dog, cat]}
"""


def test_conversion(make_coco, tmp_path):
    coco = make_coco(3)
    path = write(tmp_path, CATS_AND_DOGS)
    (written,) = converted.convert("coco_panoptic", tmp_path / "out", map=path, **coco.paths)
    info = DatasetInfo.load(str(tmp_path / "out" / "dataset_info.json"))
    assert info.names == ("void", "ground", "pet") and info.dataset_ids == (0, 1, 2)
    assert written.source["map"] == path and len(written.fingerprint["map_sha256"]) == 64
    records = converted.read_records(tmp_path / "out")
    for number in range(3):
        found, ids = records[str(number)], coco.ids(number)
        category = np.concatenate([[0], found["segment_categories"]])[found["id_map"]]
        expected = np.select([ids == 70000, ids > 0], [1, 2], 0)
        np.testing.assert_array_equal(category, expected)
        crowd = np.concatenate([[False], found["segment_is_crowd"]])[found["id_map"]]
        np.testing.assert_array_equal(crowd, ids == 9)
    converted.check_clean(tmp_path / "out")
    # The same map again changes nothing; another one is another data set.
    converted.convert("coco_panoptic", tmp_path / "out", map=path, **coco.paths)
    write(tmp_path, CATS_AND_DOGS + "others: keep\n")
    with pytest.raises(ValueError, match="holds the split 'train' of other annotations"):
        converted.convert("coco_panoptic", tmp_path / "out", map=path, **coco.paths)


def test_conversion_with_instances(make_coco, tmp_path):
    coco = make_coco(2)
    box = [[1, 1, 6, 1, 6, 9, 1, 9]]
    instances = coco.save_instances(
        [
            {"id": 1, "image_id": 0, "category_id": 3, "segmentation": box},
            {"id": 2, "image_id": 0, "category_id": 7, "segmentation": box},
        ]
    )
    path = write(
        tmp_path, "categories: [{name: dog}, {name: cats, from: [cat], isthing: 0}]\nvoid: [grass]"
    )
    (written,) = converted.convert(
        "coco_panoptic", tmp_path / "out", map=path, instances_json=instances, **coco.paths
    )
    found = converted.read_records(tmp_path / "out")["0"]
    assert found["has_instances"] and found["instance_categories"].tolist() == [1]
    assert "num_instances" not in written.source
    converted.check_clean(tmp_path / "out")


def test_unlabelled_pixels_follow_the_new_categories(make_coco, tmp_path):
    coco = make_coco(1)
    path = write(tmp_path, "categories: [{name: cat}, {name: dog}]\nothers: void")
    converted.convert("coco_panoptic", tmp_path / "auto", map=path, **coco.paths)
    info = DatasetInfo.load(str(tmp_path / "auto" / "dataset_info.json"))
    assert info.names == ("void", "cat", "dog", "background") and info.unlabelled_id == 3
    converted.convert(
        "coco_panoptic", tmp_path / "void", map=path, unlabelled_policy="void", **coco.paths
    )
    info = DatasetInfo.load(str(tmp_path / "void" / "dataset_info.json"))
    assert info.names == ("void", "cat", "dog")
    found = converted.read_records(tmp_path / "void")["0"]
    np.testing.assert_array_equal(found["id_map"] == 0, np.isin(coco.ids(0), [0, 70000]))


def test_a_mapped_source_pickles(make_coco, tmp_path):
    coco = make_coco(1)
    source = importers.read("coco_panoptic", **coco.paths)
    mapped = category_map.apply(write(tmp_path, CATS_AND_DOGS), source)
    again = pickle.loads(pickle.dumps(mapped.read))
    expected, found = mapped.read(mapped.images[0]), again(mapped.images[0])
    assert found.segments == expected.segments
    np.testing.assert_array_equal(found.rows, expected.rows)


DOCS = (pathlib.Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def test_the_map_of_the_docs(tmp_path):
    (block,) = re.findall(r"```yaml\n(categories:.*?)```", DOCS, re.DOTALL)
    found = category_map.read(write(tmp_path, block), DatasetInfo.load("cityscapes_panoptic"))
    assert found.dataset_info.names == ("void", "vehicle", "road", "person")
    assert found.new_ids == {26: 1, 27: 1, 28: 1, 7: 2, 8: 2, 24: 3}

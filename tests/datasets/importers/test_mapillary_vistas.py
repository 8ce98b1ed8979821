"""Mapillary Vistas in its own folders: COCO panoptic format elsewhere."""

import json
import re
import shutil

import converted
import numpy as np
import pytest
from PIL import Image

from panoptic_tf.datasets import segments
from panoptic_tf.datasets.dataset_info import DatasetInfo

SIZE = (9, 13)
IDS = {"training": ["--jRsD9anHdGxv4ZOCQktA", "AbC_-1"], "validation": ["-0BhgDr"]}
CATEGORIES = [
    {"id": 3, "name": "Curb", "supercategory": "construction--barrier--curb", "isthing": 0},
    {"id": 20, "name": "Person", "supercategory": "human--person", "isthing": 1},
    {"id": 31, "name": "Vegetation", "supercategory": "nature--vegetation", "isthing": 0},
]
JSON_FILES = {"1.2": "v1.2/panoptic/panoptic_2018.json", "2.0": "v2.0/panoptic/panoptic_2020.json"}


def draw(number):
    """Vegetation, a curb, a person, a group of persons."""
    ids = np.full(SIZE, 8323328 + number, np.uint32)
    ids[-2:] = 12
    ids[2:5, 2:4] = 300
    ids[1:5, 6:9] = 70001
    ids[0, 0] = 0
    table = [(12, 3, 0), (300, 20, 0), (70001, 20, 1), (8323328 + number, 31, 0)]
    return ids, [{"id": i, "category_id": c, "iscrowd": crowd} for i, c, crowd in table]


def write(folder, json_file, stems, *, ending):
    """The annotations of a split; `ending` is that of the images in the JSON file."""
    path = folder / json_file
    path.parent.mkdir(parents=True)
    content = {"images": [], "annotations": [], "categories": CATEGORIES}
    for number, stem in enumerate(stems):
        ids, segments_info = draw(number)
        Image.fromarray(segments.id_to_rgb(ids)).save(path.parent / f"{stem}.png")
        image = {"id": stem, "file_name": stem + ending, "height": SIZE[0], "width": SIZE[1]}
        content["images"].append(image)
        content["annotations"].append(
            {"image_id": stem, "file_name": f"{stem}.png", "segments_info": segments_info}
        )
    path.write_text(json.dumps(content))


@pytest.fixture
def root(tmp_path):
    """Both versions, as the archive of 2.0 has them."""
    root = tmp_path / "vistas"
    for folder, stems in IDS.items():
        (root / folder / "images").mkdir(parents=True)
        for number, stem in enumerate(stems):
            picture = Image.new("RGB", SIZE[::-1], (number, 50, 60))
            picture.save(root / folder / "images" / f"{stem}.jpg")
        write(root / folder, JSON_FILES["1.2"], stems, ending=".jpg")
        write(root / folder, JSON_FILES["2.0"], stems, ending=".png")
    return root


def convert(root, out, version="2.0", **options):
    return converted.convert("mapillary_vistas", out, source=str(root), version=version, **options)


@pytest.mark.parametrize("version", JSON_FILES)
@pytest.mark.parametrize("split, folder", [("train", "training"), ("val", "validation")])
def test_records(root, tmp_path, version, split, folder):
    convert(root, tmp_path / "out", version, split=split)
    records = converted.read_records(tmp_path / "out")
    assert sorted(records) == sorted(IDS[folder])
    for number, stem in enumerate(IDS[folder]):
        found, (ids, segments_info) = records[stem], draw(number)
        assert found["segment_ids"].tolist() == [s["id"] for s in segments_info]
        assert found["segment_categories"].tolist() == [1, 2, 2, 3]
        assert found["segment_is_crowd"].tolist() == [False, False, True, False]
        np.testing.assert_array_equal(
            np.concatenate([[0], found["segment_ids"]])[found["id_map"]], ids
        )
        image = (root / folder / "images" / f"{stem}.jpg").read_bytes()
        assert found["image_bytes"] == image
    info = DatasetInfo.load(str(tmp_path / "out" / "dataset_info.json"))
    assert info.name == f"mapillary_vistas_{version}" and info.dataset_ids == (0, 3, 20, 31)
    converted.check_clean(tmp_path / "out", split)


def test_the_folders_of_1_2_alone(root, tmp_path):
    for folder in IDS:
        shutil.move(root / folder / "v1.2" / "panoptic", root / folder / "panoptic")
    convert(root, tmp_path / "out", "1.2", name="streets")
    assert len(converted.read_records(tmp_path / "out")) == len(IDS["training"])
    assert DatasetInfo.load(str(tmp_path / "out" / "dataset_info.json")).name == "streets"


def test_versions_are_told_apart(root, tmp_path):
    convert(root, tmp_path / "out", "1.2")
    with pytest.raises(ValueError, match="holds the split 'train' of other annotations"):
        convert(root, tmp_path / "out", "2.0")


def refuse(root, tmp_path, message, **options):
    with pytest.raises(ValueError) as error:
        convert(root, tmp_path / "out", **options)
    assert re.search(message, str(error.value)), str(error.value)
    assert len(str(error.value)) < 900


OPTIONS = {
    "version": ({"version": "2"}, r"version must be 1\.2 or 2\.0, got '2'"),
    "split": (
        {"split": "testing"},
        "split must be train or val for --format=mapillary_vistas, got",
    ),
    "large": ({"max_pixels": 100}, r"images\[0\]: height x width 9 x 13 are more than 100 pixels"),
    "on_top": ({"on_top": "later"}, "--on_top is not read by --format=mapillary_vistas"),
}


@pytest.mark.parametrize("options, message", OPTIONS.values(), ids=OPTIONS)
def test_options(root, tmp_path, options, message):
    refuse(root, tmp_path, message, **options)


def test_version_is_needed(root, tmp_path):
    with pytest.raises(ValueError, match="--format=mapillary_vistas needs --version"):
        convert(root, tmp_path / "out", version=None)


JSON = r"training/v2\.0/panoptic/panoptic_2020\.json"


def change_json(edit):
    def change(root):
        path = root / "training" / JSON_FILES["2.0"]
        content = json.loads(path.read_text())
        edit(content)
        path.write_text(json.dumps(content))

    return change


def write_text(text):
    return lambda root: (root / "training" / JSON_FILES["2.0"]).write_text(text)


def set_image(**fields):
    return change_json(lambda content: content["images"][0].update(fields))


def set_annotation(**fields):
    return change_json(lambda content: content["annotations"][0].update(fields))


def set_segment(**fields):
    return change_json(lambda content: content["annotations"][0]["segments_info"][0].update(fields))


def set_category(**fields):
    return change_json(lambda content: content["categories"][0].update(fields))


def first_image(root):
    return root / "training" / "images" / f"{IDS['training'][0]}.jpg"


def first_png(root):
    return root / "training" / "v2.0" / "panoptic" / f"{IDS['training'][0]}.png"


WRONG = {
    "no JSON file": (lambda root: shutil.rmtree(root / "training" / "v2.0"), JSON + ": no such f"),
    "no folder": (shutil.rmtree, JSON + r": no such file; .* Mapillary Vistas 2\.0\. --version"),
    "not JSON": (write_text("{"), JSON + " is not JSON"),
    "list": (write_text("[]"), JSON + ": expected a COCO panoptic JSON file, got a list"),
    "empty": (write_text(""), JSON + " is not JSON"),
    "nested": (write_text("[" * 100000), JSON + ": nested too deeply"),
    "no images": (change_json(lambda c: c.pop("images")), JSON + ": 'images' must be a list"),
    "no categories": (change_json(lambda c: c.pop("categories")), "'categories' must be a list"),
    "no annotations": (change_json(lambda c: c.pop("annotations")), "'annotations' must be a list"),
    "nothing annotated": (
        change_json(lambda c: c["annotations"].clear()),
        "there is no annotated image to convert",
    ),
    "image id": (set_image(id=None), r"images\[0\]\.id must be an integer or a non-empty string"),
    "image twice": (set_image(id="AbC_-1"), r"images\[1\]\.id 'AbC_-1' is used twice"),
    "way out": (set_image(file_name="../x.jpg"), r"images\[0\]\.file_name must stay inside"),
    "absolute": (set_image(file_name="/etc/passwd"), r"images\[0\]\.file_name must stay inside"),
    "no file name": (set_image(file_name=7), r"images\[0\]\.file_name must be a file name, got 7"),
    "height": (set_image(height=0), r"images\[0\]\.height must be an integer of 1\.\."),
    "width": (set_image(width="13"), r"images\[0\]\.width must be an integer of 1\.\."),
    "NaN": (set_image(width=float("nan")), r"images\[0\]\.width must be an integer .* got nan"),
    "huge": (set_image(width=10**30), r"images\[0\]\.width must be an integer .* got 1000000"),
    "size": (set_image(height=10), r"\.jpg: .* must be 10 x 13 \(height x width of its annotation"),
    "annotation of no image": (set_annotation(image_id="x"), "image_id 'x' is not among 'images'"),
    "PNG outside": (set_annotation(file_name="../1.png"), r"annotations\[0\]\.file_name must stay"),
    "no PNG": (set_annotation(file_name="nope.png"), r"panoptic/nope\.png: no such file"),
    "segments": (set_annotation(segments_info=None), "segments_info must be a list, got NoneType"),
    "category": (set_segment(category_id=4), r"segments_info\[0\]\.category_id 4 is not among"),
    "crowd": (set_segment(iscrowd=2), r"segments_info\[0\]\.iscrowd must be 0 or 1, got 2"),
    "segment id": (set_segment(id=13), r"segments_info lacks 1 segment id\(s\) \(12\) of the PNG"),
    "segment twice": (set_segment(id=300), r"segments_info\[1\]\.id 300 is used twice"),
    "category name": (set_category(name=""), r"categories\[0\]\.name must be a non-empty string"),
    "category id": (set_category(id=-1), r"categories\[0\]\.id must be an integer"),
    "isthing": (set_category(isthing=2), r"categories\[0\]\.isthing must be 0 or 1, got 2"),
    "no image file": (lambda root: first_image(root).unlink(), r"CQktA\.jpg: no such file, for im"),
    "damaged image": (lambda root: first_image(root).write_bytes(b"x"), r"CQktA\.jpg: cannot be d"),
    "damaged PNG": (lambda root: first_png(root).write_bytes(b"x"), r"CQktA\.png: cannot be deco"),
}


@pytest.mark.parametrize("change, message", WRONG.values(), ids=WRONG)
def test_wrong_files(root, tmp_path, change, message):
    change(root)
    refuse(root, tmp_path, message)

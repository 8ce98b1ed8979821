"""What `predict --write` leaves: read by `convert` again, pixel for pixel, and by pycocotools."""

import json
import sys
import types

import numpy as np
import pytest
from PIL import Image
from pycocotools import coco

from panoptic_tf.datasets import importers
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.serving import writers
from panoptic_tf.serving.prediction import common_folder, image_ids, unique_names
from panoptic_tf.serving.result import PanopticResult

CATEGORIES = [
    {"id": 7, "name": "cat", "isthing": 1, "color": [200, 0, 1]},
    {"id": 11, "name": "sky", "isthing": 0, "color": [0, 0, 0]},
    {"id": 30, "name": "car", "isthing": 1, "color": [3, 0, 200]},
]
# Two cats that touch, a car in two pieces with a hole, sky around, a void column.
CATEGORY = np.array(
    [
        [0, 2, 2, 2, 2, 2, 2, 2],
        [0, 1, 1, 1, 1, 2, 3, 2],
        [0, 1, 1, 1, 1, 2, 2, 2],
        [0, 2, 2, 3, 3, 3, 2, 2],
        [0, 2, 2, 3, 2, 3, 2, 2],
        [0, 2, 2, 3, 3, 3, 2, 2],
    ],
    np.int32,
)
INSTANCE = np.array(
    [
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 5, 5, 2, 2, 0, 9, 0],
        [0, 5, 5, 2, 2, 0, 0, 0],
        [0, 0, 0, 9, 9, 9, 0, 0],
        [0, 0, 0, 9, 0, 9, 0, 0],
        [0, 0, 0, 9, 9, 9, 0, 0],
    ],
    np.int32,
)
SCORES = {(1, 2): 0.5, (1, 5): 0.75, (2, 0): 1.0, (3, 9): 0.25}
SIZE = CATEGORY.shape


def info_of(categories=CATEGORIES, **extra):
    content = {"name": "drawn", "categories": categories, **extra}
    return DatasetInfo.from_json(content, source="drawn")


def predicted(info=None, **options):
    arrays = {
        "category_mask": CATEGORY,
        "instance_mask": INSTANCE,
        "segment_category": np.int32([c for c, _ in SCORES]),
        "segment_instance": np.int32([i for _, i in SCORES]),
        "segment_score": np.float32(list(SCORES.values())),
        "num_segments": np.int32(len(SCORES)),
    }
    return PanopticResult(np.full((*SIZE, 3), 90, np.uint8), arrays, info or info_of(), **options)


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", SIZE[::-1]).save(tmp_path / "photos" / f"{name}.png")
    return tmp_path / "photos"


def write(formats, photos, result, info=None, ids=("a", "b")):
    """Writes the same result for both photographs; returns the folder."""
    output = photos.parent / "out"
    for name in formats:
        writer = writers.FORMATS[name](str(output), info or info_of())
        for image_id, stem in zip(ids, "ab"):
            file_name = f"{stem}.png"
            image = writers.base.ImageFile(str(photos / file_name), file_name, stem, image_id)
            writer.check(image, result)
            writer.add(image, result)
        writer.close()
    return output


def segments_of(source):
    """Of each image, the set of (category, is crowd, mask) that a source reads."""
    found = {}
    for image in source.images:
        loaded = source.read(image)
        found[image.image_id] = {
            (s.category_id, s.is_crowd, (loaded.rows == row).tobytes())
            for row, s in enumerate(loaded.segments, start=1)
        }
    return found


def expected_segments(keys=SCORES):
    masks = {key: (CATEGORY == key[0]) & (INSTANCE == key[1]) for key in keys}
    return {
        (CATEGORIES[category - 1]["id"], False, masks[category, instance].tobytes())
        for category, instance in masks
    }


def test_convert_reads_plain_masks(photos):
    output = write(("semantic_masks", "instance_masks"), photos, predicted())
    source = importers.read(
        "semantic_and_instance_masks",
        source=str(output / "semantic_masks"),
        instance_dir=str(output / "instance_masks"),
        image_dir=str(photos),
        categories=str(output / "semantic_masks" / "categories.json"),
    )
    assert source.dataset_info.to_coco() == CATEGORIES
    assert segments_of(source) == {"a": expected_segments(), "b": expected_segments()}
    semantic = importers.read(
        "semantic_masks",
        source=str(output / "semantic_masks"),
        image_dir=str(photos),
        categories=str(output / "semantic_masks" / "categories.json"),
    )
    sky = {s for s in expected_segments() if s[0] == 11}
    assert sky < segments_of(semantic)["a"]


def test_masks_are_ids_under_a_palette_of_colors(photos):
    output = write(("semantic_masks", "instance_masks"), photos, predicted())
    with Image.open(output / "semantic_masks" / "a.png") as picture:
        assert picture.mode == "P"
        ids = np.asarray(picture)
        colors = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(ids, np.array([255, 7, 11, 30])[CATEGORY])
    np.testing.assert_array_equal(colors[1, 1], [200, 0, 1])
    assert colors[0, 0].tolist() == [1, 1, 1]  # black is a category's
    with Image.open(output / "instance_masks" / "a.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), INSTANCE)


@pytest.mark.parametrize("largest, void_id", [(254, 255), (255, 0), (256, 255), (65535, 255)])
def test_ids_of_any_width(photos, largest, void_id):
    info = info_of([*CATEGORIES[:2], {**CATEGORIES[2], "id": largest}])
    output = write(("semantic_masks",), photos, predicted(info), info)
    with Image.open(output / "semantic_masks" / "a.png") as picture:
        ids = np.asarray(picture)
    np.testing.assert_array_equal(ids, np.array([void_id, 7, 11, largest])[CATEGORY])
    content = json.loads((output / "semantic_masks" / "categories.json").read_text())
    assert content["void_id"] == void_id
    source = importers.read(
        "semantic_masks",
        source=str(output / "semantic_masks"),
        image_dir=str(photos),
        categories=str(output / "semantic_masks" / "categories.json"),
        void_ids=str(void_id),
    )
    assert {s.category_id for s in source.read(source.images[0]).segments} == {7, 11, largest}


def test_what_does_not_fit_a_mask(photos):
    info = info_of([*CATEGORIES[:2], {**CATEGORIES[2], "id": 65536}])
    with pytest.raises(ValueError, match="semantic_masks: the category id 65536 of 'drawn'"):
        write(("semantic_masks",), photos, predicted(info), info)
    result = predicted()
    result.instance_mask = INSTANCE * 10000
    with pytest.raises(ValueError, match=r"a\.png: the instance id 90000"):
        write(("instance_masks",), photos, result)


def test_what_stands_for_unlabelled_pixels_is_void(photos):
    info = info_of(unlabelled_id=11)
    output = write(("semantic_masks", "labelme", "coco_instances"), photos, predicted(info), info)
    with Image.open(output / "semantic_masks" / "a.png") as picture:
        ids = np.asarray(picture)
    np.testing.assert_array_equal(ids, np.array([255, 7, 255, 30])[CATEGORY])
    content = json.loads((output / "semantic_masks" / "categories.json").read_text())
    assert [c["id"] for c in content["categories"]] == [7, 30]
    shapes = json.loads((output / "labelme" / "a.json").read_text())["shapes"]
    assert [shape["label"] for shape in shapes] == ["cat", "cat", "car"]


def test_convert_reads_labelme(photos):
    output = write(("labelme",), photos, predicted())
    content = json.loads((output / "labelme" / "a.json").read_text())
    assert (output / "labelme" / content["imagePath"]).resolve() == photos / "a.png"
    assert content["shapes"][1]["description"] == "score 0.500"
    source = importers.read(
        "labelme", source=str(output / "labelme"), image_dir=str(photos), stuff="sky"
    )
    names = {c.dataset_id: c.name for c in source.dataset_info.categories}
    found = {(names[i], crowd, mask) for i, crowd, mask in segments_of(source)["a"]}
    ids = {c["name"]: c["id"] for c in CATEGORIES}
    assert {(ids[name], crowd, mask) for name, crowd, mask in found} == expected_segments()


def test_labels_that_were_corrected_stay(photos):
    output = write(("labelme",), photos, predicted())
    (output / "labelme" / "sub").mkdir()
    for name in ("a.json", "b.json"):
        (output / "labelme" / name).rename(output / "labelme" / "sub" / name)
    (output / "labelme" / "sub" / "a.json").write_text("corrected")
    with pytest.raises(ValueError, match="labelme/sub holds JSON files already, whose labels may"):
        write(("labelme",), photos, predicted())
    assert (output / "labelme" / "sub" / "a.json").read_text() == "corrected"


def test_paths_of_photographs_through_links(photos):
    store = photos.parent / "far" / "away"
    store.mkdir(parents=True)
    (photos.parent / "out").symlink_to(store)
    output = write(("labelme",), photos, predicted())
    content = json.loads((output / "labelme" / "a.json").read_text())
    path = (output / "labelme").resolve() / content["imagePath"]
    assert path.resolve() == photos / "a.png" and path.name == "a.png"


def test_pycocotools_and_convert_read_instances(photos, capsys):
    output = write(("coco_instances",), photos, predicted())
    truth = coco.COCO(str(output / "coco_instances.json"))
    assert [i["file_name"] for i in truth.loadImgs([1, 2])] == ["a.png", "b.png"]
    assert [c["name"] for c in truth.loadCats(truth.getCatIds())] == ["cat", "car"]
    found = truth.loadRes(str(output / "coco_instances_results.json"))
    for index in (truth, found):
        annotations = index.loadAnns(index.getAnnIds(imgIds=[1]))
        masks = {(a["category_id"], a["score"]): index.annToMask(a) for a in annotations}
        assert set(masks) == {(7, 0.5), (7, 0.75), (30, 0.25)}
        for (category, instance), score in SCORES.items():
            if instance:
                mask = masks[CATEGORIES[category - 1]["id"], score]
                np.testing.assert_array_equal(mask, INSTANCE == instance)
        assert {a["score"]: a["bbox"] for a in annotations}[0.25] == [3.0, 1.0, 4.0, 5.0]
    assert {a["score"]: a["area"] for a in truth.dataset["annotations"]}[0.25] == 9
    source = importers.read(
        "coco_instances", source=str(output / "coco_instances.json"), image_dir=str(photos)
    )
    things = [key for key in SCORES if key[1]]
    assert expected_segments(things) <= segments_of(source)[1]


def test_names_of_results(tmp_path, monkeypatch):
    assert unique_names(["x.jpg", "x.png", "a/x.png", "x_2.jpg"]) == ["x", "x_2", "a/x", "x_2_2"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "a").mkdir(parents=True)
    (tmp_path / "odd[1]").mkdir()
    for inputs, folder in [
        (["photos"], "photos"),
        (["photos/**"], "photos"),
        (["photos/**/*.jpg"], "photos"),
        (["photos/*/x.jpg"], "photos"),
        (["photos/a/x.jpg"], "photos/a"),
        (["photos/a/*", f"{tmp_path}/photos/b/"], "photos"),
        (["odd[1]/x.jpg"], "odd[1]"),
        (["x.jpg"], "."),
    ]:
        assert common_folder(inputs) == str((tmp_path / folder).resolve()), inputs


def test_ids_of_images_that_are_numbers(photos):
    assert image_ids(["000012", "7"]) == [12, 7]
    assert image_ids(["000012", "12"]) == ["000012", "12"]
    assert image_ids(["12", "a"]) == ["12", "a"] and image_ids(["9" * 30]) == ["9" * 30]
    assert image_ids(["a/000012", "b/7"]) == [12, 7] and image_ids(["a/1", "1"]) == ["a/1", "1"]
    output = write(("coco_instances", "coco_panoptic"), photos, predicted(), ids=(12, 7))
    for name in ("coco_instances.json", "predictions.json"):
        content = json.loads((output / name).read_text())
        assert [image["id"] for image in content["images"]] == [12, 7]
        assert {a["image_id"] for a in content["annotations"]} == {12, 7}


def test_an_image_without_a_segment(photos):
    empty = {"category_mask": 0 * CATEGORY, "instance_mask": 0 * INSTANCE}
    result = PanopticResult(np.zeros((*SIZE, 3), np.uint8), empty, info_of())
    output = write(writers.FORMATS, photos, result)
    content = json.loads((output / "coco_instances.json").read_text())
    assert len(content["images"]) == 2 and content["annotations"] == []
    assert json.loads((output / "labelme" / "b.json").read_text())["shapes"] == []
    assert result.to_dicts() == []


def test_a_result_without_a_score_is_as_sure_as_can_be(photos):
    masks = {"category_mask": CATEGORY, "instance_mask": INSTANCE}
    result = PanopticResult(np.zeros((*SIZE, 3), np.uint8), masks, info_of())
    output = write(("coco_instances",), photos, result)
    content = json.loads((output / "coco_instances.json").read_text())
    assert not any("score" in a for a in content["annotations"])
    results = json.loads((output / "coco_instances_results.json").read_text())
    assert len(results) == 6 and {r["score"] for r in results} == {1.0}


def test_formats_by_name():
    writers.check_formats(["labelme", "overlays"])
    with pytest.raises(ValueError, match=r"--write: formats must be of overlays, .*got 'yolo'\."):
        writers.check_formats(["labelme", "yolo"])
    with pytest.raises(ValueError, match="got none"):
        writers.check_formats([])


class Fake:
    """Keeps what it is made of."""

    def __init__(self, **fields):
        self.__dict__.update(fields)


def test_supervision(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", types.SimpleNamespace(Detections=Fake))
    detections = predicted().to_supervision()
    assert detections.class_id.tolist() == [1, 1, 2, 3]
    assert detections.data["class_name"].tolist() == ["cat", "cat", "sky", "car"]
    assert detections.data["is_thing"].tolist() == [True, True, False, True]
    assert detections.confidence.tolist() == [0.5, 0.75, 1.0, 0.25]
    assert detections.xyxy[0].tolist() == [3, 1, 5, 3]
    assert detections.xyxy[3].tolist() == [3, 1, 7, 6]
    np.testing.assert_array_equal(detections.mask[3], INSTANCE == 9)
    assert detections.mask.dtype == bool
    empty = predicted(score_threshold=1.0)
    assert empty.to_supervision().class_id.tolist() == [2]


def test_fiftyone(monkeypatch):
    names = ("Detection", "Detections", "Segmentation")
    monkeypatch.setitem(
        sys.modules, "fiftyone", types.SimpleNamespace(**dict.fromkeys(names, Fake))
    )
    labels = predicted().to_fiftyone()
    detections = labels["instances"].detections
    assert [(d.label, d.confidence) for d in detections] == [
        ("cat", 0.5),
        ("cat", 0.75),
        ("car", 0.25),
    ]
    assert detections[2].bounding_box == [3 / 8, 1 / 6, 4 / 8, 5 / 6]
    np.testing.assert_array_equal(detections[2].mask, INSTANCE[1:, 3:7] == 9)
    np.testing.assert_array_equal(labels["segmentation"].mask, CATEGORY)
    assert labels["segmentation"].mask.dtype == np.uint8


@pytest.mark.parametrize("package", ["supervision", "fiftyone"])
def test_a_package_that_is_not_installed(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"pip install {package}"):
        getattr(predicted(), f"to_{package}")()


def test_the_packages_themselves():
    supervision = pytest.importorskip("supervision")
    detections = predicted().to_supervision()
    assert isinstance(detections, supervision.Detections) and len(detections) == 4

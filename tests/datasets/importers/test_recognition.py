"""Annotations of every format are recognised by file and by folder, and nothing else is."""

import json
import os

import numpy as np
import pytest
import yaml
from PIL import Image

from panoptic_tf.datasets import importers
from panoptic_tf.datasets.importers.recognition import recognize


def write(path, content=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros([8, 8, 3], np.uint8)).save(path)


def coco(name, *, kind="segmentation", suffix=".jpg"):
    fields = {
        "segmentation": {"segmentation": [[0, 0, 4, 0, 4, 4]]},
        "segments_info": {"segments_info": [], "file_name": f"{name}.png"},
        "keypoints": {"keypoints": [1, 2, 3], "segmentation": [[0, 0, 4, 0, 4, 4]]},
        "bbox": {"bbox": [0, 0, 4, 4], "segmentation": []},
    }[kind]
    return {
        "images": [{"id": 1, "file_name": name + suffix, "height": 8, "width": 8}],
        "annotations": [{"image_id": 1, "category_id": 1, **fields}],
        "categories": [{"id": 1, "name": "cat"}],
    }


def make_yolo(root, **fields):
    content = {"train": "images/train", "val": "images/val", "names": ["cat"], **fields}
    write(root / "data.yaml", yaml.safe_dump(content))
    for split in ("train", "val"):
        picture(root / "images" / split / "1.jpg")
        write(root / "labels" / split / "1.txt", "0 0 0 0.5 0 0.5 0.5\n")


def make_labelme(root):
    for name in ("a", "b"):
        picture(root / f"{name}.jpg")
        points = [[0, 0], [4, 0], [4, 4]]
        shapes = [{"label": "cat", "points": points, "shape_type": "polygon"}]
        write(root / f"{name}.json", {"shapes": shapes, "imagePath": f"{name}.jpg"})


def make_cvat(root):
    picture(root / "images" / "1.jpg")
    write(
        root / "annotations.xml",
        '<?xml version="1.0"?>\n<annotations>\n <version>1.1</version><meta><task><labels><label>'
        '<name>cat</name></label></labels></task></meta><image id="0" name="1.jpg" width="8" '
        'height="8"><polygon label="cat" points="0,0;4,0;4,4"/></image></annotations>',
    )


def make_masks(root, *, instances=False):
    picture(root / "images" / "1.jpg")
    folders = ["masks", "instances"] if instances else ["masks"]
    for folder in folders:
        (root / folder).mkdir()
        Image.fromarray(np.ones([8, 8], np.uint8)).save(root / folder / "1.png")
    write(root / "categories.yaml", "- {id: 1, name: cat, isthing: 1}\n")


def make_coco_panoptic(root):
    for split in ("train", "val"):
        write(root / f"annotations/panoptic_{split}2017.json", coco(split, kind="segments_info"))
        write(root / f"annotations/instances_{split}2017.json", coco(split))
        write(root / f"annotations/person_{split}2017.json", coco(split, kind="keypoints"))
        picture(root / f"annotations/panoptic_{split}2017/{split}.png")
        picture(root / f"{split}2017/{split}.jpg")


def make_roboflow(root):
    for split in ("train", "valid", "test"):
        write(root / split / "_annotations.coco.json", coco(split))
        picture(root / split / f"{split}.jpg")


def make_cityscapes(root):
    for split in ("train", "val"):
        label = root / f"gtFine/{split}/x/x_0_0_gtFine_instanceIds.png"
        label.parent.mkdir(parents=True)
        Image.fromarray(np.full([8, 8], 7, np.uint16)).save(label)
        write(label.with_name("x_0_0_gtFine_polygons.json"), {"objects": []})
        picture(root / f"leftImg8bit/{split}/x/x_0_0_leftImg8bit.png")


def make_ade20k(root):
    for split in ("training", "validation"):
        picture(root / f"images/{split}/1.jpg")
        for folder in ("annotations", "annotations_instance"):
            picture(root / f"{folder}/{split}/1.png")


def make_vistas(root):
    for split in ("training", "validation"):
        picture(root / f"{split}/images/1.jpg")
        picture(root / f"{split}/v2.0/panoptic/1.png")
        write(root / f"{split}/v2.0/panoptic/panoptic_2020.json", coco("1", kind="segments_info"))


OWN = {"train": {"split": "train"}, "val": {"split": "val"}}
FOLDERS = {
    "yolo": (make_yolo, {"source": "data.yaml"}, OWN),
    "labelme": (make_labelme, {"source": "."}, {}),
    "cvat": (make_cvat, {"source": "annotations.xml"}, {}),
    "semantic_masks": (
        make_masks,
        {
            "source": "masks",
            "image_dir": "images",
            "categories": "categories.yaml",
            "things_by_components": True,
        },
        {},
    ),
    "semantic_and_instance_masks": (
        lambda root: make_masks(root, instances=True),
        {
            "source": "masks",
            "image_dir": "images",
            "categories": "categories.yaml",
            "instance_dir": "instances",
        },
        {},
    ),
    "coco_panoptic": (
        make_coco_panoptic,
        {},
        {
            split: {
                "panoptic_json": f"annotations/panoptic_{split}2017.json",
                "instances_json": f"annotations/instances_{split}2017.json",
                "image_dir": f"{split}2017",
            }
            for split in ("train", "val")
        },
    ),
    "coco_instances": (
        make_roboflow,
        {},
        {
            "train": {"source": "train/_annotations.coco.json", "image_dir": "train"},
            "val": {"source": "valid/_annotations.coco.json", "image_dir": "valid"},
        },
    ),
    "cityscapes": (make_cityscapes, {"source": "."}, OWN),
    "ade20k_panoptic": (make_ade20k, {"source": "."}, OWN),
    "mapillary_vistas": (make_vistas, {"source": ".", "version": "2.0"}, OWN),
}


def below(root, options):
    """The paths of options, made relative."""
    return {
        key: os.path.relpath(value, root) if str(value).startswith(str(root)) else value
        for key, value in options.items()
    }


def test_every_format_is_among_these():
    assert set(FOLDERS) == set(importers.FORMATS)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_is_recognised(name, tmp_path):
    make, options, splits = FOLDERS[name]
    make(tmp_path)
    for found in (recognize(str(tmp_path)), recognize(str(tmp_path), format_name=name)):
        assert found.format == name
        assert below(tmp_path, found.options) == options
        assert {k: below(tmp_path, v) for k, v in found.splits.items()} == splits
        assert found.files


@pytest.mark.parametrize(
    "name, file", [("yolo", "data.yaml"), ("cvat", "annotations.xml"), ("labelme", "a.json")]
)
def test_a_file_is_recognised(name, file, tmp_path):
    make, options, _ = FOLDERS[name]
    make(tmp_path)
    found = recognize(str(tmp_path / file))
    assert found.format == name and below(tmp_path, found.options) == options


@pytest.mark.parametrize("name", ["yolo", "labelme", "cvat", "coco_instances", "semantic_masks"])
def test_what_was_recognised_can_be_read(name, tmp_path):
    make, _, _ = FOLDERS[name]
    make(tmp_path)
    found = recognize(str(tmp_path))
    own = found.splits.get("train", {})
    source = importers.read(name, **{**found.options, "split": "train", **own})
    assert len(source.images) == (2 if name == "labelme" else 1)
    loaded = source.read(source.images[0])
    assert [segment.category_id for segment in loaded.segments]


def test_one_file_of_coco_is_one_data_set(tmp_path):
    make_coco_panoptic(tmp_path)
    found = recognize(str(tmp_path / "annotations/panoptic_val2017.json"))
    assert found.splits == {}
    assert below(tmp_path, found.options)["image_dir"] == "val2017"
    found = recognize(str(tmp_path / "annotations/instances_val2017.json"))
    assert found.format == "coco_instances"


def test_id_pngs_and_images_of_one_name_are_told_apart(tmp_path):
    write(tmp_path / "examples.json", coco("1", kind="segments_info", suffix=".png"))
    picture(tmp_path / "panoptic" / "1.png")
    picture(tmp_path / "images" / "1.png")
    found = below(tmp_path, recognize(str(tmp_path)).options)
    assert found["panoptic_dir"] == "panoptic" and found["image_dir"] == "images"


def test_a_list_of_labels_numbers_them(tmp_path):
    make_labelme(tmp_path)
    write(tmp_path / "labels.txt", "__ignore__\ncat\ndog\n")
    assert below(tmp_path, recognize(str(tmp_path)).options)["labels"] == "labels.txt"


@pytest.mark.parametrize("fields", [{"val": None}, {"val": "images/train"}])
def test_a_yolo_set_without_validation_has_no_splits(fields, tmp_path):
    make_yolo(tmp_path, **fields)
    assert recognize(str(tmp_path)).splits == {}


def test_several_formats_are_named(tmp_path):
    make_labelme(tmp_path / "drawn")
    make_cvat(tmp_path / "task")
    with pytest.raises(ValueError, match="more than one kind") as caught:
        recognize(str(tmp_path))
    assert "labelme" in str(caught.value) and "annotations.xml" in str(caught.value)
    assert recognize(str(tmp_path), format_name="cvat").format == "cvat"


def test_files_that_are_no_pair_are_named(tmp_path):
    for name in ("one", "two"):
        write(tmp_path / f"{name}.json", coco(name))
    with pytest.raises(ValueError, match="one.json\n.*two.json"):
        recognize(str(tmp_path))


def test_what_there_is_instead_is_said(tmp_path):
    picture(tmp_path / "photos" / "1.jpg")
    write(tmp_path / "notes.json", {"a": 1})
    write(tmp_path / "broken.json", "{")
    write(tmp_path / "export.zip")
    with pytest.raises(ValueError, match="no annotations were recognised") as caught:
        recognize(str(tmp_path))
    message = str(caught.value)
    assert "2 .json" in message and "1 .jpg" in message and "folders photos" in message
    assert "unpack them" in message
    assert all(f"  {name}: " in message for name in importers.FORMATS)


def test_boxes_are_said_to_be_boxes(tmp_path):
    write(tmp_path / "boxes.json", coco("1", kind="bbox"))
    with pytest.raises(ValueError, match="boxes.json: its annotations have no 'segmentation'"):
        recognize(str(tmp_path))


def test_boxes_beside_another_format_do_not_matter(tmp_path):
    make_yolo(tmp_path)
    write(tmp_path / "boxes.json", coco("1", kind="bbox"))
    assert recognize(str(tmp_path)).format == "yolo"
    with pytest.raises(ValueError, match="boxes.json: its annotations have no 'segmentation'"):
        recognize(str(tmp_path), format_name="coco_instances")


def test_one_annotation_of_keypoints_does_not_matter(tmp_path):
    content = coco("1")
    content["annotations"].append(coco("1", kind="keypoints")["annotations"][0])
    write(tmp_path / "a.json", content)
    assert recognize(str(tmp_path)).format == "coco_instances"
    write(tmp_path / "b.json", coco("1", kind="keypoints"))
    assert below(tmp_path, recognize(str(tmp_path)).options)["source"] == "a.json"


def test_links_are_followed_once(tmp_path):
    make_cvat(tmp_path / "elsewhere")
    root = tmp_path / "root"
    root.mkdir()
    (root / "task").symlink_to(tmp_path / "elsewhere")
    (root / "twice").symlink_to(tmp_path / "elsewhere")
    (root / "loop").symlink_to(tmp_path)
    (root / "a").mkdir()
    (root / "a" / "inside").symlink_to(root)
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "elsewhere")
    found = recognize(str(root))
    assert below(root, found.options) == {"source": "task/annotations.xml"}


def test_json_files_that_were_not_looked_at_are_counted(tmp_path):
    for number in range(60):
        write(tmp_path / f"{number:02}.json", {})
    write(tmp_path / "instances.json", coco("1"))
    with pytest.raises(ValueError, match=" 11 more JSON files were not looked at"):
        recognize(str(tmp_path))
    assert recognize(str(tmp_path / "instances.json")).format == "coco_instances"


def test_nothing_at_all_is_said(tmp_path):
    with pytest.raises(ValueError, match="nothing"):
        recognize(str(tmp_path))
    with pytest.raises(ValueError, match="no such file or folder"):
        recognize(str(tmp_path / "nope"))

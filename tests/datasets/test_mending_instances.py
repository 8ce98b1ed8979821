"""Annotations in COCO instances format are mended in a copy."""

import json

import pytest
from PIL import Image

from panoptic_tf.datasets import mending_instances

SQUARE = [2, 2, 10, 2, 10, 8, 2, 8]
RUNS = {"size": [12, 16], "counts": [20, 12, 160]}


def instances_file(tmp_path, annotations, **image):
    """An image of 12 x 16 pixels and its annotations."""
    (tmp_path / "images").mkdir(exist_ok=True)
    Image.new("RGB", (16, 12)).save(tmp_path / "images" / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 12, "width": 16, **image}],
        "annotations": [{"id": i, "image_id": 1, **a} for i, a in enumerate(annotations)],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return content


def mend_instances(tmp_path, **options):
    changes = mending_instances.mend_coco_instances(
        str(tmp_path / "instances.json"),
        str(tmp_path / "out"),
        image_dir=str(tmp_path / "images"),
        **options,
    )
    return changes, json.loads((tmp_path / "out" / "instances.json").read_text())


def cat(segmentation, **fields):
    return {"category_id": 1, "segmentation": segmentation, **fields}


def test_sound_instances_stay(tmp_path):
    content = instances_file(
        tmp_path,
        # Boxes and areas of polygons are fractions of pixels, and not those of the mask.
        [cat([SQUARE], area=47.3, bbox=[2.4, 1.7, 7.9, 6.2]), cat(RUNS, area=12), cat([SQUARE])],
    )
    assert mend_instances(tmp_path) == ([], content)


@pytest.mark.parametrize(
    "image, masks, is_mended",
    [
        ({"height": None, "width": None}, [[SQUARE]], True),
        ({"height": None, "width": None}, [], True),
        ({"height": None, "width": None}, [[[2, 2, 40, 2, 40, 9]]], False),
        ({"height": 16, "width": 12}, [[[2, 2, 15, 2, 15, 8]]], True),
        ({"height": 16, "width": 12}, [[SQUARE]], False),
        ({"height": 24, "width": 32}, [[SQUARE]], False),
        ({"height": 24, "width": 32}, [RUNS], True),
        ({"height": 24, "width": 32}, [], True),
        ({"height": "12", "width": 16}, [[SQUARE]], False),
    ],
)
def test_sizes_of_images(tmp_path, image, masks, is_mended):
    content = instances_file(tmp_path, [cat(mask) for mask in masks], **image)
    changes, mended = mend_instances(tmp_path)
    if is_mended:
        content["images"][0].update(height=12, width=16)
    assert mended == content and len(changes) == is_mended


def test_lines_are_dropped_before_sizes_are_looked_at(tmp_path):
    instances_file(tmp_path, [cat([SQUARE, [1, 1]], area=-1)], height=None, width=None)
    changes, mended = mend_instances(tmp_path)
    wheres = ["annotations[0].segmentation", "images[0]", "annotations[0].area"]
    assert [c.where for c in changes] == wheres
    assert (mended["images"][0]["height"], mended["annotations"][0]["area"]) == (12, 48)


@pytest.mark.parametrize("ids", [(1, 1), (1.0, None), (True, [1])])
def test_images_that_an_id_does_not_tell_apart(tmp_path, ids):
    content = instances_file(tmp_path, [cat([SQUARE], area=-1)])
    image = content["images"][0]
    content["images"] = [{**image, "id": ids[0], "width": None, "height": None}]
    content["images"].append({**image, "id": ids[1], "file_name": "b.png"})
    content["annotations"][0]["image_id"] = ids[0]
    (tmp_path / "instances.json").write_text(json.dumps(content))
    assert mend_instances(tmp_path) == ([], content)


def test_sizes_that_are_too_large_are_not_used(tmp_path, monkeypatch):
    side = 2_000_000_000
    huge = [0, 0, side, 0, side, side]
    content = instances_file(tmp_path, [cat([huge], area=-1)], height=side, width=side)
    with monkeypatch.context() as patch:
        refuse = lambda *_: pytest.fail("a mask of such a size was drawn")  # noqa: E731
        patch.setattr(mending_instances.coco_instances, "encode_segmentation", refuse)
        assert mend_instances(tmp_path) == ([], content)
    (tmp_path / "out").rename(tmp_path / "first")
    content = instances_file(tmp_path, [cat([SQUARE], area=-1)], height=None, width=None)
    assert mend_instances(tmp_path, max_pixels=12 * 16 - 1) == ([], content)


def test_the_area_of_run_lengths_has_one_outline(tmp_path):
    # The box is 2 x 12: its outline takes 2 * 14 + 4 pixels.
    instances_file(tmp_path, [cat(RUNS, area=12 + 32), cat(RUNS, area=12 + 33)])
    changes, _ = mend_instances(tmp_path)
    assert [c.where for c in changes] == ["annotations[1].area"]


def test_areas_boxes_lines_and_copies(tmp_path):
    wrong = [
        cat([SQUARE], area=-1, bbox=[0, 0, 3, 3]),
        cat([SQUARE, [1, 1], [2, 2, 5, 5]], area=float("nan"), bbox="none"),
        cat([[1, 1, 2, 2]], area=9, bbox=[0, 0, 1, 1]),  # No mask: left.
        cat(RUNS, area=500, bbox=[1, 8, 1, 12]),
    ]
    content = instances_file(tmp_path, wrong)
    content["annotations"].append(content["annotations"][0])
    (tmp_path / "instances.json").write_text(json.dumps(content))
    changes, mended = mend_instances(tmp_path)
    assert [a["id"] for a in mended["annotations"]] == [0, 1, 2, 3]
    first, second, third, fourth = mended["annotations"]
    assert (first["area"], first["bbox"]) == (second["area"], second["bbox"]) == (48, [2, 2, 8, 6])
    assert second["segmentation"] == [SQUARE]
    assert third == content["annotations"][2]
    assert fourth["area"] == 12
    assert [c.where for c in changes][0] == "annotations[4]"
    assert len(json.loads((tmp_path / "out" / "changes.json").read_text())) == len(changes)

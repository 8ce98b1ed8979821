"""Annotations are mended in a copy; what has no one right answer stays, and `doctor` reports it."""

import copy
import json
import os

import numpy as np
import pytest
from PIL import Image

from panoptic_tf.datasets import doctor, mending_instances, mending_panoptic, segments
from panoptic_tf.metrics.panoptic_quality import PanopticQuality


def listing(folder):
    """Every file below a folder, with its content or where it links to."""
    found = {}
    for root, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(root, name)
            link = os.path.islink(path)
            found[os.path.relpath(path, folder)] = (
                os.readlink(path) if link else open(path, "rb").read()
            )
    return found


def mend(coco, **options):
    """Mends; returns the changes, the mended JSON and the report of `doctor` on it."""
    before = listing(coco.save().folder)
    out = coco.folder.parent / "fixed"
    options = {**coco.paths, **options}
    changes = mending_panoptic.mend_coco_panoptic(output_dir=str(out), **options)
    assert listing(coco.folder) == before
    fixed = {**options, "panoptic_json": str(out / "panoptic.json"), "panoptic_dir": None}
    fixed["panoptic_dir"] = str(out / "panoptic")
    report = doctor.examine_coco_panoptic(**fixed, build_quality=PanopticQuality)
    assert json.loads((out / "changes.json").read_text()) == [
        json.loads(json.dumps(vars(c))) for c in changes
    ]
    return changes, json.loads((out / "panoptic.json").read_text()), report


def test_what_is_sound_stays(make_coco):
    coco = make_coco(2)
    changes, content, report = mend(coco)
    assert changes == [] and content == coco.content and report["problems"] == []
    link = coco.folder.parent / "fixed" / "panoptic" / "1.png"
    assert link.is_symlink() and link.resolve() == coco.folder / "panoptic" / "1.png"


def test_everything_at_once(make_coco):
    coco = make_coco(6)
    sound = copy.deepcopy(coco.content)
    images, annotations = coco.content["images"], coco.content["annotations"]
    del images[0]["height"], images[0]["width"]
    images[1].update(height=17, width=21)
    annotations[2]["segments_info"][1].update(area=0.5, bbox=[-1, 0, 2])
    annotations[3]["segments_info"].append({"id": 77, "category_id": 3})
    annotations[3]["segments_info"].append(dict(annotations[3]["segments_info"][0]))
    annotations.append(copy.deepcopy(annotations[4]))
    images.append(dict(images[4]))
    coco.content["categories"] = [*coco.content["categories"], coco.content["categories"][0]]
    swapped = Image.fromarray(segments.id_to_rgb(coco.ids(5))[..., ::-1])
    swapped.quantize().save(coco.folder / "panoptic" / "5.png")
    ids = [coco.ids(i) for i in range(5)]
    changes, content, report = mend(coco)
    assert content == sound and report["problems"] == [] and report["notes"] == []
    assert sorted(change.where for change in changes) == [
        "5.png",
        "annotations[2].segments_info[1].area",
        "annotations[2].segments_info[1].bbox",
        "annotations[3].segments_info[3]",
        "annotations[3].segments_info[4]",
        "annotations[6]",
        "categories[3]",
        "images[0]",
        "images[1]",
        "images[6]",
    ]
    for number, expected in enumerate(ids):
        path = coco.folder.parent / "fixed" / "panoptic" / f"{number}.png"
        np.testing.assert_array_equal(segments.rgb_to_id(np.asarray(Image.open(path))), expected)


def test_a_segment_of_id_0_that_is_all_black_pixels(make_coco):
    coco = make_coco(1)
    ids = coco.ids(0)
    table = coco.content["annotations"][0]["segments_info"]
    table.append({"id": 0, "category_id": 7, "area": int((ids == 0).sum())})
    changes, content, report = mend(coco)
    assert report["problems"] == [] and report["void_share"] == 0
    assert content["annotations"][0]["segments_info"][3]["id"] == 1
    assert [c.where for c in changes] == ["annotations[0].segments_info[3].id", "0.png"]
    path = coco.folder.parent / "fixed" / "panoptic" / "0.png"
    found = segments.rgb_to_id(np.asarray(Image.open(path)))
    np.testing.assert_array_equal(found, np.where(ids == 0, 1, ids))


def _wrong_in_both(coco):
    coco.content["images"][0]["height"] = 99
    coco.save_ids(0, coco.ids(0)[1:])
    return "must be 99 x 17"


def _unlisted_id(coco):
    ids = coco.ids(0)
    ids[0, 0] = 12345
    coco.save_ids(0, ids)
    coco.content["annotations"][0]["segments_info"].append({"id": 77, "category_id": 3})
    return "segments_info lacks 1 segment id(s) (12345) of the PNG"


def _id_0_of_another_area(coco):
    table = coco.content["annotations"][0]["segments_info"]
    table.append({"id": 0, "category_id": 7, "area": 5})
    return "Black pixels are void"


def _id_twice(coco):
    table = coco.content["annotations"][0]["segments_info"]
    table.append({**table[0], "category_id": 7})
    return "is used twice"


def _image_twice(coco):
    coco.content["images"].append({**coco.content["images"][0], "height": 3})
    return "is used twice"


def _unknown_category(coco):
    coco.content["annotations"][0]["segments_info"][0]["category_id"] = 5
    return "category_id 5 is not among"


def _two_of_one_png(coco):
    coco.content["annotations"][1]["file_name"] = "0.png"
    return "must be 21 x 17"


def _damaged(coco):
    path = coco.folder / "panoptic" / "0.png"
    path.write_bytes(path.read_bytes()[:-20])
    return "cannot be decoded"


def _escapes(coco):
    coco.content["annotations"][0]["file_name"] = "../panoptic/0.png"
    return "must stay inside"


def _no_objects(coco):
    coco.content["images"][0] = 5
    coco.content["annotations"][0] = [None]
    return "must be an object"


@pytest.mark.parametrize(
    "spoil",
    [
        _wrong_in_both,
        _unlisted_id,
        _id_0_of_another_area,
        _id_twice,
        _image_twice,
        _unknown_category,
        _two_of_one_png,
        _damaged,
        _escapes,
        _no_objects,
    ],
)
def test_what_is_not_safe_is_left_and_reported(make_coco, spoil):
    coco = make_coco(2)
    text = spoil(coco)
    before = copy.deepcopy(coco.content)
    changes, content, report = mend(coco)
    assert changes == [] and content == before
    assert any(text in problem for problem in report["problems"]), report["problems"]


def test_without_photographs_sizes_are_taken_but_not_changed(make_coco):
    coco = make_coco(2)
    images = coco.content["images"]
    images[0].update(height=None, width=None)
    images[1].update(height=5)
    changes, content, report = mend(coco, image_dir=None)
    assert [c.where for c in changes] == ["images[0]"]
    assert (content["images"][0]["height"], content["images"][1]["height"]) == (20, 5)
    assert len(report["problems"]) == 1


def test_a_turned_photograph_has_two_sizes(make_coco):
    coco = make_coco(1)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 17)).save(coco.folder / "images" / "0.jpg", exif=exif)
    coco.content["images"][0].update(height=17, width=20)
    changes, _, report = mend(coco)
    assert changes[0].after == {"height": 20, "width": 17} and report["problems"] == []


def test_a_folder_that_holds_something_is_refused(make_coco, tmp_path):
    coco = make_coco(1)
    out = tmp_path / "fixed"
    out.mkdir()
    (out / "x").touch()
    for path in (out, out / "x"):
        with pytest.raises(ValueError, match="fix_to must name a folder that is empty or does not"):
            mending_panoptic.mend_coco_panoptic(output_dir=str(path), **coco.paths)
    assert listing(out) == {"x": b""}
    (out / "x").unlink()
    mending_panoptic.mend_coco_panoptic(output_dir=str(out), **coco.paths)
    assert sorted(os.listdir(out)) == ["changes.json", "panoptic", "panoptic.json"]


def test_nothing_is_left_of_an_interrupted_run(make_coco, tmp_path, monkeypatch):
    coco = make_coco(1)
    listed = sorted(os.listdir(tmp_path))
    monkeypatch.setattr(os, "symlink", lambda *_: exec("raise KeyboardInterrupt"))
    with pytest.raises(KeyboardInterrupt):
        mending_panoptic.mend_coco_panoptic(output_dir=str(tmp_path / "fixed"), **coco.paths)
    assert sorted(os.listdir(tmp_path)) == listed


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


def mend_instances(tmp_path):
    changes = mending_instances.mend_coco_instances(
        str(tmp_path / "instances.json"), str(tmp_path / "out"), image_dir=str(tmp_path / "images")
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

"""Annotations are mended in a copy; what has no one right answer stays, and `doctor` reports it."""

import copy
import json
import os

import numpy as np
import pytest
from PIL import Image

from panoptic_tf.datasets import doctor, mending_panoptic, segments
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


def test_a_segment_of_id_0_in_a_swapped_png(make_coco):
    coco = make_coco(1)
    ids = coco.ids(0)
    table = coco.content["annotations"][0]["segments_info"]
    table.append({"id": 0, "category_id": 7, "area": int((ids == 0).sum())})
    Image.fromarray(segments.id_to_rgb(ids)[..., ::-1]).save(coco.folder / "panoptic" / "0.png")
    changes, _, report = mend(coco)
    assert report["problems"] == [] and report["notes"] == []
    assert changes[-1].where == "0.png" and changes[-1].after == "rewritten as RGB"
    path = coco.folder.parent / "fixed" / "panoptic" / "0.png"
    found = segments.rgb_to_id(np.asarray(Image.open(path)))
    np.testing.assert_array_equal(found, np.where(ids == 0, 1, ids))


def test_positions_are_those_of_the_copy(make_coco):
    coco = make_coco(1)
    ids = coco.ids(0)
    table = coco.content["annotations"][0]["segments_info"]
    table.insert(0, {"id": 77, "category_id": 3, "area": 0})
    table.insert(1, dict(table[1]))
    table[3]["area"] = 5  # The second of those with pixels: the first one and its copy precede it.
    table.append({"id": 0, "category_id": 7, "area": int((ids == 0).sum())})
    coco.content["annotations"][0]["file_name"] = "a/0.png"
    (coco.folder / "panoptic" / "a").mkdir()
    (coco.folder / "panoptic" / "0.png").rename(coco.folder / "panoptic" / "a" / "0.png")
    changes, content, report = mend(coco)
    assert report["problems"] == []
    where = "annotations[0].segments_info"
    assert [c.where for c in changes] == [
        f"{where}[2]",
        f"{where}[0]",
        f"{where}[3].id",
        "a/0.png",
        f"{where}[1].area",
    ]
    found = content["annotations"][0]["segments_info"]
    assert (found[3]["id"], found[1]["area"]) == (changes[2].after, changes[4].after)


def _all_black(coco):
    coco.save_ids(0, 0 * coco.ids(0))
    for segment in coco.content["annotations"][0]["segments_info"]:
        segment.update(area=50)
    return "the PNG lacks 3 segment id(s)"


def _all_black_without_areas(coco):
    coco.save_ids(0, 0 * coco.ids(0))
    for segment in coco.content["annotations"][0]["segments_info"]:
        segment.pop("area", None)
    return "the PNG lacks 3 segment id(s)"


def _no_pixel_but_an_area(coco):
    table = coco.content["annotations"][0]["segments_info"]
    table.append({"id": 77, "category_id": 3, "area": 50})
    table[0]["area"] = 1  # Which of PNG and JSON file is right, nothing tells.
    return "the PNG lacks 1 segment id(s) (77)"


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
        _all_black,
        _all_black_without_areas,
        _no_pixel_but_an_area,
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


def test_a_link_to_an_empty_folder(make_coco, tmp_path):
    coco = make_coco(1)
    (tmp_path / "fixed").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "fixed")
    mending_panoptic.mend_coco_panoptic(output_dir=str(tmp_path / "link"), **coco.paths)
    assert (tmp_path / "link").is_symlink()
    assert sorted(os.listdir(tmp_path / "fixed")) == ["changes.json", "panoptic", "panoptic.json"]


@pytest.mark.parametrize("name", ["changes.json", "changes.json.json", "panoptic"])
def test_names_that_the_copy_needs(make_coco, tmp_path, name):
    paths = {**make_coco(1).paths, "panoptic_json": str(tmp_path / name)}
    (tmp_path / name).write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    with pytest.raises(ValueError, match=f"{name}: its name must end in .json and not be changes"):
        mending_panoptic.mend_coco_panoptic(output_dir=str(tmp_path / "fixed"), **paths)
    assert not (tmp_path / "fixed").exists()


def test_nothing_is_left_of_an_interrupted_run(make_coco, tmp_path, monkeypatch):
    coco = make_coco(1)
    listed = sorted(os.listdir(tmp_path))
    monkeypatch.setattr(os, "symlink", lambda *_: exec("raise KeyboardInterrupt"))
    with pytest.raises(KeyboardInterrupt):
        mending_panoptic.mend_coco_panoptic(output_dir=str(tmp_path / "fixed"), **coco.paths)
    assert sorted(os.listdir(tmp_path)) == listed

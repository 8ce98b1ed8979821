"""Reading and writing the COCO panoptic format."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from panoptic_tf.datasets import coco_format, notes, segments
from panoptic_tf.datasets.coco_format import Segment


def test_read(make_coco):
    coco = make_coco(2)
    info, annotations = coco_format.read_panoptic_json(**coco.paths)
    assert info.name == "panoptic" and info.dataset_ids == (0, 3, 7, 200)
    assert [a.image_id for a in annotations] == [0, 1]
    second = annotations[1]
    assert (second.height, second.width, second.file_name) == (21, 17, "1.jpg")
    assert second.image_file == str(coco.folder / "images" / "1.jpg")
    assert second.png_file == str(coco.folder / "panoptic" / "1.png")
    assert second.segments[2] == Segment(9, 7, is_crowd=True, area=20, bbox=(12, 2, 5, 4))


def _change(*path):
    """Sets what lies at `path` (all but the last) to the last."""

    def apply(content):
        *steps, key, value = path
        for step in steps:
            content = content[step]
        if value is KeyError:
            del content[key]
        else:
            content[key] = value

    return apply


MALFORMED = {
    "no annotations": (
        _change("annotations", KeyError),
        r"panoptic\.json: 'annotations' must be a",
    ),
    "no categories": (_change("categories", []), "'categories' must be a non-empty list"),
    "image without id": (
        _change("images", 1, "id", KeyError),
        r"images\[1\]\.id must be an integer",
    ),
    "image twice": (_change("images", 1, "id", 0), r"images\[1\]\.id 0 is used twice"),
    "height": (_change("images", 0, "height", "12"), r"images\[0\]\.height must be an integer"),
    "image not object": (_change("images", 0, 5), r"images\[0\] must be an object, got int"),
    "image escapes": (
        _change("images", 0, "file_name", "a/../../b.jpg"),
        r"images\[0\]\.file_name must stay inside .*images, got 'a/\.\./\.\./b\.jpg'",
    ),
    "absolute image": (_change("images", 0, "file_name", "/etc/passwd"), "must stay inside"),
    "png escapes": (
        _change("annotations", 1, "file_name", "../b.png"),
        r"annotations\[1\]\.file_name must stay inside",
    ),
    "no png": (_change("annotations", 1, "file_name", KeyError), "must be a file name, got None"),
    "unknown image": (
        _change("annotations", 0, "image_id", 77),
        r"annotations\[0\]\.image_id 77 is not among 'images'",
    ),
    "annotation twice": (
        _change("annotations", 1, "image_id", 0),
        r"annotations\[1\]\.image_id 0 has an annotation already, annotations\[0\]",
    ),
    "no segments_info": (
        _change("annotations", 0, "segments_info", KeyError),
        r"annotations\[0\]\.segments_info must be a list, got NoneType",
    ),
    "unknown category": (
        _change("annotations", 0, "segments_info", 2, "category_id", 5),
        r"annotations\[0\]\.segments_info\[2\]\.category_id 5 is not among 'categories'",
    ),
    "repeated segment": (
        _change("annotations", 0, "segments_info", 2, "id", 300),
        r"annotations\[0\]\.segments_info\[2\]\.id 300 is used twice",
    ),
    "segment id 0": (
        _change("annotations", 0, "segments_info", 0, "id", 0),
        r"segments_info\[0\]\.id must be an integer of 1\.\.16777215, got 0",
    ),
    "segment id of 4 bytes": (
        _change("annotations", 0, "segments_info", 0, "id", 256**3),
        r"segments_info\[0\]\.id must be an integer",
    ),
    "crowd": (
        _change("annotations", 0, "segments_info", 0, "iscrowd", 2),
        r"segments_info\[0\]\.iscrowd must be 0 or 1, got 2",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_json_names_file_and_field(make_coco, case):
    change, message = MALFORMED[case]
    coco = make_coco(2)
    change(coco.content)
    coco.save()
    with pytest.raises(ValueError, match=message) as error:
        coco_format.read_panoptic_json(**coco.paths)
    assert str(coco.folder / "panoptic.json") in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "\udcff"])
def test_not_a_json_object(make_coco, text):
    coco = make_coco(1)
    path = coco.folder / "panoptic.json"
    path.write_text(text, errors="surrogateescape")
    with pytest.raises(ValueError, match=r"panoptic\.json.*expected a COCO panoptic JSON file"):
        coco_format.read_panoptic_json(**coco.paths)


def test_problems_are_collected(make_coco):
    coco = make_coco(3)
    _change("annotations", 0, "segments_info", 0, "category_id", 5)(coco.content)
    _change("images", 2, "width", 0)(coco.content)
    problems = []
    _, annotations = coco_format.read_panoptic_json(**coco.save().paths, on_problem=problems.append)
    assert [a.image_id for a in annotations] == [1]
    assert len(problems) == 3  # The category, the width, and an annotation without image.


UNREAD = {
    "area": ["385", 1.5, -1, float("nan"), float("inf"), 2**70, [], {}, True, None],
    "bbox": [
        [9.37, 9.36, 20.35, 25.34],
        [-1, 0, 5, 5],
        [float("nan")] * 4,
        [1, 2, 3],
        [1, 2, 3, "4"],
        [],
        {},
        "large",
        7,
        None,
    ],
}


@pytest.mark.parametrize(
    "key,value", [(key, value) for key, values in UNREAD.items() for value in values]
)
def test_areas_and_boxes_that_are_none_claim_nothing(make_coco, key, value):
    coco = make_coco(1)
    _change("annotations", 0, "segments_info", 2, key, value)(coco.content)
    found = notes.Notes()
    _, (annotation,) = coco_format.read_panoptic_json(**coco.save().paths, notes=found)
    assert getattr(annotation.segments[2], key) is None
    assert getattr(annotation.segments[1], key) is not None
    expected = f"1 areas or boxes are not whole numbers .*: annotations.0..segments_info.2..{key}."
    texts = found.texts()
    assert texts == [] if value is None else re.fullmatch(expected, *texts)


def test_whole_floats_are_numbers_of_pixels(make_coco):
    coco = make_coco(1)
    segment = coco.content["annotations"][0]["segments_info"][2]
    segment["area"], segment["bbox"] = 20.0, [12.0, 2, 5.0, 4]
    _, (annotation,) = coco_format.read_panoptic_json(**coco.save().paths)
    assert annotation.segments[2] == Segment(9, 7, is_crowd=True, area=20, bbox=(12, 2, 5, 4))


def test_null_is_as_good_as_missing(make_coco):
    coco = make_coco(1)
    for segment in coco.content["annotations"][0]["segments_info"]:
        segment.update(iscrowd=None, area=None, bbox=None)
    categories = [{**c, "color": None} for c in coco.content["categories"]]
    coco.content["categories"] = [{**categories[0], "isthing": None}, *categories[1:]]
    info, (annotation,) = coco_format.read_panoptic_json(**coco.save().paths)
    assert annotation.segments == (Segment(70000, 200), Segment(300, 3), Segment(9, 7))
    assert info.thing_ids == (1, 2)


def _same_image(content):
    content["images"][1]["file_name"] = "./0.jpg"


def _same_png(content):
    content["annotations"][1]["file_name"] = "0.png"


def _same_name(content):
    content["categories"] = [*content["categories"], {"id": 8, "name": "cat"}]


def _crowd_of_stuff(content):
    content["annotations"][0]["segments_info"][0]["iscrowd"] = 1


def _no_annotation(content):
    del content["annotations"][1]


ODD = {
    "two images of one file": (_same_image, "1 images have the file_name of another: image_id 1"),
    "two annotations of one PNG": (_same_png, "1 annotations have the PNG of another: image_id 1"),
    "two categories of one name": (_same_name, "1 categories have the name of another: id 8"),
    "crowd of stuff": (_crowd_of_stuff, "1 segments of stuff are crowds"),
    "no annotation": (_no_annotation, "1 images have no annotation and are left out: image_id 1"),
}


@pytest.mark.parametrize("case", ODD)
def test_what_is_legal_and_odd_is_noted(make_coco, case):
    change, text = ODD[case]
    coco = make_coco(2)
    sound, odd = notes.Notes(), notes.Notes()
    coco_format.read_panoptic_json(**coco.paths, notes=sound)
    change(coco.content)
    coco_format.read_panoptic_json(**coco.save().paths, notes=odd)
    assert sound.texts() == []
    (found,) = odd.texts()
    assert found.startswith(text)


def test_large_images_are_refused(make_coco):
    coco = make_coco(2)  # 20 x 17 and 21 x 17
    coco_format.read_panoptic_json(**coco.paths, max_pixels=21 * 17)
    with pytest.raises(ValueError, match=r"images\[1\]: height x width 21 x 17 are more than 356 "):
        coco_format.read_panoptic_json(**coco.paths, max_pixels=21 * 17 - 1)


def test_area_and_box_may_be_missing(make_coco):
    coco = make_coco(1)
    for key in ("area", "bbox", "iscrowd"):
        _change("annotations", 0, "segments_info", 2, key, KeyError)(coco.content)
    _, annotations = coco_format.read_panoptic_json(**coco.save().paths)
    assert annotations[0].segments[2] == Segment(9, 7)


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_id_map_in_other_colour_modes(tmp_path, mode):
    ids = np.array([[0, 255], [256, 70000]], np.uint32)
    Image.fromarray(segments.id_to_rgb(ids)).convert(mode, palette=1).save(tmp_path / "a.png")
    np.testing.assert_array_equal(coco_format.read_id_map(str(tmp_path / "a.png")), ids)


def test_unreadable_id_maps(tmp_path):
    path = tmp_path / "a.png"
    with pytest.raises(ValueError, match=r"a\.png: no such file; expected an RGB PNG"):
        coco_format.read_id_map(str(path))
    path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"a\.png: cannot be decoded"):
        coco_format.read_id_map(str(path))
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    with pytest.raises(ValueError, match=r"a\.png: expected an RGB PNG .*, got a PNG of mode L"):
        coco_format.read_id_map(str(path))
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"a\.png: cannot be decoded"):
        coco_format.read_id_map(str(path))


def test_predictions_need_no_images_and_no_categories(make_coco):
    coco = make_coco(3)
    info, annotations = coco_format.read_panoptic_json(**coco.paths)
    results = coco.folder / "results.json"
    listed = [
        {**a, "segments_info": [{"id": 300, "category_id": 3}]}
        for a in reversed(coco.content["annotations"])
    ]
    other = {"image_id": 99, "file_name": "99.png", "segments_info": []}
    results.write_text(json.dumps({"annotations": [other] + listed}))

    def read(wanted):
        return coco_format.read_predictions_json(
            str(results),
            predictions_dir=coco.paths["panoptic_dir"],
            dataset_info=info,
            annotations=wanted,
        )

    predictions = read(annotations)
    assert [p.image_id for p in predictions] == [0, 1, 2]
    assert predictions[1].segments == (Segment(300, 3),)
    results.write_text(json.dumps({"annotations": listed[:1]}))
    with pytest.raises(ValueError, match="lack 2 of 3 images .* the first is image_id 0"):
        read(annotations)


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"name": "cow"}, "category id 3 is 'cow', and 'cat' in the categories of 'panoptic'"),
        ({"isthing": 0}, r"category id 3 \('cat'\) is stuff, and a thing in the categories of"),
        ({"name": None, "isthing": None}, None),
        ({"id": 5}, None),
    ],
)
def test_predictions_of_other_categories(make_coco, changes, message):
    coco = make_coco(2)
    info, annotations = coco_format.read_panoptic_json(**coco.paths)
    first, *others = coco.content["categories"]
    coco.content["categories"] = [*others, {**first, **changes}]
    results = coco.folder / "results.json"
    results.write_text(json.dumps(coco.content))

    def read():
        return coco_format.read_predictions_json(
            str(results),
            predictions_dir=coco.paths["panoptic_dir"],
            dataset_info=info,
            annotations=annotations,
        )

    if message is None:
        assert len(read()) == 2
        return
    with pytest.raises(ValueError, match=r"results\.json: " + message):
        read()

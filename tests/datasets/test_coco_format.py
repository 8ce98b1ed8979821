"""Reading and writing the COCO panoptic format."""

import json

import numpy as np
import pytest
from PIL import Image

from panoptic_tf.datasets import coco_format, segments
from panoptic_tf.datasets.coco_format import Segment
from panoptic_tf.datasets.dataset_info import DatasetInfo


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
    "box": (
        _change("annotations", 0, "segments_info", 0, "bbox", [1, 2, 3]),
        r"segments_info\[0\]\.bbox must be \[x, y, width, height\]",
    ),
    "area": (
        _change("annotations", 0, "segments_info", 0, "area", -1),
        r"segments_info\[0\]\.area must be an integer",
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


INFO = DatasetInfo.from_coco(
    [
        {"id": 3, "name": "cat", "isthing": 1},
        {"id": 7, "name": "dog", "isthing": 1},
        {"id": 200, "name": "grass", "isthing": 0},
    ],
    name="pets",
)
CATEGORY_MASK = np.array([[1, 1, 0], [3, 1, 2]])
INSTANCE_MASK = np.array([[4, 4, 0], [0, 6, 9]])
CROWD = CATEGORY_MASK == 2


def _write(folder):
    with coco_format.CocoPanopticWriter(str(folder), INFO) as writer:
        writer.add(
            "a_1",
            "a_1",
            CATEGORY_MASK,
            INSTANCE_MASK,
            scores={(1, 4): 0.5, (3, 0): 0.25},
            crowd=CROWD,
        )
        writer.add(5, "b/5", 0 * CATEGORY_MASK, 0 * CATEGORY_MASK, image_file="b/5.png")
    return {
        "panoptic_json": str(folder / "predictions.json"),
        "panoptic_dir": str(folder / "predictions"),
    }


def test_writer_round_trip(tmp_path):
    info, annotations = coco_format.read_panoptic_json(**_write(tmp_path), name="pets")
    assert info == INFO
    first, second = annotations
    assert first.segments == (
        Segment(1, 3, area=2, bbox=(0, 0, 2, 1)),
        Segment(2, 3, area=1, bbox=(1, 1, 1, 1)),
        Segment(3, 7, is_crowd=True, area=1, bbox=(2, 1, 1, 1)),
        Segment(4, 200, area=1, bbox=(0, 1, 1, 1)),
    )
    np.testing.assert_array_equal(coco_format.read_id_map(first.png_file), [[1, 1, 0], [4, 2, 3]])
    assert (second.image_id, second.file_name, second.segments) == (5, "b/5.png", ())
    content = json.loads((tmp_path / "predictions.json").read_text())
    scores = [s.get("score") for s in content["annotations"][0]["segments_info"]]
    assert scores == [0.5, None, None, 0.25]


def test_writer_refuses(tmp_path):
    writer = coco_format.CocoPanopticWriter(str(tmp_path), INFO)
    writer.add(1, "1", CATEGORY_MASK, INSTANCE_MASK)
    with pytest.raises(ValueError, match="image_id 1 was added before"):
        writer.add(1, "1", CATEGORY_MASK, INSTANCE_MASK)
    with pytest.raises(ValueError, match=r"image_id 2: masks must be \[H, W\] and alike"):
        writer.add(2, "2", CATEGORY_MASK, INSTANCE_MASK[:1])
    with pytest.raises(ValueError, match=r"image_id 2: category_mask must hold 0\.\.3, got 0\.\.6"):
        writer.add(2, "2", 2 * CATEGORY_MASK, INSTANCE_MASK)
    with pytest.raises(ValueError, match="file_stem must stay inside"):
        writer.add(2, "../2", CATEGORY_MASK, INSTANCE_MASK)
    assert not (tmp_path / "predictions.json").exists()


def test_failed_writer_leaves_no_json(tmp_path):
    with pytest.raises(RuntimeError):
        with coco_format.CocoPanopticWriter(str(tmp_path), INFO) as writer:
            writer.add(1, "1", CATEGORY_MASK, INSTANCE_MASK)
            raise RuntimeError
    assert not (tmp_path / "predictions.json").exists()


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

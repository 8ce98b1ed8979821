"""LabelMe: every kind of shape, groups, order, folders, and what is wrong."""

import base64
import io
import json
import logging
import os
import pickle

import drawn
import numpy as np
import pytest
from PIL import Image

from panoptic_tf.datasets.importers import read

SIZE = (9, 12)

MAP = """
    ssssssssssss
    ssssssssssss
    .aaaa.......
    .aabbbb.....
    .aabbbb..a..
    ...bbbb..aa.
    .........a..
    .ccc........
    .ccc......d.
"""
"""Sky; a car of two parts with one group, a bus over it, a mask (c) and a circle (d)."""
CAR, BUS, MASK = (2, 1, 5, 5), (3, 3, 6, 7), (7, 1, 9, 4)
"""(top, left, bottom, right)."""
CAR_PART = np.array([[1, 0], [1, 1], [1, 0]], bool)


def corners(box):
    top, left, bottom, right = box
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def png(pixels):
    content = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()


def shape(label, points, kind="polygon", **fields):
    return {"label": label, "points": points, "shape_type": kind, "flags": {}, **fields}


SHAPES = [
    shape("sky", [[0, 0], [12.0, 2]], "rectangle", group_id=None),
    shape("car", corners(CAR), group_id=1),
    shape("car", [[9, 4], [10, 6]], "mask", group_id=1, mask=png(CAR_PART)),
    shape("bus", [[7, 6], [3, 3]], "rectangle", group_id=1, description="from below"),
    shape("car", [[1.0, 7.0], [3.0, 8.0]], "mask", mask=png(255 * np.ones([2, 3]))),
    shape("bus", [[10.5, 8.5], [10.5, 8.0]], "circle"),
    shape("wire", [[0, 0], [5, 5]], "line"),
    shape("wire", [[0, 0], [5, 5], [6, 6]], "linestrip"),
    shape("wire", [[0, 0]], "point"),
]


def document(**fields):
    return {
        "version": "5.4.1",
        "flags": {},
        "shapes": SHAPES,
        "imagePath": "a.jpg",
        "imageData": None,
        "imageHeight": SIZE[0],
        "imageWidth": SIZE[1],
        **fields,
    }


def save(path, **fields):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document(**fields)))


@pytest.fixture
def root(tmp_path):
    """Two annotated images, one in a sub-folder, and one that is not annotated."""
    root = tmp_path / "street"
    for name in ("a.jpg", "sub/b.png", "c.png"):
        drawn.save_image(root / name, SIZE)
    save(root / "a.json")
    save(root / "sub/b.json", imagePath="b.png", shapes=[], imageHeight=None, imageWidth=None)
    return root


def convert(root, tmp_path, **options):
    options = {"stuff": "sky", **options}
    return drawn.convert("labelme", tmp_path / "out", source=str(root), **options)


def test_records_are_the_drawn_truth(root, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        info, examples = convert(root, tmp_path)
    assert [(c.dataset_id, c.name, c.is_thing) for c in info.categories] == [
        (1, "bus", True),
        (2, "car", True),
        (3, "sky", False),
    ]
    assert info.name == "street" and sorted(examples) == ["a", "sub/b"]
    truth = drawn.masks(MAP)
    assert drawn.segments_of(info, examples["a"]) == drawn.expected(
        ("sky", truth["s"]),
        ("car", truth["a"]),
        ("bus", truth["b"]),
        ("car", truth["c"]),
        ("bus", truth["d"]),
    )
    whole_car = drawn.box(SIZE, *CAR)
    whole_car[4:7, 9:11] = CAR_PART
    assert drawn.instances_of(info, examples["a"]) == drawn.expected(
        ("car", whole_car),
        ("bus", drawn.box(SIZE, *BUS)),
        ("car", drawn.box(SIZE, *MASK)),
        ("bus", truth["d"]),
    )
    assert examples["a"]["file_name"] == b"a.jpg"
    assert examples["sub/b"]["file_name"] == b"sub/b.png"
    assert not len(examples["sub/b"]["segment_ids"])
    assert "3 shapes have no area (lines and points) and are left out: " in caplog.text
    assert "1 images have no JSON file and are left out: " in caplog.text


def test_without_stuff_all_labels_are_things(root, tmp_path):
    info, examples = convert(root, tmp_path, stuff=None, unlabelled_policy="auto", name="x")
    assert [c.is_thing for c in info.categories] == [True, True, True, False]
    assert info.names[-1] == "background" and info.name == "x"
    assert (examples["sub/b"]["id_map"] == 1).all()


def test_smaller_on_top(root, tmp_path):
    small = shape("bus", corners((3, 2, 4, 3)))
    save(root / "a.json", shapes=[small, shape("car", corners(CAR)), SHAPES[0]])
    whole, part = drawn.box(SIZE, *CAR), drawn.box(SIZE, 3, 2, 4, 3)
    for on_top, expected in (("smaller", [whole & ~part, part]), ("later", [whole])):
        info, examples = convert(root, tmp_path / on_top, on_top=on_top)
        found = [mask for name, mask in drawn.segments_of(info, examples["a"]) if name != "sky"]
        assert sorted(found) == sorted(mask.tobytes() for mask in expected)
        assert len(examples["a"]["instance_rles"]) == 2


def test_a_list_of_labels_numbers_them(root, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("__ignore__\n_background_\nsky\ncar\n\ntree\nbus\n")
    info, _ = convert(root, tmp_path, labels=str(labels))
    assert info.names == ("void", "sky", "car", "tree", "bus")
    for text, message in (
        ("car\nsky\n", r"a\.json: shapes\[3\]\.label 'bus' is not among .*labels\.txt"),
        ("car\nsky\ncar", r"labels\.txt: the label 'car' comes twice"),
        ("_background_", r"a\.json: shapes\[0\]\.label 'sky' is not among"),
        ("a\x07b", r"labels\.txt: label 1 must be a non-empty string, got 'a\\x07b'"),
    ):
        labels.write_text(text)
        with pytest.raises(ValueError, match=message):
            convert(root, tmp_path, labels=str(labels))
    labels.write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"labels\.txt: is no text; expected a list of labels"):
        convert(root, tmp_path, labels=str(labels))


@pytest.mark.parametrize("name", ["a.jpg", "../images/a.jpg", "..\\images\\a.jpg", "/data/a.jpg"])
def test_a_folder_of_images(root, tmp_path, name):
    images = tmp_path / "images"
    for part in ("a.jpg", "sub/b.png"):
        (images / part).parent.mkdir(exist_ok=True)
        (root / part).rename(images / part)
    save(root / "a.json", imagePath=name)
    if name != "a.jpg":
        with pytest.raises(ValueError, match=r"imagePath \(--image_dir names .*must stay inside"):
            convert(root, tmp_path)
    info, examples = convert(root, tmp_path, image_dir=str(images))
    assert sorted(examples) == ["a", "sub/b"] and info.num_categories == 3


def test_an_image_in_a_folder_below_with_a_windows_name(root, tmp_path):
    save(root / "sub.json", imagePath="sub\\b.png", shapes=[])
    os.unlink(root / "sub/b.json")
    _, examples = convert(root, tmp_path)
    assert sorted(examples) == ["a", "sub/b"]


def test_old_files_without_a_kind_and_rectangles_of_four_points(root, tmp_path):
    car = {"label": "car", "points": corners(CAR)}
    sky = shape("sky", corners((0, 0, 2, 12)), None)
    save(root / "a.json", shapes=[sky, car, shape("bus", corners(BUS), "rectangle")])
    info, examples = convert(root, tmp_path)
    assert drawn.instances_of(info, examples["a"]) == drawn.expected(
        ("car", drawn.box(SIZE, *CAR)), ("bus", drawn.box(SIZE, *BUS))
    )


def test_a_turned_photograph_is_of_the_stated_size(root, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros([SIZE[1], SIZE[0], 3], np.uint8)
    Image.fromarray(pixels).save(root / "a.jpg", exif=exif)
    info, examples = convert(root, tmp_path)
    assert examples["a"]["id_map"].shape == SIZE and len(examples["a"]["segment_ids"]) == 5


def test_fingerprints(root):
    def fingerprint(**options):
        return read("labelme", source=str(root), **options).fingerprint

    first = fingerprint()
    assert fingerprint() == first
    assert fingerprint(stuff="sky") != first
    assert fingerprint(on_top="smaller") != first
    save(root / "a.json", shapes=SHAPES[:-1])
    assert fingerprint() != first


def test_other_processes_can_read(root):
    source = pickle.loads(pickle.dumps(read("labelme", source=str(root), stuff="sky")))
    assert len(source.read(source.images[0]).segments) == 5


def wrong(**fields):
    return {"shapes": [SHAPES[0], {**SHAPES[1], **fields}]}


def wrong_mask(mask, points=((9, 4), (10, 6))):
    return wrong(shape_type="mask", points=[list(p) for p in points], mask=mask)


def damaged(pixels):
    content = bytearray(base64.b64decode(png(pixels)))
    content[-20] ^= 1
    return base64.b64encode(content).decode()


WRONG = {
    "no shapes": ({"shapes": None}, r"'shapes' must be a list; expected a LabelMe JSON file"),
    "a shape that is none": ({"shapes": [7]}, r"shapes\[0\] must be an object, got int"),
    "no label": (wrong(label=None), r"shapes\[1\]\.label must be a non-empty string, got None"),
    "an empty label": (wrong(label=""), r"shapes\[1\]\.label must be .*, got ''"),
    "a label of half a character": (wrong(label="\ud800"), r"label must be .*, got '\\ud800'"),
    "a label of two lines": (wrong(label="a\nb"), r"label must be .*, got 'a\\nb'"),
    "an unknown kind": (wrong(shape_type="spline"), r"shapes\[1\]\.shape_type must be one of poly"),
    "a kind that is a list": (wrong(shape_type=[]), r"shape_type must be one of .*, got \[\]"),
    "a group that is a fraction": (wrong(group_id=1.5), r"group_id must be an integer or .*1\.5"),
    "a group that is an object": (wrong(group_id={}), r"group_id must be .*, got \{\}"),
    "no points": (wrong(points=None), r"shapes\[1\]\.points must be a list of \[x, y\], got None"),
    "points of three": (wrong(points=[[1, 2, 3]]), r"points\[0\] must be \[x, y\], got \[1, 2, 3"),
    "points of text": (wrong(points=[["1", 2]]), r"points\[0\] must be \[x, y\], got \['1', 2\]"),
    "flat points": (wrong(points=[1, 2, 3, 4, 5, 6]), r"points\[0\] must be \[x, y\], got 1"),
    "NaN": (wrong(points=[[1, float("nan")]] * 3), r"points\[0\] must be \[x, y\], got \[1, nan"),
    "huge": (wrong(points=[[1, 10**400]] * 3), r"points\[0\] must be \[x, y\], got \[1, 1000"),
    "far": (wrong(points=[[1, 1], [2, 2], [1, 99]]), r"points: coordinates must .* -12\.\.24 .*99"),
    "two points": (wrong(points=[[1, 1], [2, 2]]), r"points must be at least 3 points, got 2"),
    "a rectangle of three": (
        wrong(shape_type="rectangle", points=[[1, 1]] * 3),
        r"shapes\[1\]\.points must be 2 or 4 points of a rectangle, got 3",
    ),
    "a circle of one": (
        wrong(shape_type="circle", points=[[1, 1]]),
        r"points must be 2 points of a circle, got 1",
    ),
    "a circle without radius": (
        wrong(shape_type="circle", points=[[1, 1]] * 2),
        r"points: radii must be positive, got \(0\.0, 0\.0\)",
    ),
    "a huge circle": (
        wrong(shape_type="circle", points=[[1, 1], [1, 500]]),
        r"points: coordinates must lie in or near the image.*got 499",
    ),
    "a mask of nothing": (wrong_mask(None), r"shapes\[1\]\.mask must be a PNG as base64 text"),
    "a mask that is no base64": (wrong_mask("*"), r"mask must be a PNG as base64 .*, got '\*'"),
    "a mask that is no PNG": (wrong_mask("AAAA"), r"mask must be a PNG as base64 text"),
    "a damaged mask": (wrong_mask(damaged(CAR_PART)), r"mask must be a PNG as base64 text"),
    "a mask of another size": (
        wrong_mask(png(np.ones([2, 2]))),
        r"mask must be 3 x 2 \(height x width between its points\), got 2 x 2",
    ),
    "a mask outside": (
        wrong_mask(png(CAR_PART), ((11, 4), (12, 6))),
        r"shapes\[1\]\.points must be the corners of a mask inside the image of 9 x 12",
    ),
    "a mask upside down": (
        wrong_mask(png(CAR_PART), ((10, 6), (9, 4))),
        r"points must be the corners of a mask inside",
    ),
    "no image path": ({"imagePath": None}, r"imagePath .* must be a file name, got None"),
    "an image path that is a list": ({"imagePath": []}, r"imagePath .* must be a file name"),
    "an image above": ({"imagePath": "../a.jpg"}, r"imagePath .* must stay inside"),
    "an absolute image": ({"imagePath": "/etc/passwd"}, r"imagePath .* must stay inside"),
    "no image": ({"imagePath": "b.jpg", "imageData": "x"}, r"b\.jpg: no such file; imageData are"),
    "a folder as image": ({"imagePath": "sub"}, r"sub: is a folder, not a file"),
    "no height": ({"imageHeight": None}, r"imageHeight must be an integer of 1\.\..*, got None"),
    "a width of text": ({"imageWidth": "12"}, r"imageWidth must be an integer .*, got '12'"),
    "a negative width": ({"imageWidth": -1}, r"imageWidth must be an integer"),
}
OF_IMAGE = {"another size": ({"imageHeight": 12, "imageWidth": 9}, r"a\.jpg: must be 12 x 9 \(hei")}


@pytest.mark.parametrize("case", [*WRONG, *OF_IMAGE])
def test_what_is_wrong_is_named(root, tmp_path, case):
    fields, message = {**WRONG, **OF_IMAGE}[case]
    save(root / "a.json", **fields)
    prefix = r"a\.json: .*" if case in WRONG else ""
    with pytest.raises(ValueError, match=prefix + message) as error:
        convert(root, tmp_path)
    assert len(str(error.value)) < 1000 and str(error.value).isprintable()


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"[]", "expected a LabelMe JSON file, got a list"),
        (b"\xff\xff", "is not JSON"),
        (b"[" * 100_000, "nested too deeply; expected a LabelMe JSON file"),
        (b'{"shapes": [{"label": ' + b"[" * 900 + b"]" * 900 + b"}]}", r"nested too|\.label must"),
        (b'{"shapes": [' + b"9" * 5000 + b"]}", r"is not JSON|must be an object"),
    ],
)
def test_no_labelme_file(root, tmp_path, content, message):
    (root / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json:? .*(" + message + ")"):
        convert(root, tmp_path)


def test_wrong_files(root, tmp_path):
    def refuses(message, **options):
        with pytest.raises(ValueError, match=message):
            convert(root, tmp_path, **options)

    refuses(
        r"stuff: 'sea' is no label of .*street; its labels are 'bus', 'car', 'sky'", stuff="sea"
    )
    refuses(r"on_top must be one of smaller, later, got 'x'", on_top="x")
    refuses(r"exif must be one of auto, stored, turned, got 'x'", exif="x")
    refuses(r"[ab]\.(jpg|png): 9 x 12 .* more than 20 pixels", max_pixels=20)
    refuses(
        r"b\.json: imagePath: .*/sub/b\.png: no such file", image_dir=str(root / "sub" / "..")
    ) if False else None
    save(root / "z.json")
    refuses(r"z\.json: imagePath is that of .*a\.json, its ending apart")
    os.unlink(root / "z.json")
    os.mkfifo(root / "z.json")
    refuses(r"z\.json: is a pipe or a device, not a file; expected a LabelMe JSON file")
    os.unlink(root / "z.json")
    os.unlink(root / "a.jpg")
    os.mkfifo(root / "a.jpg")
    refuses(r"a\.jpg: is a pipe")
    os.unlink(root / "a.json")
    refuses(r"stuff: 'sky' is no label of")
    refuses(r"street: there is no label in it", stuff="")
    os.unlink(root / "sub/b.json")
    refuses(r"street: holds no file \.json; expected a folder of LabelMe JSON files")
    with pytest.raises(ValueError, match=r"nope: No such file.*expected a folder of LabelMe JSON"):
        read("labelme", source=str(root / "nope"))

"""CVAT for images 1.1: every kind of shape, z_order, groups, and what is wrong."""

import logging
import os
import pickle
from xml.sax import saxutils

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
"""Sky; a car of two parts with one group; over it a bus, which comes first and has a higher
z_order; a box (c) and an ellipse (d)."""
CAR, BUS, BOX = (2, 1, 5, 5), (3, 3, 6, 7), (7, 1, 9, 4)
"""(top, left, bottom, right)."""
CAR_PART = np.array([[1, 0], [1, 1], [1, 0]], bool)

LABELS = """
  <labels>
    <label><name>car</name><color>#ff0080</color><type>any</type><attributes/></label>
    <label><name>bus</name><color>blue</color></label>
    <label><name>sky</name></label>
    <label><name>wheel</name><parent>car</parent></label>
    <label><name>tree</name></label>
  </labels>
"""


def polygon(label, box, **attributes):
    top, left, bottom, right = box
    points = f"{left}.00,{top}.00;{right}.00,{top}.00;{right}.00,{bottom}.00;{left}.00,{bottom}.00"
    return element("polygon", label=label, points=points, **attributes)


def element(tag, content="", **attributes):
    text = "".join(f" {key}={saxutils.quoteattr(str(v))}" for key, v in attributes.items())
    return f"<{tag}{text}>{content}</{tag}>\n"


SKY = polygon("sky", (0, 0, 2, 12), source="manual", occluded="0", z_order="-1")
SHAPES = "".join(
    [
        polygon("bus", BUS, z_order=2, group_id=1),
        element("polyline", label="car", points="1,2;3,4", z_order=0),
        polygon("car", CAR, z_order="0", group_id=1),
        element("tag", label="tree"),
        element(
            "mask",
            '<attribute name="color">red</attribute>',
            label="car",
            rle="0, 1, 1, 3, 1",
            left=9,
            top=4,
            width=2,
            height=3,
            group_id="1",
        ),
        element("box", label="car", xtl="1.0", ytl="7", xbr="4", ybr="9", group_id="0"),
        SKY,
        element("ellipse", label="bus", cx="10.5", cy="8.5", rx="0.6", ry="0.4"),
    ]
)


def image(number, name, content="", **attributes):
    attributes = {"width": SIZE[1], "height": SIZE[0], **attributes}
    return element("image", content, id=number, name=name, **attributes)


def document(*images, labels=LABELS):
    meta = f"<meta><task><id>3</id><name>x</name>{labels}</task></meta>"
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n'
        f"{meta}\n{''.join(images)}</annotations>"
    )


@pytest.fixture
def root(tmp_path):
    """Two images, one without a shape."""
    root = tmp_path / "street"
    for name in ("a.png", "sub/b.jpg"):
        drawn.save_image(root / "images" / name, SIZE)
    save(root, image(0, "a.png", SHAPES), image(7, "sub/b.jpg"))
    return root


def save(root, *images, **options):
    (root / "annotations.xml").write_text(document(*images, **options), encoding="utf-8")


def convert(root, tmp_path, **options):
    options = {"stuff": "sky, tree", **options}
    return drawn.convert("cvat", tmp_path / "out", source=str(root / "annotations.xml"), **options)


def test_records_are_the_drawn_truth(root, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        info, examples = convert(root, tmp_path)
    assert [(c.dataset_id, c.name, c.is_thing) for c in info.categories] == [
        (1, "car", True),
        (2, "bus", True),
        (3, "sky", False),
        (4, "tree", False),
    ]
    assert info.name == "street" and info.colors[1] == (255, 0, 128)
    assert sorted(examples) == [0, 7]
    truth = drawn.masks(MAP)
    assert drawn.segments_of(info, examples[0]) == drawn.expected(
        ("sky", truth["s"]),
        ("car", truth["a"]),
        ("bus", truth["b"]),
        ("car", truth["c"]),
        ("bus", truth["d"]),
    )
    whole_car = drawn.box(SIZE, *CAR)
    whole_car[4:7, 9:11] = CAR_PART
    assert drawn.instances_of(info, examples[0]) == drawn.expected(
        ("car", whole_car),
        ("bus", drawn.box(SIZE, *BUS)),
        ("car", drawn.box(SIZE, *BOX)),
        ("bus", truth["d"]),
    )
    assert examples[0]["file_name"] == b"a.png" and examples[7]["file_name"] == b"sub/b.jpg"
    assert not len(examples[7]["segment_ids"])
    assert "2 shapes have no area" in caplog.text


def test_equal_z_order_is_the_order_of_the_file(root, tmp_path):
    save(root, image(0, "a.png", polygon("bus", BUS, z_order=0) + polygon("car", CAR)))
    info, examples = convert(root, tmp_path)
    bus, car = drawn.box(SIZE, *BUS), drawn.box(SIZE, *CAR)
    assert drawn.segments_of(info, examples[0]) == drawn.expected(("car", car), ("bus", bus & ~car))


def test_smaller_on_top(root, tmp_path):
    part = (3, 2, 4, 3)
    save(root, image(0, "a.png", polygon("bus", part, z_order=0) + polygon("car", CAR, z_order=9)))
    small, whole = drawn.box(SIZE, *part), drawn.box(SIZE, *CAR)
    info, examples = convert(root, tmp_path / "smaller", on_top="smaller")
    assert drawn.segments_of(info, examples[0]) == drawn.expected(
        ("car", whole & ~small), ("bus", small)
    )
    info, examples = convert(root, tmp_path / "later", on_top="later")
    assert drawn.segments_of(info, examples[0]) == drawn.expected(("car", whole))


@pytest.mark.parametrize("degrees, expected", [(90, (1, 4, 7, 6)), (180, (3, 2, 5, 8)), (0, None)])
def test_turned_boxes(root, tmp_path, degrees, expected):
    box = element("box", label="car", xtl=2, ytl=3, xbr=8, ybr=5, rotation=f"{degrees}.00")
    save(root, image(0, "a.png", box))
    info, examples = convert(root, tmp_path)
    assert drawn.segments_of(info, examples[0]) == drawn.expected(
        ("car", drawn.box(SIZE, *(expected or (3, 2, 5, 8))))
    )


ELLIPSES = {
    0: """
        ............
        ............
        ....eeee....
        ...eeeeee...
        ...eeeeee...
        ....eeee....
        ............
        ............
        ............
    """,
    90: """
        ............
        .....ee.....
        ....eeee....
        ....eeee....
        ....eeee....
        ....eeee....
        .....ee.....
        ............
        ............
    """,
}
"""Centre (6, 4), radii 3 and 2: of the pixels with centres at +-0.5, +-1.5, +-2.5, those inside."""


@pytest.mark.parametrize("degrees", ELLIPSES)
def test_turned_ellipses(root, tmp_path, degrees):
    attributes = {"rotation": degrees} if degrees else {}
    save(
        root,
        image(0, "a.png", element("ellipse", label="car", cx=6, cy=4, rx=3, ry=2, **attributes)),
    )
    info, examples = convert(root, tmp_path)
    assert drawn.segments_of(info, examples[0]) == drawn.expected(
        ("car", drawn.masks(ELLIPSES[degrees])["e"])
    )


def test_a_turned_ellipse_turns_clockwise(root, tmp_path):
    save(
        root,
        image(0, "a.png", element("ellipse", label="car", cx=6, cy=4.5, rx=4, ry=1, rotation=45)),
    )
    _, examples = convert(root, tmp_path)
    rows = examples[0]["id_map"]
    assert rows[6, 8] == 1 and rows[2, 3] == 1 and rows[2, 8] == 0 and rows[6, 3] == 0


def test_shapes_beyond_the_border_are_cut(root, tmp_path):
    shapes = polygon("car", (-3, -2, 4, 3)) + element(
        "ellipse", label="bus", cx="12", cy="9", rx="1", ry="1"
    )
    save(root, image(0, "a.png", shapes))
    info, examples = convert(root, tmp_path)
    assert drawn.segments_of(info, examples[0]) == drawn.expected(
        ("car", drawn.box(SIZE, 0, 0, 4, 3)), ("bus", drawn.box(SIZE, 8, 11, 9, 12))
    )


def test_a_project_with_subsets_and_its_own_folder(root, tmp_path):
    images = tmp_path / "photos"
    drawn.save_image(images / "train/a.png", SIZE)
    save(root, image(0, "a.png", SHAPES, subset="train", task_id="4"))
    path = root / "annotations.xml"
    path.write_text(path.read_text().replace("task>", "project>"))
    _, examples = convert(root, tmp_path, image_dir=str(images), name="x")
    assert examples[0]["file_name"] == b"train/a.png"


def test_without_stuff_all_labels_are_things(root, tmp_path):
    info, examples = convert(root, tmp_path, stuff=None, unlabelled_policy="auto")
    assert info.names[-1] == "background" and info.num_categories == 5
    assert (examples[7]["id_map"] == 1).all()


def test_a_turned_photograph_is_of_the_stated_size(root, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros([SIZE[1], SIZE[0], 3], np.uint8)
    Image.fromarray(pixels).save(root / "images/a.png", exif=exif)
    _, examples = convert(root, tmp_path)
    assert examples[0]["id_map"].shape == SIZE and len(examples[0]["segment_ids"]) == 5


def test_a_file_of_many_blocks(root, tmp_path, monkeypatch):
    monkeypatch.setattr("panoptic_tf.datasets.importers.cvat._BLOCK", 7)
    info, examples = convert(root, tmp_path)
    assert sorted(examples) == [0, 7] and len(examples[0]["segment_ids"]) == 5


def test_fingerprints(root):
    def fingerprint(**options):
        return read("cvat", source=str(root / "annotations.xml"), **options).fingerprint

    first = fingerprint()
    assert fingerprint() == first
    assert fingerprint(stuff="sky") != first
    assert fingerprint(on_top="smaller") != first
    save(root, image(0, "a.png", SHAPES))
    assert fingerprint() != first


def test_other_processes_can_read(root):
    source = read("cvat", source=str(root / "annotations.xml"), stuff="sky")
    source = pickle.loads(pickle.dumps(source))
    assert len(source.read(source.images[0]).segments) == 5


BOMB = (
    '<!DOCTYPE lolz [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    "<annotations>&b;</annotations>"
)
EXTERNAL = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotations>&x;</annotations>'

WRONG_XML = {
    "empty": ("", r"annotations\.xml is not XML \(no element found"),
    "no XML": ("{}", r"is not XML \(syntax error|not well-formed"),
    "cut off": (document(image(0, "a.png"))[:-20], r"is not XML \("),
    "two roots": ("<annotations/><annotations/>", r"is not XML \(junk after document element"),
    "another root": ("<dataset><image/></dataset>", r"must be an element 'annotations', got 'data"),
    "an entity": (BOMB, r"has a DOCTYPE, which is not read; expected the XML of 'CVAT for images"),
    "a file as entity": (EXTERNAL, r"has a DOCTYPE, which is not read"),
    "a DOCTYPE in UTF-16": (BOMB.encode("utf-16"), r"is no UTF-8 text; expected the XML of"),
    "an entity nobody knows": ("<annotations>&x;</annotations>", r"is not XML \(undefined entity"),
    "another encoding": (
        '<?xml version="1.0" encoding="utf-16"?><annotations/>',
        r"annotations\.xml: there is no label in it",
    ),
    "a zero": ("<annotations>\0</annotations>", r"is not XML \("),
    "no meta": (
        f"<annotations>{image(0, 'a.png', SKY)}</annotations>",
        r"polygon\[0\]\.label must",
    ),
    "no label": (document(labels=""), r"annotations\.xml: there is no label in it"),
    "a label without a name": (
        document(labels="<labels><label/></labels>"),
        r"label\[0\]\.name must be a non-empty string, got None",
    ),
    "a label of two lines": (
        document(labels="<labels><label><name>a\nb</name></label></labels>"),
        r"label\[0\]\.name must be .*, got 'a\\nb'",
    ),
    "a video": (
        document('<track id="0" label="car"><box frame="0"/></track>'),
        r"has tracks, as 'CVAT for video 1\.1' does",
    ),
    "an image twice": (document(image(3, "a.png"), image(3, "b.png")), r"image id 3 comes twice"),
    "no image": (document(), r"there is no annotated image"),
}


@pytest.mark.parametrize("case", WRONG_XML)
def test_wrong_xml(root, tmp_path, case):
    content, message = WRONG_XML[case]
    path = root / "annotations.xml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as error:
        convert(root, tmp_path, stuff="")
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    "text", ["<annotations>" + "<a>" * 100_000, document(image(0, "a.png", "<polygon>" * 50_000))]
)
def test_deep_nesting(root, text):
    (root / "annotations.xml").write_text(text)
    with pytest.raises(ValueError, match=r"annotations\.xml is not XML"):
        read("cvat", source=str(root / "annotations.xml"))


def mask(**attributes):
    attributes = {"rle": "0, 6", "left": 9, "top": 4, "width": 2, "height": 3, **attributes}
    return element("mask", label="car", **attributes)


def box(**attributes):
    return element("box", **{"label": "car", "xtl": 1, "ytl": 1, "xbr": 3, "ybr": 3, **attributes})


def ellipse(**attributes):
    return element("ellipse", **{"label": "car", "cx": 3, "cy": 3, "rx": 1, "ry": 1, **attributes})


def points(text):
    return element("polygon", label="car", points=text)


WRONG_SHAPES = {
    "no label": (element("polygon", points="1,2;3,4;5,6"), r"polygon\[1\]\.label must .* got None"),
    "an unknown label": (polygon("cow", CAR), r"polygon\[1\]\.label must be one of .*, got 'cow'"),
    "a part of a skeleton": (polygon("wheel", CAR), r"label must be one of .*, got 'wheel'"),
    "an unknown kind": (element("cube", label="car"), r"expected one of polygon, .*, got 'cube'"),
    "no points": (element("polygon", label="car"), r"polygon\[1\]\.points must be x,y;x,y;.*None"),
    "empty points": (points(""), r"points must be x,y;x,y;\.\.\., got ''"),
    "points of three": (points("1,2,3;4,5,6;7,8,9"), r"points must be x,y;x,y;"),
    "points of text": (points("a,b;c,d;e,f"), r"points must be x,y;x,y;\.\.\., got 'a,b"),
    "spaces for semicolons": (points("1,2 3,4 5,6"), r"points must be x,y;x,y;"),
    "two points": (points("1,2;3,4"), r"points must be at least 3 points, got 2"),
    "NaN": (points("1,2;3,nan;4,5"), r"points: coordinates must lie in or near .*got nan"),
    "infinity": (points("1,2;3,4;inf,5"), r"points: coordinates must .*got inf"),
    "far": (
        points("1,2;3,4;5,1e9"),
        r"coordinates must .* within -12\.\.24 pixels, got 1000000000",
    ),
    "z_order of text": (polygon("car", CAR, z_order="top"), r"z_order must be a number, got 'top'"),
    "z_order NaN": (polygon("car", CAR, z_order="nan"), r"z_order must be a number, got 'nan'"),
    "a box without a side": (box(xbr=""), r"box\[0\]\.xbr must be a number, got ''"),
    "a box of text": (box(ytl="top"), r"box\[0\]\.ytl must be a number, got 'top'"),
    "a far box": (box(ybr="1e6"), r"box\[0\]: coordinates must lie in or near"),
    "a box that turns by NaN": (box(rotation="nan"), r"box\[0\]\.rotation must be a number"),
    "an ellipse without a centre": (ellipse(cx="x"), r"ellipse\[0\]\.cx must be a number, got 'x'"),
    "a flat ellipse": (ellipse(ry=0), r"ellipse\[0\]: radii must be positive, got \(1\.0, 0\.0\)"),
    "a negative ellipse": (ellipse(rx=-1), r"radii must be positive, got \(-1\.0, 1\.0\)"),
    "a huge ellipse": (ellipse(rx=1e8), r"ellipse\[0\]: coordinates must lie in or near"),
    "no runs": (element("mask", label="car", left=0, top=0, width=1, height=1), r"rle must .*None"),
    "runs of text": (mask(rle="a, b"), r"mask\[0\]\.rle must be integers with commas between"),
    "runs of fractions": (mask(rle="0, 6.5"), r"rle must be integers with commas between"),
    "huge runs": (mask(rle="9" * 5000), r"rle must be integers with commas between"),
    "runs beyond 64 bits": (mask(rle="9" * 30), r"rle must be integers with commas between"),
    "runs whose sum overflows": (mask(rle=f"{2**63 - 1}, {2**63 - 1}, 8"), r"rle must fill 3 x 2"),
    "few runs": (mask(rle="0, 5"), r"rle must fill 3 x 2 = 6 pixels, got '0, 5'"),
    "negative runs": (mask(rle="7, -1"), r"rle must fill 3 x 2 = 6 pixels"),
    "a mask outside": (
        mask(left=11),
        r"mask\[0\]: must lie inside .* 9 x 12 .*, got 3 x 2 at top 4",
    ),
    "a negative mask": (mask(top=-1), r"mask\[0\]\.top must be an integer of 0 or more, got '-1'"),
    "half a pixel": (mask(left="9.5"), r"mask\[0\]\.left must be an integer of 0 or more"),
    "an empty mask": (mask(width=0, rle="0"), r"mask\[0\]\.width must be an integer of 1 or more"),
    "a huge mask": (mask(width="1e300"), r"mask\[0\]\.width must be a number, got '1e300'"),
}


@pytest.mark.parametrize("case", WRONG_SHAPES)
def test_wrong_shapes(root, tmp_path, case):
    content, message = WRONG_SHAPES[case]
    save(root, image(0, "a.png", SKY + content))
    with pytest.raises(
        ValueError, match=r"annotations\.xml: image 'a\.png': .*" + message
    ) as error:
        convert(root, tmp_path)
    assert len(str(error.value)) < 1000


WRONG_IMAGES = {
    "no name": ({"name": ""}, r"image '': name must be a file name, got ''"),
    "a name above": ({"name": "../a.png"}, r"image '\.\./a\.png': name must stay inside"),
    "an absolute name": ({"name": "/etc/passwd"}, r"name must stay inside"),
    "a subset above": ({"name": "x.png", "subset": ".."}, r"subset must stay inside"),
    "no id": ({"id": ""}, r"image 'a\.png'\.id must be a number, got ''"),
    "an id of text": ({"id": "x"}, r"image 'a\.png'\.id must be a number, got 'x'"),
    "a fraction as id": ({"id": "0.5"}, r"\.id must be an integer of 0 or more, got '0\.5'"),
    "no height": ({"height": ""}, r"\.height must be a number, got ''"),
    "a negative width": ({"width": "-3"}, r"\.width must be an integer of 1 or more, got '-3'"),
    "another size": ({"height": 12, "width": 9}, r"a\.png: must be 12 x 9 \(height x width of its"),
    "no such image": ({"name": "b.png"}, r"images/b\.png: no such file, for image_id 0"),
}


@pytest.mark.parametrize("case", WRONG_IMAGES)
def test_wrong_images(root, tmp_path, case):
    attributes, message = WRONG_IMAGES[case]
    attributes = {"id": 0, "name": "a.png", "width": SIZE[1], "height": SIZE[0], **attributes}
    save(root, element("image", SKY, **attributes))
    with pytest.raises(ValueError, match=message):
        convert(root, tmp_path)


def test_wrong_files(root, tmp_path):
    def refuses(message, **options):
        with pytest.raises(ValueError, match=message):
            convert(root, tmp_path, **options)

    refuses(r"stuff: 'sea' is no label of .*annotations\.xml; its labels are 'car'", stuff="sea")
    refuses(r"on_top must be one of smaller, later, got 'x'", on_top="x")
    refuses(r"exif must be one of auto, stored, turned, got 'x'", exif="x")
    refuses(r"(a\.png|b\.jpg): 9 x 12 .* more than 20 pixels", max_pixels=20)
    os.unlink(root / "images/a.png")
    os.mkfifo(root / "images/a.png")
    refuses(r"a\.png: is a pipe or a device, not a file, for image_id 0")
    os.unlink(root / "annotations.xml")
    refuses(r"annotations\.xml: no such file; expected the XML of 'CVAT for images 1\.1'")
    os.mkfifo(root / "annotations.xml")
    refuses(r"annotations\.xml: is a pipe or a device, not a file; expected the XML")

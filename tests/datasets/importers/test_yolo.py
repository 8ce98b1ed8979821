"""YOLO segmentation labels: drawn rectangles, every form of data.yaml, and what is wrong."""

import logging
import os
import pickle

import drawn
import pytest
import yaml
from PIL import Image

from panoptic_tf.datasets.importers import read

SIZE = (8, 10)
NAMES = ["cat", "dog"]

FIRST = """
    ..........
    .aaaa.....
    .aabbb....
    .aabbb....
    ..........
    ..........
    .....ccccc
    .....ccccc
"""
"""A cat, 1..4 x 1..3, under the smaller dog, 3..5 x 2..3, and a second cat in the corner."""
CAT, DOG, CORNER = (1, 1, 4, 5), (2, 3, 4, 6), (6, 5, 8, 10)
"""(top, left, bottom, right)."""


def line(category, box):
    top, left, bottom, right = box
    points = [(left, top), (right, top), (right, bottom), (left, bottom)]
    numbers = [n for x, y in points for n in (x / SIZE[1], y / SIZE[0])]
    return " ".join(map(str, [category, *numbers]))


LABELS = "\n".join([line(1, DOG), line(0, CAT), line(0, CORNER)]) + "\n"


@pytest.fixture
def root(tmp_path):
    """Two images of `train`, one of which has no label, and one of `val`."""
    root = tmp_path / "pets"
    for name in ("train/a", "train/sub/b", "val/c"):
        drawn.save_image(root / "images" / f"{name}.png", SIZE)
    for name, text in (("train/a", LABELS), ("val/c", line(1, DOG))):
        path = root / "labels" / f"{name}.txt"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    save(root)
    return root


def save(root, **fields):
    content = {"train": "images/train", "val": "images/val", "names": NAMES, **fields}
    (root / "data.yaml").write_text(yaml.safe_dump(content))


def convert(root, tmp_path, **options):
    return drawn.convert("yolo", tmp_path / "out", source=str(root / "data.yaml"), **options)


def test_records_are_the_drawn_truth(root, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        info, examples = convert(root, tmp_path)
    assert [(c.dataset_id, c.name, c.is_thing) for c in info.categories] == [
        (0, "cat", True),
        (1, "dog", True),
    ]
    assert info.name == "pets"
    assert sorted(examples) == ["images/train/a", "images/train/sub/b"]
    example, truth = examples["images/train/a"], drawn.masks(FIRST)
    assert drawn.segments_of(info, example) == drawn.expected(
        ("cat", truth["a"]), ("dog", truth["b"]), ("cat", truth["c"])
    )
    assert drawn.instances_of(info, example) == drawn.expected(
        ("cat", drawn.box(SIZE, *CAT)),
        ("dog", drawn.box(SIZE, *DOG)),
        ("cat", drawn.box(SIZE, *CORNER)),
    )
    assert example["file_name"] == b"images/train/a.png"
    empty = examples["images/train/sub/b"]
    assert not len(empty["segment_ids"]) and not len(empty["instance_rles"])
    assert "1 images have no label file: all of them is background" in caplog.text


def test_what_is_unlabelled_is_background(root, tmp_path):
    info, examples = convert(root, tmp_path, unlabelled_policy="auto")
    assert [c.name for c in info.categories] == ["cat", "dog", "background"]
    assert not (examples["images/train/sub/b"]["id_map"] != 1).any()


def test_later_on_top(root, tmp_path):
    info, examples = convert(root, tmp_path, on_top="later")
    truth = drawn.masks(FIRST)
    assert drawn.segments_of(info, examples["images/train/a"]) == drawn.expected(
        ("cat", drawn.box(SIZE, *CAT)),
        ("dog", truth["b"] & ~drawn.box(SIZE, *CAT)),
        ("cat", truth["c"]),
    )


def test_a_line_that_comes_twice_counts_once(root, tmp_path):
    (root / "labels/train/a.txt").write_text(LABELS + "\n" + LABELS.replace("\n", " \r\n"))
    info, examples = convert(root, tmp_path)
    assert len(examples["images/train/a"]["instance_rles"]) == 3


def test_name_and_val(root, tmp_path):
    info, examples = convert(root, tmp_path, name="zoo", split="val")
    assert info.name == "zoo" and list(examples) == ["images/val/c"]
    assert os.path.exists(tmp_path / "out" / "val.manifest.json")


def test_shares_divide_train(root, tmp_path):
    for number in range(20):
        drawn.save_image(root / "images" / "train" / f"{number}.png", SIZE)
    _, examples = convert(root, tmp_path, split="one:0.5,two:0.5")
    assert len(examples) == 22
    assert os.path.exists(tmp_path / "out" / "two.manifest.json")


@pytest.mark.parametrize(
    "fields",
    [
        {"names": {0: "cat", 1: "dog"}, "nc": 2},
        {"path": ".", "train": ["images/train"]},
        {"train": "../images/train"},  # as Roboflow writes it
        {"train": "list.txt"},
        {"train": ["list.txt", "images/train/sub", "./images/train"]},
    ],
)
def test_forms_of_data_yaml(root, tmp_path, fields):
    (root / "list.txt").write_text("./images/train/a.png\n\nimages/train/sub/b.png\n")
    save(root, **fields)
    info, examples = convert(root, tmp_path)
    assert info.names == ("void", "cat", "dog")
    assert sorted(examples) == ["images/train/a", "images/train/sub/b"]
    assert len(examples["images/train/a"]["segment_ids"]) == 3


@pytest.mark.parametrize("option", [{}, {"image_dir": "here"}])
def test_the_folder_of_the_data_set(root, tmp_path, option):
    save(root, path="pets" if not option else "/datasets/pets")
    (root / "data.yaml").rename(tmp_path / "data.yaml")
    options = {"image_dir": str(root)} if option else {}
    info, examples = drawn.convert(
        "yolo", tmp_path / "out", source=str(tmp_path / "data.yaml"), **options
    )
    assert info.name == "pets" and len(examples) == 2


def test_labels_beside_images_of_a_folder_that_is_not_called_images(root, tmp_path):
    (root / "images/train").rename(root / "photos")
    (root / "photos/a.txt").write_text(LABELS)
    save(root, train="photos")
    _, examples = convert(root, tmp_path)
    assert len(examples["photos/a"]["segment_ids"]) == 3


def test_classes_with_gaps_keep_their_numbers(root, tmp_path):
    save(root, names={7: "cat", 3: "dog"})
    (root / "labels/train/a.txt").write_text(line(7, CAT))
    info, examples = convert(root, tmp_path)
    assert [(c.dataset_id, c.name) for c in info.categories] == [(3, "dog"), (7, "cat")]
    assert examples["images/train/a"]["segment_categories"].tolist() == [2]


def test_other_labels_or_options_are_another_fingerprint(root):
    def fingerprint(**options):
        return read("yolo", source=str(root / "data.yaml"), **options).fingerprint

    first = fingerprint()
    assert fingerprint() == first
    assert fingerprint(on_top="later") != first
    drawn.save_image(root / "images/train/new.png", SIZE)
    with_image = fingerprint()
    assert with_image != first
    (root / "labels/train/a.txt").write_text(line(1, CAT))
    assert fingerprint() != with_image


def test_turned_photographs_are_refused_unless_said(root, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = root / "images/train/a.png"
    Image.open(path).save(path, exif=exif)
    with pytest.raises(ValueError, match=r"a\.png: its EXIF orientation is 6, .*--exif=stored"):
        convert(root, tmp_path)
    _, examples = convert(root, tmp_path, exif="turned")
    assert examples["images/train/a"]["id_map"].shape == SIZE[::-1]


WRONG_YAML = {
    "no file": (None, r"data\.yaml: no such file; expected the data\.yaml of a YOLO data set"),
    "empty": ("", r"must be an object, got None"),
    "a list": ("[1, 2]", r"must be an object, got \[1, 2\]"),
    "no YAML": ("a: [", r"is not YAML \(while parsing"),
    "binary": (b"\xff\xfe\0", r"is not YAML"),
    "an object of Python": ("names: !!python/object:os.system {}", r"is not YAML \(could not det"),
    "an alias": ("names: &a [x]\nnc: *a", r"is not YAML \(the alias \*a is not read\)"),
    "nested": ("names: " + "[" * 100_000, r"is not YAML \(nested more than 20 deep\)"),
    "a value that breaks PyYAML": ("nc: !!bool x", r"is not YAML"),
    "a huge integer": ("nc: 0x" + "f" * 5000, r"is not YAML|'names' must be"),
    "no names": ("train: images/train", r"'names' must be a list of names, .*, got None"),
    "no name": ("names: []", r"'names' must be .*, got \[\]"),
    "names as text": ("names: cat", r"'names' must be .*, got 'cat'"),
    "a name that is none": ("names: [cat, 7]", r"names\[1\] must be a non-empty string, got 7"),
    "a class that is text": ("names: {a: cat}", r"classes of 'names' must be integers, got 'a'"),
    "a class that is a bool": ("names: {yes: cat}", r"classes of 'names' must be .*, got True"),
    "a negative class": ("names: {-1: cat}", r"categories\[0\]\.id must be an integer of 0"),
    "another count": ("names: [cat]\nnc: 80", r"'nc' must be 1, the number of 'names', got 80"),
    "no split": ("names: [cat]", r"'train' must be a file name, got None"),
    "a split that is a number": ("names: [a]\ntrain: 7", r"'train' must be a file name, got 7"),
    "a split of numbers": ("names: [a]\ntrain: [[]]", r"train\[0\] must be a file name, got \[\]"),
    "no entry": ("names: [a]\ntrain: []", r"'train' has no image"),
    "an absolute folder": ("names: [a]\ntrain: /etc", r"'train' must stay inside"),
    "a folder above": ("names: [a]\ntrain: ../..", r"'train' must stay inside"),
    "a folder beside": ("names: [a]\ntrain: ../other", r"'train' must stay inside"),
    "no folder": ("names: [a]\ntrain: nope", r"'train' must be a folder or a \.txt list of images"),
    "no list": ("names: [a]\ntrain: nope.txt", r"nope\.txt: no such file; expected a list of"),
    "a folder without images": ("names: [a]\ntrain: labels", r"labels: holds no file \.jpg or"),
    "an absolute path": ("names: [a]\npath: /data", r"'path' \(--image_dir names .*must stay ins"),
    "a path that is a list": ("names: [a]\npath: [a]", r"'path' .* must be a file name, got"),
    "a path that is none": ("names: [a]\npath: nope", r"'path' .*nope is no folder"),
}


@pytest.mark.parametrize("case", WRONG_YAML)
def test_wrong_data_yaml(root, case):
    content, message = WRONG_YAML[case]
    path = root / "data.yaml"
    path.unlink()
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as error:
        read("yolo", source=str(path))
    assert str(root) in str(error.value) and len(str(error.value)) < 1000


WRONG_LABELS = {
    "a box": ("0 0.5 0.5 0.2 0.2", r"line 1 is a detection label, a class and a box, not a segm"),
    "a class alone": ("0", r"line 1 must be 'class x1 y1 .*at least 6, got 0 of them"),
    "two points": ("\n0 0 0 1 1 0", r"line 2 must be .*got 5 of them"),
    "an odd number": ("0 0 0 1 1 0 1 1", r"line 1 must be .*even number .*, got 7 of them"),
    "text": ("cat 0 0 1 1 0 1", r"line 1 must be numbers .*, got 'cat 0 0 1 1 0 1'"),
    "commas": ("0,0,0,1,1,0,1", r"line 1 must be numbers"),
    "no class": ("2 0 0 1 1 0 1", r"line 1: class 2\.0 is not among 'names'"),
    "a negative class": ("-1 0 0 1 1 0 1", r"line 1: class -1\.0 is not among"),
    "half a class": ("0.5 0 0 1 1 0 1", r"line 1: class 0\.5 is not among"),
    "a class beyond all numbers": ("9" * 5000 + " 0 0 1 1 0 1", r"line 1: class inf is not among"),
    "pixels": ("0 0 0 5 0 5 5", r"line 1: coordinates are parts .* must be 0\.\.1, got 5\.0"),
    "negative": ("0 0 -0.2 1 1 0 1", r"line 1: coordinates .* got -0\.2"),
    "NaN": ("0 nan 0 1 1 0 1", r"line 1: coordinates .* got nan"),
    "infinity": ("0 0 0 1 inf 0 1", r"line 1: coordinates .* got inf"),
    "no text": (b"\xff\xfe", r"is no text; expected lines 'class x1 y1"),
    "zeros": (b"\0\0\0", r"line 1 must be numbers"),
}


@pytest.mark.parametrize("case", WRONG_LABELS)
def test_wrong_labels(root, tmp_path, case):
    content, message = WRONG_LABELS[case]
    path = root / "labels/train/a.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=r"labels/train/a\.txt: " + message) as error:
        convert(root, tmp_path)
    assert len(str(error.value)) < 1000


def test_a_label_on_the_border_may_be_a_little_outside(root, tmp_path):
    (root / "labels/train/a.txt").write_text("0 -0.005 0 1.01 0 1.01 1.005 0 1.005")
    _, examples = convert(root, tmp_path)
    assert (examples["images/train/a"]["id_map"] == 1).all()


def test_wrong_files(root, tmp_path):
    def refuses(message, **options):
        with pytest.raises(ValueError, match=message):
            convert(root, tmp_path, **options)

    refuses(r"split must be one of train, val, test for --format=yolo, got 'dev'", split="dev")
    refuses(r"'test' must be a file name, got None", split="test")
    refuses(r"on_top must be one of smaller, later, got 'first'", on_top="first")
    refuses(r"exif must be one of auto, stored, turned, got 'no'", exif="no")
    refuses(r"--stuff is not read by --format=yolo", stuff="cat")
    refuses(r"a\.png: 8 x 10 .* are more than 20 pixels", max_pixels=20)
    drawn.save_image(root / "images/train/a.jpg", SIZE)
    refuses(r"a\.(jpg|png): has the name of .*a\.(jpg|png), its ending apart")
    os.unlink(root / "images/train/a.jpg")
    save(root, train="list.txt")
    for name, message in (
        ("images/train/gone.png", r"gone\.png: no such file; it is the image or label of 'images/"),
        ("../a.png", r"list\.txt: line 2 must stay inside"),
        ("/etc/passwd", r"list\.txt: line 2 must stay inside"),
        ("a\0.png", r"list\.txt: line 2 must be a file name"),
        ("images/train", r"train: is a folder, not a file; it is the image"),
        ("images/train/" + "x" * 300, r"line 2 must be a file name of at most 255 bytes"),
    ):
        (root / "list.txt").write_text(f"images/train/a.png\n{name}\n")
        refuses(message)
    save(root)
    os.unlink(root / "labels/train/a.txt")
    os.mkfifo(root / "labels/train/a.txt")
    refuses(r"a\.txt: is a pipe or a device, not a file; it is the image or label of")
    os.unlink(root / "labels/train/a.txt")
    refuses(
        r"data\.yaml: none of the 2 images of 'train' has a label file: .*a\.png has no '\.txt'"
    )
    os.mkfifo(root / "images/train/pipe.png")
    refuses(r"pipe\.png: is a pipe")


def test_other_processes_can_read(root):
    source = pickle.loads(pickle.dumps(read("yolo", source=str(root / "data.yaml"))))
    loaded = source.read(source.images[0])
    assert len(loaded.segments) == 3 and len(loaded.instances) == 3

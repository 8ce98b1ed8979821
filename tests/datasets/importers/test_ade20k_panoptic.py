"""ADE20K from its own folders: stuff, and over it the things of another PNG."""

import logging
import re
import shutil

import converted
import numpy as np
import pytest
from PIL import Image

from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.datasets.importers import ade20k_panoptic

SIZE = (10, 14)
STEMS = {
    "training": ["ADE_train_00000001", "ADE_train_00000002"],
    "validation": ["ADE_val_00000001"],
}
INFO = DatasetInfo.load("ade20k_panoptic")
WALL, SKY, PERSON, CAR, FLAG = 1, 3, 13, 21, 150
"""Numbers in annotations/."""
BED_OF_100, PERSON_OF_100, CAR_OF_100, FLAG_OF_100 = 1, 4, 9, 100
"""The numbers of the same in annotations_instance/, from the benchmark's categoryMapping.txt."""
BED = 8


def draw():
    """A wall below the sky, two persons one over the other, a flag, a car that nobody outlined."""
    semantic = np.full(SIZE, WALL, np.uint8)
    semantic[:4] = SKY
    semantic[5:9, 1:5] = PERSON
    semantic[6:8, 9:12] = CAR
    semantic[0, 0] = 0
    instances = np.zeros((*SIZE, 3), np.uint8)
    instances[5:9, 1:3] = (PERSON_OF_100, 7, 0)
    instances[5:9, 3:6] = (PERSON_OF_100, 2, 0)  # one column more than annotations/ has
    instances[0:2, 10:14] = (FLAG_OF_100, 255, 9)
    instances[9, 9] = (CAR_OF_100, 0, 0)  # a category without a number is no instance
    return semantic, instances


def expected_pixels(semantic, instances):
    """Number in annotations/ and of the instance, pixel for pixel."""
    things = {PERSON_OF_100: PERSON, FLAG_OF_100: FLAG, BED_OF_100: BED, CAR_OF_100: CAR}
    pixels = {}
    for y, x in np.ndindex(*SIZE):
        red, green, _ = instances[y, x].tolist()
        number = int(semantic[y, x])
        if green:
            pixels[y, x] = (things[red], green)
        elif number in (WALL, SKY):
            pixels[y, x] = (number, 0)
        else:
            pixels[y, x] = (0, 0)
    return pixels


def paths(root, folder, stem):
    return {
        "image": root / "images" / folder / f"{stem}.jpg",
        "semantic": root / "annotations" / folder / f"{stem}.png",
        "instances": root / "annotations_instance" / folder / f"{stem}.png",
    }


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "ADEChallengeData2016"
    rng = np.random.default_rng(0)
    semantic, instances = draw()
    for folder, stems in STEMS.items():
        for stem in stems:
            files = paths(root, folder, stem)
            for path in files.values():
                path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (*SIZE, 3), np.uint8)).save(files["image"])
            Image.fromarray(semantic).save(files["semantic"])
            Image.fromarray(instances).save(files["instances"])
    return root


def first(root):
    return paths(root, "training", STEMS["training"][0])


def convert(root, out, **options):
    return converted.convert("ade20k_panoptic", out, source=str(root), **options)


def check_pixels(found, expected):
    """Every pixel is of the segment that it should be of, and those are as many."""
    category_of = {}
    for (y, x), (number, instance) in expected.items():
        row = found["id_map"][y, x]
        if not number:
            assert row == 0, (y, x)
            continue
        assert found["segment_categories"][row - 1] == number  # 0..149 is contiguous 1..150
        assert category_of.setdefault(row, (number, instance)) == (number, instance)
    assert sorted(category_of) == list(range(1, len(found["segment_ids"]) + 1))
    assert len(set(category_of.values())) == len(category_of)


@pytest.mark.parametrize("split, folder", [("train", "training"), ("val", "validation")])
def test_stuff_and_things(root, tmp_path, split, folder):
    convert(root, tmp_path / "out", split=split)
    records = converted.read_records(tmp_path / "out")
    assert sorted(records) == STEMS[folder]
    for stem, found in records.items():
        check_pixels(found, expected_pixels(*draw()))
        assert found["file_name"].decode() == f"{stem}.jpg"
        # Stuff by category, then instances by number.
        assert found["segment_ids"].tolist() == [WALL, SKY, 1002, 1007, 1255]
        assert not found["segment_is_crowd"].any() and not found["has_instances"]
        assert found["image_bytes"] == paths(root, folder, stem)["image"].read_bytes()
    converted.check_clean(tmp_path / "out", split)


def test_categories():
    assert INFO.num_categories == 150 and len(INFO.thing_ids) == 100
    by_id = {c.dataset_id: c for c in INFO.categories}
    assert [by_id[i].name for i in (0, 7, 12, 149)] == ["wall", "bed", "person", "flag"]
    assert [by_id[i].is_thing for i in (0, 7, 12, 149)] == [False, True, True, True]
    assert by_id[0].color == (120, 120, 120) and by_id[149].color == (92, 0, 255)
    # Some of the 100, from categoryMapping.txt: the k-th thing has the number k there.
    pairs = {1: 8, 2: 9, 3: 11, 4: 13, 9: 21, 30: 51, 49: 79, 60: 93, 65: 103, 94: 143, 100: 150}
    assert {k: INFO.thing_ids[k - 1] for k in pairs} == pairs


def test_random_images_equal_a_plain_loop(root, tmp_path):
    rng = np.random.default_rng(3)
    semantic = rng.choice([0, WALL, SKY, PERSON, CAR], SIZE).astype(np.uint8)
    instances = np.zeros((*SIZE, 3), np.uint8)
    of_instance = {0: 0, 1: PERSON_OF_100, 2: BED_OF_100, 3: PERSON_OF_100, 200: CAR_OF_100}
    green = rng.choice(list(of_instance), SIZE)
    instances[..., 1] = green
    instances[..., 0] = np.vectorize(of_instance.get)(green)
    Image.fromarray(semantic).save(first(root)["semantic"])
    Image.fromarray(instances).save(first(root)["instances"])
    convert(root, tmp_path / "out")
    found = converted.read_records(tmp_path / "out")[STEMS["training"][0]]
    check_pixels(found, expected_pixels(semantic, instances))
    converted.check_clean(tmp_path / "out")


def test_stuff_that_things_cover_is_no_segment(root, tmp_path):
    semantic, instances = draw()
    semantic[:] = WALL
    semantic[0:2, 10:14] = SKY
    Image.fromarray(semantic).save(first(root)["semantic"])
    convert(root, tmp_path / "out")
    found = converted.read_records(tmp_path / "out")[STEMS["training"][0]]
    assert SKY not in found["segment_ids"] and 1255 in found["segment_ids"]
    converted.check_clean(tmp_path / "out")


def test_an_image_that_is_all_void(root, tmp_path):
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(first(root)["semantic"])
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(first(root)["instances"])
    convert(root, tmp_path / "out")
    found = converted.read_records(tmp_path / "out")[STEMS["training"][0]]
    assert not found["id_map"].any() and not len(found["segment_ids"])


def test_a_palette_changes_no_number(root, tmp_path):
    semantic, instances = draw()
    picture = Image.fromarray(semantic, "P")
    picture.putpalette([v for c in INFO.colors for v in c])
    picture.save(first(root)["semantic"])
    convert(root, tmp_path / "out", name="mine")
    found = converted.read_records(tmp_path / "out")[STEMS["training"][0]]
    check_pixels(found, expected_pixels(semantic, instances))
    assert DatasetInfo.load(str(tmp_path / "out" / "dataset_info.json")).name == "mine"


def test_an_exif_orientation_is_measured_by_the_labels(root, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", SIZE).save(first(root)["image"], exif=exif)
    convert(root, tmp_path / "out")
    found = converted.read_records(tmp_path / "out")[STEMS["training"][0]]
    check_pixels(found, expected_pixels(*draw()))
    with pytest.raises(ValueError, match="00000001.jpg: must be 10 x 14"):
        convert(root, tmp_path / "stored", exif="stored")


def test_annotations_without_image_are_noted(root, caplog):
    first(root)["image"].unlink()
    with caplog.at_level(logging.WARNING):
        source = ade20k_panoptic.read_ade20k_panoptic(str(root))
    assert [image.image_id for image in source.images] == STEMS["training"][1:]
    assert "1 annotations have no image and are left out: ADE_train_00000001.png" in caplog.text


def refuse(root, tmp_path, message, **options):
    with pytest.raises(ValueError) as error:
        convert(root, tmp_path / "out", **options)
    assert re.search(message, str(error.value)), str(error.value)
    assert len(str(error.value)) < 700


NAMES = {
    "image": r"images/training/ADE_train_00000001\.jpg: ",
    "semantic": r"annotations/training/ADE_train_00000001\.png: ",
    "instances": r"annotations_instance/training/ADE_train_00000001\.png: ",
}


@pytest.mark.parametrize("kind", converted.DAMAGE)
@pytest.mark.parametrize("which", ["semantic", "instances"])
def test_damaged_labels(root, tmp_path, which, kind):
    message = converted.damage(first(root)[which], kind)
    if (which, kind) == ("semantic", "another size"):
        refuse(root, tmp_path, NAMES["image"] + r"must be 10 x 28 \(height x width of its annot")
    else:
        refuse(root, tmp_path, NAMES[which] + f".*({message})")


@pytest.mark.parametrize(
    "which, kind",
    # Labels whose image is missing are only noted.
    [(w, k) for w in NAMES for k in converted.NO_FILE if (w, k) != ("image", "missing")],
)
def test_what_is_no_file(root, tmp_path, which, kind):
    change, message = converted.NO_FILE[kind]
    change(first(root)[which])
    refuse(root, tmp_path, NAMES[which] + f"({message})")


def set_semantic(value):
    def change(semantic, instances):
        semantic[3, 4] = value

    return "semantic", change


def set_instance(*color, y=3, x=4):
    def change(semantic, instances):
        instances[y, x] = color

    return "instances", change


WRONG = {
    "category 151": (set_semantic(151), r"must be 0\.\.150, got 151; .* at \(y, x\) = \(3, 4\)"),
    "category 255": (set_semantic(255), r"must be 0\.\.150, got 255"),
    "instance of no category": (
        set_instance(0, 5, 0),
        r"the category \(red\) of instance 5 \(green\) must be 1\.\.100, got 0 at \(y, x\) = \(3, ",
    ),
    "instance of category 101": (set_instance(101, 5, 0), r"must be 1\.\.100, got 101 at"),
    "instance of category 255": (set_instance(255, 5, 0), r"must be 1\.\.100, got 255 at"),
    "two categories": (
        set_instance(CAR_OF_100, 7, 0),
        r"instance 7 \(green\) must be of one category \(red\), got 4 and 9",
    ),
}


@pytest.mark.parametrize("which_and_change, message", WRONG.values(), ids=WRONG)
def test_wrong_numbers(root, tmp_path, which_and_change, message):
    which, change = which_and_change
    semantic, instances = draw()
    change(semantic, instances)
    Image.fromarray(semantic).save(first(root)["semantic"])
    Image.fromarray(instances).save(first(root)["instances"])
    refuse(root, tmp_path, NAMES[which] + ".*" + message)


def grey_instances(root):
    Image.fromarray(draw()[1][..., 0]).save(first(root)["instances"])


def deep_labels(root):
    Image.fromarray(draw()[0].astype(np.uint16)).save(first(root)["semantic"])


def colored_labels(root):
    Image.fromarray(draw()[1]).save(first(root)["semantic"])


def no_images(root):
    for path in (root / "images" / "training").iterdir():
        path.unlink()


LAYOUTS = {
    "no images": (no_images, "images/training: has no images, which end in .jpg"),
    "no folder of images": (
        lambda root: shutil.rmtree(root / "images"),
        r"images/training: No such file or directory; expected images/<split>/\*\.jpg of ADEChal",
    ),
    "no instances": (
        lambda root: shutil.rmtree(root / "annotations_instance"),
        NAMES["instances"] + "no such file; expected labels of ADEChallengeData2016",
    ),
    "no annotations": (
        lambda root: shutil.rmtree(root / "annotations"),
        NAMES["semantic"] + "no such file",
    ),
    "nothing": (shutil.rmtree, "images/training: No such file or directory"),
    "grey instances": (grey_instances, NAMES["instances"] + "must be a PNG of 8-bit RGB, got 8-b"),
    "16-bit labels": (deep_labels, NAMES["semantic"] + "must be a PNG of .*, got 16-bit grey"),
    "labels of colours": (colored_labels, NAMES["semantic"] + "must be a PNG of .*, got 8-bit RGB"),
    "unprintable": (
        lambda root: first(root)["image"].rename(root / "images" / "training" / "a\nb.jpg"),
        r"images/training: has a file whose name cannot be printed, 'a\\nb\.jpg'",
    ),
}


@pytest.mark.parametrize("change, message", LAYOUTS.values(), ids=LAYOUTS)
def test_folders(root, tmp_path, change, message):
    change(root)
    refuse(root, tmp_path, message)


OPTIONS = {
    "test": ({"split": "test"}, "split must be train or val for --format=ade20k_panoptic, got 'te"),
    "training": ({"split": "training"}, "split must be train or val .*, got 'training'"),
    "large": ({"max_pixels": 100}, NAMES["image"] + r"10 x 14 .* are more than 100 pixels"),
    "version": ({"version": "1"}, "--version is not read by --format=ade20k_panoptic"),
}


@pytest.mark.parametrize("options, message", OPTIONS.values(), ids=OPTIONS)
def test_options(root, tmp_path, options, message):
    refuse(root, tmp_path, message, **options)

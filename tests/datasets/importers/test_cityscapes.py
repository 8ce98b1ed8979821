"""Cityscapes from its own folders: the records of createPanopticImgs and `coco_panoptic`."""

import json
import logging
import re
import shutil

import converted
import numpy as np
import pytest
from PIL import Image

from panoptic_tf.datasets import segments
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.datasets.importers import cityscapes

SIZE = (12, 16)
IMAGES = {
    "train": [("aachen", "aachen_000000_000019"), ("bochum", "bochum_000000_000313")],
    "val": [("lindau", "lindau_000001_000019")],
}
INFO = DatasetInfo.load("cityscapes_panoptic")
IGNORED = {0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30}
"""Label ids that the evaluation ignores, as the table in cityscapesScripts lists them."""


def draw_ids(seed):
    """Roads, sky, people with and without a number, a caravan, and what is ignored."""
    rng = np.random.default_rng(seed)
    ids = np.full(SIZE, 7, np.uint16)
    ids[:4] = 23
    ids[-1] = 1
    squares = (24, 24000, 24001, 26, 26012, 33001, 29001, 9, 3)
    for value in rng.permutation(squares):
        y, x = rng.integers(0, SIZE[0] - 3), rng.integers(0, SIZE[1] - 4)
        ids[y : y + 3, x : x + 4] = value
    ids[5, 5], ids[5, 6], ids[5, 7] = 24, 24000, 29001  # whatever the others covered
    return ids


def label_file(root, split, city, stem):
    return root / "gtFine" / split / city / f"{stem}_gtFine_instanceIds.png"


def image_file(root, split, city, stem):
    return root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png"


@pytest.fixture
def root(tmp_path):
    """A folder as the two archives of Cityscapes give it."""
    root = tmp_path / "cityscapes"
    rng = np.random.default_rng(0)
    for split, listed in IMAGES.items():
        for number, (city, stem) in enumerate(listed):
            labels, image = label_file(root, split, city, stem), image_file(root, split, city, stem)
            labels.parent.mkdir(parents=True, exist_ok=True)
            image.parent.mkdir(parents=True, exist_ok=True)
            ids = draw_ids(number)
            Image.fromarray(ids).save(labels)
            Image.fromarray((ids % 1000).astype(np.uint8)).save(
                labels.with_name(f"{stem}_gtFine_labelIds.png")
            )
            Image.fromarray(rng.integers(0, 256, (*SIZE, 3), np.uint8)).save(image)
    return root


def create_panoptic_images(root, split, folder):
    """What createPanopticImgs writes, by a plain loop over the segments."""
    (folder / "png").mkdir(parents=True)
    things = {c.dataset_id for c in INFO.categories if c.is_thing}
    content = {"images": [], "annotations": [], "categories": INFO.to_coco()}
    for city, stem in IMAGES[split]:
        ids = np.asarray(Image.open(label_file(root, split, city, stem))).astype(np.uint32)
        segments_info = []
        for value in np.unique(ids).tolist():
            label = value if value < 1000 else value // 1000
            if label in IGNORED:
                ids[ids == value] = 0
                continue
            is_crowd = int(value < 1000 and label in things)
            segments_info.append({"id": value, "category_id": label, "iscrowd": is_crowd})
        name = f"{stem}_gtFine_panoptic.png"
        Image.fromarray(segments.id_to_rgb(ids)).save(folder / "png" / name)
        content["images"].append(
            {
                "id": stem,
                "file_name": f"{stem}_gtFine_leftImg8bit.png",
                "height": SIZE[0],
                "width": SIZE[1],
            }
        )
        content["annotations"].append(
            {"image_id": stem, "file_name": name, "segments_info": segments_info}
        )
    (folder / "panoptic.json").write_text(json.dumps(content))


@pytest.mark.parametrize("split", IMAGES)
def test_records_are_those_of_the_scripts(root, tmp_path, split):
    create_panoptic_images(root, split, tmp_path / "coco")
    converted.convert(
        "coco_panoptic",
        tmp_path / "expected",
        split=split,
        name="cityscapes_panoptic",
        panoptic_json=str(tmp_path / "coco" / "panoptic.json"),
        panoptic_dir=str(tmp_path / "coco" / "png"),
        image_dir=str(root / "leftImg8bit" / split),
    )
    converted.convert("cityscapes", tmp_path / "out", split=split, source=str(root))
    for name in ("dataset_info.json", f"{split}-00000-of-00001.tfrecord"):
        expected = (tmp_path / "expected" / name).read_bytes()
        assert (tmp_path / "out" / name).read_bytes() == expected
    assert len(converted.read_records(tmp_path / "out")) == len(IMAGES[split])
    converted.check_clean(tmp_path / "out", split)


def test_pixels_categories_and_crowds(root, tmp_path):
    converted.convert("cityscapes", tmp_path / "out", source=str(root))
    records = converted.read_records(tmp_path / "out")
    assert set(records) == {stem for _, stem in IMAGES["train"]}
    ids, found = draw_ids(1), records["bochum_000000_000313"]
    names = [INFO.names[i] for i in found["segment_categories"]]
    table = {
        segment: (names[row], bool(found["segment_is_crowd"][row]), row + 1)
        for row, segment in enumerate(found["segment_ids"].tolist())
    }
    assert table[24][:2] == ("person", True) and table[24000][:2] == ("person", False)
    assert table[7][:2] == ("road", False) and table[23][:2] == ("sky", False)
    assert set(table) <= {7, 23, 24, 24000, 24001, 26, 26012, 33001}
    for value in np.unique(ids).tolist():
        row = table[value][2] if value in table else 0
        assert (found["id_map"][ids == value] == row).all()
    assert not found["has_instances"]


def test_eight_bits_hold_ids_of_no_instance(root, tmp_path):
    path = label_file(root, "val", *IMAGES["val"][0])
    Image.fromarray(np.full(SIZE, 8, np.uint8)).save(path)
    converted.convert("cityscapes", tmp_path / "out", split="val", source=str(root), name="mine")
    (found,) = converted.read_records(tmp_path / "out").values()
    assert found["segment_ids"].tolist() == [8] and (found["id_map"] == 1).all()
    assert DatasetInfo.load(str(tmp_path / "out" / "dataset_info.json")).name == "mine"


def test_shares_are_of_the_training_images(root, tmp_path):
    converted.convert("cityscapes", tmp_path / "out", source=str(root), split="a:0.2,b:0.8")
    assert len(converted.read_records(tmp_path / "out")) == len(IMAGES["train"])


def test_images_without_labels_are_noted(root, tmp_path, caplog):
    label_file(root, "train", *IMAGES["train"][0]).unlink()
    with caplog.at_level(logging.WARNING):
        converted.convert("cityscapes", tmp_path / "out", source=str(root))
    assert set(converted.read_records(tmp_path / "out")) == {IMAGES["train"][1][1]}
    assert "1 images have no labels and are left out: aachen_000000_000019_left" in caplog.text


def test_an_exif_orientation_is_measured_by_the_labels(root, tmp_path):
    path = image_file(root, "val", *IMAGES["val"][0])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((SIZE[1], SIZE[0], 3), np.uint8)).save(path, exif=exif)
    converted.convert("cityscapes", tmp_path / "out", split="val", source=str(root))
    (found,) = converted.read_records(tmp_path / "out").values()
    assert found["id_map"].shape == SIZE
    # As stored, the picture is of another size than the labels.
    with pytest.raises(ValueError, match="leftImg8bit.png: must be 12 x 16"):
        converted.convert(
            "cityscapes", tmp_path / "stored", split="val", source=str(root), exif="stored"
        )


def set_pixel(value, y=3, x=4, dtype=np.uint16):
    def change(path):
        ids = np.asarray(Image.open(path)).astype(dtype)
        ids[y, x] = value
        Image.fromarray(ids).save(path)

    return change


def test_fingerprint_tells_splits_apart(root):
    sources = [cityscapes.read_cityscapes(str(root), split=split) for split in IMAGES]
    assert sources[0].fingerprint != sources[1].fingerprint
    assert cityscapes.read_cityscapes(str(root)).fingerprint == sources[0].fingerprint


def refuse(root, tmp_path, message, **options):
    with pytest.raises(ValueError) as error:
        converted.convert("cityscapes", tmp_path / "out", source=str(root), **options)
    assert re.search(message, str(error.value)), str(error.value)
    assert len(str(error.value)) < 700


LABELS = r"gtFine/train/aachen/aachen_000000_000019_gtFine_instanceIds\.png: "
PHOTO = r"leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit\.png: "


@pytest.mark.parametrize("kind", converted.DAMAGE)
def test_damaged_labels(root, tmp_path, kind):
    message = converted.damage(label_file(root, "train", *IMAGES["train"][0]), kind)
    if kind == "another size":  # Which of the two is wrong, nothing tells.
        refuse(root, tmp_path, PHOTO + r"must be 12 x 32 \(height x width of its annotation\)")
    else:
        refuse(root, tmp_path, LABELS + f".*({message})")


@pytest.mark.parametrize(
    "which, kind",
    # An image whose labels are missing is only noted.
    [
        (w, k)
        for w in ("labels", "image")
        for k in converted.NO_FILE
        if (w, k) != ("labels", "missing")
    ],
)
def test_what_is_no_file(root, tmp_path, kind, which):
    change, message = converted.NO_FILE[kind]
    path = (label_file if which == "labels" else image_file)(root, "train", *IMAGES["train"][0])
    change(path)
    refuse(root, tmp_path, (LABELS if which == "labels" else PHOTO) + f"({message})")


WRONG_IDS = {
    "beyond the labels": (34, r"34 at \(y, x\) = \(3, 4\) is none of the label ids 0\.\.33"),
    "license plate": (255, r"255 at \(y, x\) = \(3, 4\) is none of"),
    "minus one": (65535, r"65535 at \(y, x\) = \(3, 4\) is none of"),
    "instance of no label": (34001, r"34001 at \(y, x\) = \(3, 4\) is none of"),
    "largest below an instance": (999, r"999 at \(y, x\) = \(3, 4\) is none of"),
}


@pytest.mark.parametrize("value, message", WRONG_IDS.values(), ids=WRONG_IDS)
def test_ids_that_are_no_label(root, tmp_path, value, message):
    set_pixel(value)(label_file(root, "train", *IMAGES["train"][0]))
    refuse(root, tmp_path, LABELS + message)


def remove(*names):
    return lambda root: shutil.rmtree(root.joinpath(*names))


def empty(root):
    for path in (root / "gtFine" / "train").glob("*/*_instanceIds.png"):
        path.unlink()


def twice(root):
    source = label_file(root, "train", *IMAGES["train"][0])
    target = label_file(root, "train", "bochum", IMAGES["train"][0][1])
    shutil.copy(source, target)


def a_file_for_a_folder(root):
    shutil.rmtree(root / "gtFine" / "train")
    (root / "gtFine" / "train").write_text("")


def unprintable(root):
    path = label_file(root, "train", *IMAGES["train"][0])
    path.rename(path.with_name("a\nb_gtFine_instanceIds.png"))


LAYOUTS = {
    "no gtFine": (remove("gtFine"), r"gtFine/train: No such file or directory; expected gtFine/<s"),
    "no split": (remove("gtFine", "train"), r"gtFine/train: No such file or directory"),
    "no images": (
        remove("leftImg8bit"),
        "leftImg8bit/train: No such file or directory; expected gtFine/<",
    ),
    "no labels": (empty, r"gtFine/train: has no labels; expected gtFine/<split>/<city>/\*_gtF"),
    "a file": (a_file_for_a_folder, "gtFine/train: Not a directory; expected gtFine"),
    "one name in two cities": (twice, r"bochum/aachen_\S+: has the name of another, \S+/aachen/aa"),
    "unprintable": (unprintable, r"aachen: has a file whose name cannot be printed, 'a\\nb_gtF"),
}


@pytest.mark.parametrize("change, message", LAYOUTS.values(), ids=LAYOUTS)
def test_folders_that_are_not_there(root, tmp_path, change, message):
    change(root)
    refuse(root, tmp_path, message)


OPTIONS = {
    "test": ({"split": "test"}, "split must be train or val for --format=cityscapes, got 'test'"),
    "escape": ({"split": "../x"}, r"split must be train or val .*, got '\.\./x'"),
    "large": ({"max_pixels": 100}, PHOTO + r"12 x 16 .* are more than 100 pixels"),
    "image_dir": ({"image_dir": "x"}, "--image_dir is not read by --format=cityscapes"),
}


@pytest.mark.parametrize("options, message", OPTIONS.values(), ids=OPTIONS)
def test_options(root, tmp_path, options, message):
    refuse(root, tmp_path, message, **options)


def test_source_is_needed(tmp_path):
    with pytest.raises(ValueError, match="--format=cityscapes needs --source"):
        converted.convert("cityscapes", tmp_path / "out")


def test_a_damaged_image(root, tmp_path):
    path = image_file(root, "train", *IMAGES["train"][0])
    path.write_bytes(path.read_bytes()[:60])
    refuse(root, tmp_path, PHOTO + "cannot be decoded")

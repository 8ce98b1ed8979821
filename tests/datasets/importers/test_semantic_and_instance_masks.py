"""Masks of classes beside masks of instances: the segments that were drawn, errors by name."""

import json
import logging

import converted
import numpy as np
import pytest
from PIL import Image

from panoptic_tf.datasets import importers, segments

SIZE = (9, 12)
CAT, CAR, SKY = 3, 7, 11
CATEGORIES = [
    {"id": CAT, "name": "cat", "isthing": 1, "color": [200, 0, 1]},
    {"id": CAR, "name": "car", "isthing": 1, "color": [0, 200, 2]},
    {"id": SKY, "name": "sky", "isthing": 0, "color": [3, 0, 200]},
    {"id": 255, "name": "void", "color": [0, 0, 0]},
]

SEGMENTS = [
    # Category, its contiguous id, instance, square, crowd.
    (SKY, 3, 5, (slice(0, 3), slice(0, 12)), False),
    (CAT, 1, 5, (slice(1, 4), slice(1, 3)), False),
    (CAT, 1, 40000, (slice(1, 4), slice(3, 6)), False),
    (CAR, 2, 5, (slice(5, 7), slice(2, 4)), False),
    (CAR, 2, 0, (slice(5, 7), slice(6, 8)), True),
    (255, 0, 9, (slice(8, 9), slice(0, 12)), False),
]
"""Sky with a number, two cats that touch, a car of a cat's number, cars without one, void."""


def draw():
    """Class ids and instance numbers, both [H, W]."""
    classes, instances = np.full(SIZE, 255, np.uint8), np.zeros(SIZE, np.uint16)
    for category, _, number, square, _ in SEGMENTS:
        classes[square], instances[square] = category, number
    return classes, instances


class Masks:
    """Folders of a data set, and the options that name them."""

    def __init__(self, root):
        self.root = root
        self.options = {
            "source": str(root / "classes"),
            "instance_dir": str(root / "instances"),
            "image_dir": str(root / "images"),
            "categories": str(root / "categories.json"),
            "void_ids": "255",
        }
        for folder in ("images", "classes", "instances"):
            (root / folder).mkdir()
        classes, instances = draw()
        for stem in "ab":
            Image.new("RGB", SIZE[::-1], (90, 80, 70)).save(root / "images" / f"{stem}.png")
            self.save("classes", stem, classes)
            self.save("instances", stem, instances)
        (root / "categories.json").write_text(json.dumps(CATEGORIES))

    def save(self, folder, stem, pixels):
        Image.fromarray(pixels).save(self.root / folder / f"{stem}.png")

    def convert(self, **options):
        folder = self.root / "out"
        converted.convert("semantic_and_instance_masks", folder, **{**self.options, **options})
        return folder

    def records(self, **options):
        folder = self.convert(**options)
        converted.check_clean(folder)
        return converted.read_records(folder)


@pytest.fixture
def masks(tmp_path):
    return Masks(tmp_path)


def check_segments(record):
    found = {
        (category, bool(crowd), (record["id_map"] == row).tobytes())
        for row, (category, crowd) in enumerate(
            zip(record["segment_categories"].tolist(), record["segment_is_crowd"]), start=1
        )
    }
    expected = set()
    for _, contiguous, _, square, is_crowd in SEGMENTS[1:-1]:
        mask = np.zeros(SIZE, bool)
        mask[square] = True
        expected.add((contiguous, is_crowd, mask.tobytes()))
    sky = np.zeros(SIZE, bool)
    sky[:3] = True
    sky[1:3, 1:6] = False
    assert found == {*expected, (3, False, sky.tobytes())}


def test_every_pair_of_class_and_instance_is_a_segment(masks, caplog):
    with caplog.at_level(logging.WARNING):
        records = masks.records()
    assert not caplog.messages
    assert set(records) == {"a", "b"}
    for record in records.values():
        check_segments(record)
        assert not record["has_instances"]


@pytest.mark.parametrize("form", ["colours", "palette"])
def test_other_forms_of_masks(masks, form):
    classes, instances = draw()
    if form == "colours":
        colors = np.zeros((*SIZE, 3), np.uint8)
        for category in CATEGORIES:
            colors[classes == category["id"]] = category["color"]
        masks.save("classes", "a", colors)
        # The two bytes of a number in different channels: no id is told by one of them.
        masks.save("instances", "a", segments.id_to_rgb(instances.astype(np.uint32) * 256))
    else:
        small = np.where(instances == 40000, 6, instances).astype(np.uint8)
        for folder, indices in (("classes", classes), ("instances", small)):
            picture = Image.fromarray(indices, "P")
            picture.putpalette(list(range(256)) * 3)
            picture.save(masks.root / folder / "a.png")
    check_segments(masks.records()["a"])


def test_numbers_of_more_than_16_bits(masks):
    _, instances = draw()
    large = np.where(instances == 40000, 256**3 - 1, instances)
    masks.save("instances", "a", segments.id_to_rgb(large))
    check_segments(masks.records()["a"])


def test_another_name_and_other_void(masks):
    source = importers.read(
        "semantic_and_instance_masks", **{**masks.options, "void_ids": "255,11", "name": "drawn"}
    )
    assert source.dataset_info.names == ("void", "cat", "car")
    assert source.dataset_info.name == "drawn"
    loaded = source.read(source.images[0])
    assert sorted(s.category_id for s in loaded.segments) == [CAT, CAT, CAR, CAR]
    assert (loaded.rows[0] == 0).all()
    with pytest.raises(ValueError, match=r"a\.png: 9 x 12 .* are more than 50 pixels"):
        masks.convert(max_pixels=50)


def test_other_instances_are_another_conversion(masks):
    masks.convert()
    masks.convert()
    masks.save("instances", "a", np.random.default_rng(0).integers(0, 99, SIZE, np.uint8))
    with pytest.raises(ValueError, match="holds the split 'train' of other annotations"):
        masks.convert()


@pytest.mark.parametrize("folder", ["classes", "instances"])
@pytest.mark.parametrize("damage", converted.DAMAGE)
def test_damaged_mask(masks, folder, damage):
    message = converted.damage(masks.root / folder / "b.png", damage)
    with pytest.raises(ValueError, match=rf"({folder}|images)/b\.png: .*({message})"):
        masks.convert()


@pytest.mark.parametrize("folder", ["images", "classes", "instances"])
@pytest.mark.parametrize("case", ["pipe", "dangling link"])
def test_what_is_no_file(masks, folder, case):
    change, message = converted.NO_FILE[case]
    change(masks.root / folder / "b.png")
    with pytest.raises(ValueError, match=rf"{folder}/b\.png: .*({message})"):
        masks.convert()


MISSING = {
    "images": r"classes/b\.png: has no image 'b' in .*images",
    "classes": r"instances/b\.png: has no mask 'b\.png' in .*classes",
    "instances": r"classes/b\.png: has no mask 'b\.png' in .*instances",
}


@pytest.mark.parametrize("folder", MISSING)
def test_masks_and_images_must_have_the_same_names(masks, folder):
    (masks.root / folder / "b.png").unlink()
    with pytest.raises(ValueError, match=MISSING[folder]):
        masks.convert()


def test_an_image_without_both_masks_is_left_out(masks, caplog):
    for folder in ("classes", "instances"):
        (masks.root / folder / "b.png").unlink()
    with caplog.at_level(logging.WARNING):
        source = importers.read("semantic_and_instance_masks", **masks.options)
    assert [image.image_id for image in source.images] == ["a"]
    assert "1 images have no mask and are left out" in caplog.text


def test_unknown_class(masks):
    classes, _ = draw()
    classes[4, 2] = 1
    masks.save("classes", "b", classes)
    message = r"classes/b\.png: id 1 at \(y, x\) = \(4, 2\) is not that of a category in .*json"
    with pytest.raises(ValueError, match=message):
        masks.convert()


@pytest.mark.parametrize("key", ["source", "instance_dir", "image_dir", "categories"])
def test_what_is_not_there(masks, key):
    with pytest.raises(ValueError, match="/nonexistent: No such file or directory; expected a"):
        masks.convert(**{key: "/nonexistent"})
    with pytest.raises(ValueError, match=f"--format=semantic_and_instance_masks needs --{key}"):
        masks.convert(**{key: None})

"""COCO instances without a panoptic file: the drawn masks, stuff beneath them, errors by name."""

import json
import logging
import re

import converted
import numpy as np
import pytest
from PIL import Image

from panoptic_tf.datasets import importers, manifest, record, rle

SIZE = (12, 16)
CAT, DOG, GRASS, WALL = 3, 7, 100, 200
CATEGORIES = [{"id": DOG, "name": "dog"}, {"id": CAT, "name": "cat"}]
STUFF = [{"id": GRASS, "name": "grass"}, {"id": WALL, "name": "wall", "isthing": 1}]


def square(top, left, bottom, right):
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return mask


def polygon(top, left, bottom, right):
    return [left, top, right, top, right, bottom, left, bottom]


def compressed(mask):
    return {"size": list(SIZE), "counts": rle.encode_rle(mask).decode()}


LARGE, SMALL, CROWD = square(2, 2, 10, 10), square(4, 4, 7, 7), square(0, 12, 4, 16)
GRASS_MASK = square(6, 0, 12, 16)

ANNOTATIONS = [
    {"id": 1, "image_id": 10, "category_id": DOG, "segmentation": [polygon(4, 4, 7, 7)]},
    # Two polygons are one instance.
    {
        "id": 2,
        "image_id": 10,
        "category_id": CAT,
        "segmentation": [polygon(2, 2, 10, 6), polygon(2, 6, 10, 10)],
        "area": "large",
        "bbox": None,
    },
    {"image_id": 10, "category_id": CAT, "iscrowd": 1, "segmentation": compressed(CROWD)},
    {
        "image_id": "b",
        "category_id": DOG,
        "iscrowd": None,
        "segmentation": {"size": list(SIZE), "counts": [12, 24, 156]},
    },
]
STUFF_ANNOTATIONS = [
    {"image_id": 10, "category_id": GRASS, "segmentation": compressed(GRASS_MASK)},
    # Smaller than the dog that it lies beneath, and a second piece of it.
    {"image_id": 10, "category_id": WALL, "segmentation": [polygon(5, 5, 7, 6)], "iscrowd": 1},
    {"image_id": 10, "category_id": WALL, "segmentation": [polygon(0, 0, 1, 16)]},
    {"image_id": 99, "category_id": GRASS, "segmentation": "of another image: not read"},
]


class Coco:
    """Files of a data set, and the options that name them."""

    def __init__(self, root):
        self.root = root
        self.options = {"source": str(root / "instances.json"), "image_dir": str(root / "images")}
        (root / "images" / "sub").mkdir(parents=True)
        self.images = [
            {"id": 10, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]},
            {"id": "b", "file_name": "sub/b.jpg", "height": SIZE[0], "width": SIZE[1]},
            {"id": 12, "file_name": "c.jpg", "height": SIZE[0], "width": SIZE[1]},
        ]
        for image in self.images:
            Image.new("RGB", SIZE[::-1], (90, 80, 70)).save(root / "images" / image["file_name"])
        self.save()

    def save(self, annotations=ANNOTATIONS, categories=CATEGORIES, **more):
        content = {"images": self.images, "annotations": annotations, "categories": categories}
        (self.root / "instances.json").write_text(json.dumps({**content, **more}))

    def save_stuff(self, annotations=STUFF_ANNOTATIONS, categories=STUFF):
        self.options["stuff_json"] = str(self.root / "stuff.json")
        content = {"annotations": annotations, "categories": categories}
        (self.root / "stuff.json").write_text(json.dumps(content))

    def save_pngs(self, ids):
        self.options["stuff_png_dir"] = str(self.root / "pixelmaps")
        (self.root / "pixelmaps" / "sub").mkdir(parents=True, exist_ok=True)
        for name in ("a", "sub/b", "c"):
            picture = Image.fromarray(ids.astype(np.uint8), "P")
            picture.putpalette(list(range(256)) * 3)
            picture.save(self.root / "pixelmaps" / f"{name}.png")

    def convert(self, **options):
        folder = self.root / "out"
        return converted.convert("coco_instances", folder, **{**self.options, **options})

    def records(self, **options):
        self.convert(**options)
        converted.check_clean(self.root / "out")
        return converted.read_records(self.root / "out")


@pytest.fixture
def coco(tmp_path):
    return Coco(tmp_path)


def categories_of(example):
    """The contiguous category of every pixel, 0 is void."""
    return np.concatenate([[0], example["segment_categories"]])[example["id_map"]]


def masks_of(example):
    """Instances as they overlap, bool [K, H, W]."""
    return record.decode_instance_masks(example["instance_rles"], *SIZE).numpy() > 0


def test_instances_are_whole_and_the_map_gives_the_smaller_its_pixels(coco):
    records = coco.records()
    assert set(records) == {"10", "b", "12"}
    example = records["10"]
    np.testing.assert_array_equal(masks_of(example), [SMALL, LARGE, CROWD])
    # Contiguous ids follow the ids: cat 1, dog 2, and the background that nobody annotated.
    assert example["instance_categories"].tolist() == [2, 1, 1]
    assert example["instance_is_crowd"].tolist() == [False, False, True]
    expected = np.select([SMALL, LARGE | CROWD], [2, 1], 3)
    np.testing.assert_array_equal(categories_of(example), expected)
    is_crowd = np.concatenate([[False], example["segment_is_crowd"]])[example["id_map"]]
    np.testing.assert_array_equal(is_crowd, CROWD)
    assert len(example["segment_ids"]) == 4
    np.testing.assert_array_equal(masks_of(records["b"]), [square(0, 1, 12, 3)])
    assert records["b"]["file_name"] == b"sub/b.jpg"


def test_an_image_without_annotation_has_no_instance(coco):
    example = coco.records()["12"]
    assert example["has_instances"] and not len(example["instance_rles"])
    assert (categories_of(example) == 3).all()


def test_without_background(coco):
    examples = coco.records(unlabelled_policy="void")
    assert not categories_of(examples["12"]).any()
    np.testing.assert_array_equal(categories_of(examples["10"]) > 0, SMALL | LARGE | CROWD)


def test_later_on_top(coco):
    source = importers.read("coco_instances", **coco.options, on_top="later")
    loaded = source.read(source.images[0])
    # The large cat came after the dog, and hides it.
    assert [s.category_id for s in loaded.segments] == [CAT, CAT]
    assert any("hidden by others" in note for note in loaded.notes)
    assert len(loaded.instances) == 3


def test_stuff_lies_beneath_instances(coco, caplog):
    coco.save_stuff()
    with caplog.at_level(logging.WARNING):
        example = coco.records()["10"]
    assert "1 annotations of stuff are of images that the instances do not list" in caplog.text
    wall = square(0, 0, 1, 16)
    expected = np.select([SMALL, LARGE | CROWD, GRASS_MASK, wall], [2, 1, 3, 4], 0)
    np.testing.assert_array_equal(categories_of(example), expected)
    # Stuff is never a crowd, nor an instance.
    is_crowd = dict(zip(example["segment_categories"].tolist(), example["segment_is_crowd"]))
    assert not is_crowd[3] and not is_crowd[4]
    assert example["instance_categories"].tolist() == [2, 1, 1]


def test_stuff_that_a_thing_hides_is_not_there(coco):
    coco.save_stuff(STUFF_ANNOTATIONS[1:2])
    assert 4 not in coco.records()["10"]["segment_categories"]


def test_stuff_in_pngs(coco):
    coco.save_stuff("not read")
    ids = np.select([GRASS_MASK, square(0, 0, 1, 16), square(1, 0, 2, 3)], [GRASS, WALL, 255], 0)
    coco.save_pngs(ids)
    examples = coco.records()
    expected = np.select([SMALL, LARGE | CROWD, ids == GRASS, ids == WALL], [2, 1, 3, 4], 0)
    np.testing.assert_array_equal(categories_of(examples["10"]), expected)
    np.testing.assert_array_equal(
        categories_of(examples["12"]), np.select([ids == GRASS, ids == WALL], [3, 4], 0)
    )


def test_category_0_in_pngs(coco):
    coco.save_stuff(categories=[{"id": 0, "name": "grass"}, {"id": 255, "name": "wall"}])
    ids = np.where(GRASS_MASK, 255, 0)
    coco.save_pngs(ids)
    example = coco.records()["12"]
    # Contiguous: grass 1, cat 2, dog 3, wall 4.
    np.testing.assert_array_equal(categories_of(example), np.where(GRASS_MASK, 4, 1))


def test_stuff_in_the_same_file(coco):
    stuff = {"image_id": 10, "category_id": GRASS, "segmentation": compressed(GRASS_MASK)}
    categories = [*CATEGORIES, {"id": GRASS, "name": "grass", "isthing": 0}]
    coco.save([stuff, *ANNOTATIONS, {**stuff, "iscrowd": 1}], categories)
    example = coco.records()["10"]
    expected = np.select([SMALL, LARGE | CROWD, GRASS_MASK], [2, 1, 3], 0)
    np.testing.assert_array_equal(categories_of(example), expected)
    assert example["instance_categories"].tolist() == [2, 1, 1]


def test_a_picture_that_exif_data_turn(coco):
    exif = Image.Exif()
    exif[0x0112] = 8
    path = coco.root / "images" / "a.jpg"
    Image.new("RGB", SIZE).save(path, exif=exif)
    np.testing.assert_array_equal(masks_of(coco.records()["10"])[0], SMALL)
    source = importers.read("coco_instances", **coco.options, exif="stored")
    with pytest.raises(ValueError, match=r"images/a\.jpg: must be 12 x 16 .*, got 16 x 12"):
        source.read(source.images[0])


def test_names_and_fingerprint(coco):
    (written,) = coco.convert()
    assert written.source == coco.options
    assert written.fingerprint["source_sha256"] == manifest.sha256_of_file(coco.options["source"])
    assert importers.read("coco_instances", **coco.options).dataset_info.name == "instances"
    assert importers.read("coco_instances", **coco.options, name="x").dataset_info.name == "x"
    (again,) = coco.convert()
    assert again.fingerprint == written.fingerprint
    with pytest.raises(ValueError, match="holds the split 'train' of other annotations"):
        coco.convert(on_top="later")
    coco.save_stuff()
    with pytest.raises(ValueError, match="other annotations|other categories"):
        coco.convert()


def test_polygons_are_drawn_in_the_process_that_writes(coco, monkeypatch):
    monkeypatch.setattr(rle, "encode_polygons", lambda *_: pytest.fail("drawn"))
    source = importers.read("coco_instances", **coco.options)
    with pytest.raises(pytest.fail.Exception):
        source.read(source.images[0])


GOOD = {"image_id": 10, "category_id": CAT, "segmentation": [polygon(2, 2, 9, 9)]}
RUNS = {"size": list(SIZE), "counts": [192]}
WRONG = {
    "no object": (7, r" must be an object, got int"),
    "no image": ({**GOOD, "image_id": None}, r"\.image_id must be an integer or a .*, got None"),
    "image of a list": ({**GOOD, "image_id": [[]]}, r"\.image_id must be .*, got \[\[\]\]"),
    "another image": ({**GOOD, "image_id": 11}, r"\.image_id 11 is not among 'images'"),
    "image of text": ({**GOOD, "image_id": "10"}, r"\.image_id '10' is not among 'images'"),
    "no category": ({**GOOD, "category_id": None}, r"\.category_id None is not among 'categories'"),
    "category": ({**GOOD, "category_id": 4}, r"\.category_id 4 is not among 'categories'"),
    "category as fraction": ({**GOOD, "category_id": 3.0}, r"\.category_id 3\.0 is not among"),
    "category as list": ({**GOOD, "category_id": [3]}, r"\.category_id \[3\] is not among"),
    "crowd": ({**GOOD, "iscrowd": 2}, r"\.iscrowd must be 0 or 1, got 2"),
    "crowd of text": ({**GOOD, "iscrowd": "no"}, r"\.iscrowd must be 0 or 1, got 'no'"),
    "no mask": ({**GOOD, "segmentation": None}, r"\.segmentation must be a list of .*, got None"),
    "box alone": ({**GOOD, "segmentation": []}, r"\.segmentation must be a list of .*, got \[\]"),
    "flat polygon": (
        {**GOOD, "segmentation": polygon(2, 2, 9, 9)},
        r"\.segmentation\[0\] must be x, y, .*, got 2",
    ),
    "two points": (
        {**GOOD, "segmentation": [polygon(2, 2, 9, 9), [1, 2, 3, 4]]},
        r"\.segmentation\[1\] must be .* at least 6, got 4 of them",
    ),
    "odd": ({**GOOD, "segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, r"\[0\] must be .*, got 7 of them"),
    "text": ({**GOOD, "segmentation": [[1, 2, 3, 4, 5, "6"]]}, r"\.segmentation\[0\] must be"),
    "flag": ({**GOOD, "segmentation": [[1, 2, 3, 4, 5, True]]}, r"\.segmentation\[0\] must be"),
    "NaN": (
        {**GOOD, "segmentation": [[1, 2, 3, 4, 5, float("nan")]]},
        r"\.segmentation\[0\]: coordinates must lie in or near .* -16\.\.32 pixels, got nan",
    ),
    "infinity": ({**GOOD, "segmentation": [[1, 2, 3, 4, 5, float("inf")]]}, "near .*, got inf"),
    "far": ({**GOOD, "segmentation": [[1, 2, 3, 4, 5, -17]]}, "in or near the image, .*, got -17"),
    "huge": ({**GOOD, "segmentation": [[1, 2, 3, 4, 5, 2**2000]]}, "in or near the image"),
    "object": ({**GOOD, "segmentation": {}}, r"\.segmentation\.size must be \[12, 16\], .*None"),
    "size": (
        {**GOOD, "segmentation": {**RUNS, "size": [16, 12]}},
        r"\.segmentation\.size must be \[12, 16\], .*, got \[16, 12\]",
    ),
    "short runs": (
        {**GOOD, "segmentation": {**RUNS, "counts": [100]}},
        r"\.segmentation\.counts: run lengths must fill 12 x 16 = 192 pixels, got 100",
    ),
    "negative runs": (
        {**GOOD, "segmentation": {**RUNS, "counts": [200, -8]}},
        r"\.segmentation\.counts: run lengths must fill",
    ),
    "fractions": (
        {**GOOD, "segmentation": {**RUNS, "counts": [192.0]}},
        r"\.segmentation\.counts must be COCO run-length text or a list of integers",
    ),
    "short text": (
        {**GOOD, "segmentation": {**RUNS, "counts": "0"}},
        r"\.segmentation\.counts: run lengths must fill",
    ),
    "no run lengths": (
        {**GOOD, "segmentation": {**RUNS, "counts": "~~"}},
        r"\.segmentation\.counts: not COCO run-length text",
    ),
}


@pytest.mark.parametrize("file", ["instances", "stuff"])
@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_annotation_is_named(coco, file, case):
    wrong, message = WRONG[case]
    if file == "instances":
        coco.save([GOOD, wrong])
    else:
        if isinstance(wrong, dict) and wrong["category_id"] is CAT:
            wrong = {**wrong, "category_id": WALL}
        coco.save_stuff([{**GOOD, "category_id": WALL}, wrong])
        if "image" in case and "is not among" in message:
            return  # Stuff of other images is noted.
    with pytest.raises(ValueError, match=rf"{file}\.json: annotations\[1\].*{message}") as error:
        coco.convert()
    assert len(str(error.value)) < 700 and str(error.value).isprintable()


@pytest.mark.parametrize("field", ["segmentation", "image_id", "category_id", "iscrowd"])
def test_nested_too_deeply(coco, field):
    coco.save([{**GOOD, field: "nested"}])
    text = (coco.root / "instances.json").read_text()
    for depth in (900, 975, 990, 10**5):
        nested = "[" * depth + "]" * depth
        (coco.root / "instances.json").write_text(text.replace('"nested"', nested))
        with pytest.raises(
            ValueError, match=r"instances\.json: (annotations\[0\]|nested too deeply)"
        ):
            coco.convert()


IMAGE = {"id": 10, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]}
WRONG_FILES = {
    "no images": ({"images": None}, r"json: 'images' must be a list; expected a COCO JSON file"),
    "no annotations": ({"annotations": {}}, r"json: 'annotations' must be a list"),
    "no categories": ({"categories": []}, r"json: 'categories' must be a non-empty list"),
    "category": ({"categories": [{"id": 1}]}, r"json: categories\[0\]\.name must be"),
    "category twice": (
        {"categories": [*CATEGORIES, CATEGORIES[0]]},
        r"json: categories\[2\]\.id 7 is used twice",
    ),
    "image": ({"images": [7]}, r"json: images\[0\] must be an object, got int"),
    "image twice": ({"images": [IMAGE, IMAGE]}, r"json: images\[1\]\.id 10 is used twice"),
    "image id": ({"images": [{**IMAGE, "id": 1.5}]}, r"json: images\[0\]\.id must be an integer"),
    "height": ({"images": [{**IMAGE, "height": 0}]}, r"json: images\[0\]\.height must be"),
    "width": ({"images": [{**IMAGE, "width": "9"}]}, r"images\[0\]\.width must be .*, got '9'"),
    "large": ({"images": [{**IMAGE, "width": 10**7}]}, r"images\[0\]: height x width .*max_pixels"),
    "way out": (
        {"images": [{**IMAGE, "file_name": "../a.jpg"}]},
        r"json: images\[0\]\.file_name must stay inside .*, got '\.\./a\.jpg'",
    ),
    "absolute": (
        {"images": [{**IMAGE, "file_name": "/etc/passwd"}]},
        r"file_name must stay inside",
    ),
    "no name": ({"images": [{**IMAGE, "file_name": 7}]}, r"images\[0\]\.file_name must be a file"),
    "missing image": (
        {"images": [{**IMAGE, "file_name": "x.jpg"}], "annotations": []},
        r"images/x\.jpg: no such file, for image_id 10",
    ),
    "another size": (
        {"images": [{**IMAGE, "width": 17}], "annotations": []},
        r"images/a\.jpg: must be 12 x 17 .*, got 12 x 16",
    ),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_a_wrong_file_is_named(coco, case):
    content, message = WRONG_FILES[case]
    coco.save(**content)
    with pytest.raises(ValueError, match=message):
        coco.convert()


@pytest.mark.parametrize("content", [b"", b"[]", b"7", b"\xff", b"[" * 10**5, b'{"images": []}'])
@pytest.mark.parametrize("key", ["source", "stuff_json"])
def test_no_coco_file(coco, key, content):
    path = coco.root / "wrong.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))}.* expected a COCO JSON file"):
        coco.convert(**{key: str(path)})


def test_nothing_to_convert(coco):
    coco.save(images=[], annotations=[])
    with pytest.raises(ValueError, match="no annotated image"):
        coco.convert()


def test_ids_of_things_and_stuff_must_differ(coco):
    coco.save_stuff(categories=[{"id": CAT, "name": "wall"}])
    message = r"stuff\.json: category id 3 \('wall'\) is that of 'cat' among the instances"
    with pytest.raises(ValueError, match=message):
        coco.convert()


def test_no_annotations_of_stuff(coco):
    coco.save_stuff(annotations=None)
    with pytest.raises(ValueError, match=r"stuff\.json: 'annotations' must be a list"):
        coco.convert()


def test_pngs_need_their_categories(coco):
    coco.save_pngs(np.zeros(SIZE))
    with pytest.raises(ValueError, match="stuff_png_dir needs stuff_json"):
        coco.convert()


@pytest.mark.parametrize("damage", converted.DAMAGE)
def test_damaged_png_of_stuff(coco, damage):
    coco.save_stuff()
    coco.save_pngs(np.zeros(SIZE))
    message = converted.damage(coco.root / "pixelmaps" / "sub" / "b.png", damage)
    with pytest.raises(ValueError, match=rf"pixelmaps/sub/b\.png: .*({message})"):
        coco.convert()


@pytest.mark.parametrize("case", converted.NO_FILE)
def test_no_png_of_stuff(coco, case):
    coco.save_stuff()
    coco.save_pngs(np.zeros(SIZE))
    change, message = converted.NO_FILE[case]
    change(coco.root / "pixelmaps" / "sub" / "b.png")
    with pytest.raises(ValueError, match=rf"pixelmaps/sub/b\.png: .*({message}).*image_id 'b'"):
        coco.convert()


def test_png_of_colours_or_of_unknown_ids(coco):
    coco.save_stuff()
    coco.save_pngs(np.full(SIZE, CAT))
    with pytest.raises(ValueError, match=r"png: id 3 at \(y, x\) = \(0, 0\) is not .*stuff\.json"):
        coco.convert()
    for name in ("a", "sub/b", "c"):
        Image.new("RGB", SIZE[::-1]).save(coco.root / "pixelmaps" / f"{name}.png")
    with pytest.raises(ValueError, match=r"png: is RGB, for which only ids of categories are read"):
        coco.convert()

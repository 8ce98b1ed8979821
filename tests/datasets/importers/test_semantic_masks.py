"""Masks of class ids or colours: the categories that were drawn, and every error by name."""

import json
import logging
import os
import struct
import zlib

import converted
import numpy as np
import pytest
import yaml
from PIL import Image

from panoptic_tf.datasets import importers, manifest
from panoptic_tf.datasets.importers import semantic_masks

SIZE = (10, 14)
CAT, CAR, SKY = 3, 7, 11
CATEGORIES = [
    {"id": CAT, "name": "cat", "isthing": 1, "color": [200, 0, 1]},
    {"id": CAR, "name": "car", "isthing": 1, "color": [0, 200, 2]},
    {"id": SKY, "name": "sky", "isthing": 0, "color": [3, 0, 200]},
]
COLORS = {c["id"]: c["color"] for c in CATEGORIES}
STEMS = ("a", "b", "city/c")


def draw_ids():
    """Void around; sky in two pieces; two cats that touch by a corner, a third; a car."""
    ids = np.full(SIZE, 255, np.uint8)
    ids[:2, :5] = ids[:2, 8:] = SKY
    ids[3:5, 1:4] = ids[5:7, 4:6] = CAT
    ids[8, 10:12] = CAT
    ids[3:5, 4:6] = CAR
    return ids


COMPONENTS = [
    (1, (slice(3, 5), slice(1, 4)), (slice(5, 7), slice(4, 6))),
    (1, (slice(8, 9), slice(10, 12))),
    (2, (slice(3, 5), slice(4, 6))),
    (3, (slice(0, 2), slice(0, 5)), (slice(0, 2), slice(8, 14))),
]
"""Segments of `draw_ids`: the contiguous category, and squares."""


def as_colors(ids):
    """RGB, void is black."""
    colors = np.zeros((*ids.shape, 3), np.uint8)
    for value, color in COLORS.items():
        colors[ids == value] = color
    return colors


class Masks:
    """Folders of a data set, and the options that name them."""

    def __init__(self, root):
        self.root = root
        self.options = {
            "source": str(root / "masks"),
            "image_dir": str(root / "images"),
            "categories": str(root / "categories.json"),
        }
        for stem in STEMS:
            for folder in ("images", "masks"):
                (root / folder / stem).parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
            Image.fromarray(pixels).save(root / "images" / f"{stem}.jpg")
            self.save(stem, draw_ids())
        self.save_categories(CATEGORIES)

    def mask(self, stem):
        return self.root / "masks" / f"{stem}.png"

    def save(self, stem, pixels, **options):
        Image.fromarray(pixels).save(self.mask(stem), **options)

    def save_categories(self, categories):
        (self.root / "categories.json").write_text(json.dumps(categories))

    def convert(self, **options):
        self.out = self.root / f"out_{options.get('split', 'train')}"
        return converted.convert("semantic_masks", self.out, **{**self.options, **options})

    def records(self, **options):
        self.convert(**options)
        converted.check_clean(self.out, options.get("split", "train"))
        return converted.read_records(self.out)


@pytest.fixture
def masks(tmp_path):
    return Masks(tmp_path)


def categories_of(record):
    """The contiguous category of every pixel, 0 is void."""
    return np.concatenate([[0], record["segment_categories"]])[record["id_map"]]


def as_contiguous(ids):
    return np.select([ids == CAT, ids == CAR, ids == SKY], [1, 2, 3], 0)


def test_every_pixel_has_its_category(masks, caplog):
    with caplog.at_level(logging.WARNING):
        records = masks.records()
    assert set(records) == set(STEMS)
    for record in records.values():
        np.testing.assert_array_equal(categories_of(record), as_contiguous(draw_ids()))
        # One segment a category: what no instance tells apart is a crowd.
        assert record["segment_categories"].tolist() == [1, 2, 3]
        assert record["segment_is_crowd"].tolist() == [True, True, False]
        assert not record["has_instances"]
    assert records["city/c"]["file_name"] == b"city/c.jpg"
    assert "2 categories are things whose instances are not distinguished" in caplog.text
    assert "'cat', 'car'" in caplog.text


def test_components_are_instances(masks, caplog):
    with caplog.at_level(logging.WARNING):
        record = masks.records(things_by_components=True)["a"]
    assert "are not distinguished" not in caplog.text
    np.testing.assert_array_equal(categories_of(record), as_contiguous(draw_ids()))
    assert not record["segment_is_crowd"].any()
    expected = set()
    for category, *squares in COMPONENTS:
        mask = np.zeros(SIZE, bool)
        for square in squares:
            mask[square] = True
        expected.add((category, mask.tobytes()))
    found = {
        (category, (record["id_map"] == row).tobytes())
        for row, category in enumerate(record["segment_categories"].tolist(), start=1)
    }
    assert found == expected


def test_components_equal_a_flood_fill():
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = rng.random((9, 11)) < 0.4
        found = semantic_masks.components(mask)
        expected, number = np.zeros(mask.shape, np.int32), 0
        for start in zip(*np.nonzero(mask)):
            if not expected[start]:
                number += 1
                open_pixels = [start]
                while open_pixels:
                    y, x = open_pixels.pop()
                    if 0 <= y < 9 and 0 <= x < 11 and mask[y, x] and not expected[y, x]:
                        expected[y, x] = number
                        steps = (-1, 0, 1)
                        open_pixels += [(y + i, x + j) for i in steps for j in steps]
        np.testing.assert_array_equal(found, expected)


def palette_of(bits):
    palette = np.zeros((2**bits, 3), np.uint8)
    palette[1:] = 90
    return palette


def save_palette(path, indices, palette, bits=8):
    picture = Image.fromarray(indices, "P")
    picture.putpalette(palette.reshape(-1).tolist())
    picture.save(path, bits=bits)


@pytest.mark.parametrize("form", ["16 bits", "palette", "palette of 4 bits", "colours", "cut"])
def test_every_form_of_mask(masks, form):
    ids, options = draw_ids(), {}
    if form == "16 bits":
        masks.save_categories([*CATEGORIES[:2], {**CATEGORIES[2], "id": 60000}])
        wide = np.where(ids == SKY, 60000, ids.astype(np.uint16)).astype(np.uint16)
        masks.save("a", wide)
        for stem in STEMS[1:]:
            masks.save(stem, wide)
    elif form == "palette":
        save_palette(masks.mask("a"), ids, palette_of(8))
    elif form == "palette of 4 bits":
        options["void_ids"] = "0,255"
        save_palette(masks.mask("a"), np.where(ids == 255, 0, ids), palette_of(4), bits=4)
        assert masks.mask("a").read_bytes()[24:26] == b"\x04\x03"
    elif form == "colours":
        options["void_ids"] = "0,255"
        masks.save_categories([*CATEGORIES, {"id": 0, "name": "void", "color": [0, 0, 0]}])
        masks.save("a", as_colors(ids))
    else:
        os.rename(masks.mask("a"), masks.root / "masks" / "a.PNG")
    record = masks.records(**options)["a"]
    np.testing.assert_array_equal(categories_of(record), as_contiguous(ids))


def test_void(masks):
    """255 by default, unless a category has it; else what --void_ids says."""
    ids = draw_ids()
    masks.save_categories([*CATEGORIES, {"id": 255, "name": "ground", "isthing": 0}])
    record = masks.records()["a"]
    assert (categories_of(record)[ids == 255] == 4).all()
    record = masks.records(void_ids=" 255, 7", split="other")["a"]
    np.testing.assert_array_equal(
        categories_of(record), np.select([ids == CAT, ids == SKY], [1, 2], 0)
    )


def test_no_id_is_void(masks):
    with pytest.raises(ValueError, match=r"a\.png: id 255 at \(y, x\) = \(0, 5\) is not that of"):
        masks.convert(void_ids="")


def test_category_0(masks):
    masks.save_categories([*CATEGORIES[:2], {"id": 0, "name": "sky", "isthing": 0}])
    for stem in STEMS:
        masks.save(stem, np.where(draw_ids() == SKY, 0, draw_ids()).astype(np.uint8))
    record = masks.records()["a"]
    # Category 0 is the first.
    np.testing.assert_array_equal(
        categories_of(record), np.array([0, 2, 3, 1])[as_contiguous(draw_ids())]
    )


@pytest.mark.parametrize("form", ["yaml", "yml", "object"])
def test_every_form_of_categories(masks, form):
    if form == "object":
        masks.save_categories({"categories": CATEGORIES, "name": "x"})
    else:
        masks.options["categories"] = str(masks.root / f"categories.{form}")
        (masks.root / f"categories.{form}").write_text(yaml.safe_dump(CATEGORIES))
    source = importers.read("semantic_masks", **masks.options, name="drawn")
    assert source.dataset_info.names == ("void", "cat", "car", "sky")
    assert source.dataset_info.thing_ids == (1, 2)
    assert source.dataset_info.colors[1:] == tuple(tuple(c["color"]) for c in CATEGORIES)
    assert source.dataset_info.name == "drawn"


def test_images_without_mask_are_left_out(masks, caplog):
    masks.mask("b").unlink()
    (masks.root / "masks" / ".hidden.png").write_bytes(b"")
    (masks.root / "masks" / "notes.txt").write_text("notes")
    with caplog.at_level(logging.WARNING):
        source = importers.read("semantic_masks", **masks.options)
    assert [image.image_id for image in source.images] == ["a", "city/c"]
    assert source.dataset_info.name == "masks"
    assert "1 images have no mask and are left out: " in caplog.text
    assert str(masks.root / "images" / "b.jpg") in caplog.text


def test_masks_inside_of_the_folder_of_images(masks):
    os.rename(masks.root / "masks", masks.root / "images" / "masks")
    masks.options["source"] = str(masks.root / "images" / "masks")
    source = importers.read("semantic_masks", **masks.options)
    assert [image.image_id for image in source.images] == list(STEMS)


def test_folders_that_are_links(masks):
    os.rename(masks.root / "masks" / "city", masks.root / "elsewhere")
    os.symlink(masks.root / "elsewhere", masks.root / "masks" / "city")
    os.symlink(masks.root / "masks", masks.root / "masks" / "circle")
    source = importers.read("semantic_masks", **masks.options)
    assert [image.image_id for image in source.images] == list(STEMS)


def test_the_size_of_the_mask_says_which_frame_is_meant(masks):
    """A picture that EXIF data turn, of which the mask is: its pixels are stored turned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(np.zeros((SIZE[1], SIZE[0], 3), np.uint8))
    turned.save(masks.root / "images" / "a.jpg", exif=exif)
    record = masks.records()["a"]
    assert (record["height"], record["width"]) == SIZE
    with pytest.raises(ValueError, match=r"a\.jpg: must be 10 x 14 .*, got 14 x 10"):
        masks.convert(exif="stored", split="other")


def test_another_meaning_is_another_conversion(masks):
    (first,) = masks.convert()
    (again,) = masks.convert()
    assert first.fingerprint == again.fingerprint
    assert first.source == {key: os.path.abspath(path) for key, path in masks.options.items()}
    for options in ({"things_by_components": True}, {"void_ids": "255"}):
        with pytest.raises(ValueError, match="holds the split 'train' of other annotations"):
            masks.convert(**options)
    path = manifest.manifest_path(str(masks.out), "train")
    assert manifest.Manifest.load(path).fingerprint == first.fingerprint


def test_void_alone(masks):
    for stem in STEMS:
        masks.save(stem, np.full(SIZE, 255, np.uint8))
    masks.convert(things_by_components=True)
    record = converted.read_records(masks.out)["a"]
    assert len(record["segment_ids"]) == 0 and not record["id_map"].any()


@pytest.mark.parametrize("damage", converted.DAMAGE)
def test_damaged_mask(masks, damage):
    message = converted.damage(masks.mask("b"), damage)
    with pytest.raises(ValueError, match=rf"(masks/b\.png|images/b\.jpg): .*({message})"):
        masks.convert()


@pytest.mark.parametrize("case", ["pipe", "dangling link"])
@pytest.mark.parametrize("name", ["images/b.jpg", "masks/b.png", "categories.json"])
def test_what_is_no_file(masks, name, case):
    change, message = converted.NO_FILE[case]
    change(masks.root / name)
    with pytest.raises(ValueError, match=rf"{name}: .*({message})"):
        masks.convert()


def unknown_id(masks):
    ids = draw_ids()
    ids[4, 9] = ids[7, 0] = 12
    masks.save("b", ids)


def unknown_wide_id(masks):
    ids = draw_ids().astype(np.uint16)
    ids[0, 0] = 300
    masks.save("b", ids)


def unknown_color(masks):
    masks.save_categories([*CATEGORIES, {"id": 4, "name": "ground", "color": [0, 0, 0]}])
    colors = as_colors(draw_ids())
    colors[6, 3] = [1, 2, 3]
    masks.save("b", colors)


def colors_without_colors(masks):
    masks.save_categories([CATEGORIES[0], {"id": CAR, "name": "car"}, CATEGORIES[2]])
    masks.save("b", as_colors(draw_ids()))


def colors_twice(masks):
    masks.save_categories([*CATEGORIES[:2], {**CATEGORIES[2], "color": [200, 0, 1]}])
    masks.save("b", as_colors(draw_ids()))


def color_out_of_range(masks):
    masks.save_categories([*CATEGORIES[:2], {**CATEGORIES[2], "color": [200, 0, 256]}])
    masks.save("b", as_colors(draw_ids()))


def colors_as_palette(masks):
    """What a program that makes files smaller does to RGB."""
    ids = np.full(SIZE, CAT, np.uint8)
    ids[:5] = CAR
    palette = np.zeros((256, 3), np.uint8)
    palette[CAT], palette[CAR] = COLORS[CAR], COLORS[CAT]
    save_palette(masks.mask("b"), ids, palette)


def black_png(bits, kind, line, *more):
    """A PNG that Pillow does not write; `line` is the bytes of a row, `more` further chunks."""
    header = struct.pack(">IIBBBBB", SIZE[1], SIZE[0], bits, kind, 0, 0, 0)
    pixels = zlib.compress((b"\0" + bytes(line)) * SIZE[0])
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", header), *more, (b"IDAT", pixels), (b"IEND", b"")):
        checksum = struct.pack(">I", zlib.crc32(name + data))
        content += struct.pack(">I", len(data)) + name + data + checksum
    return content


def short_color_profile(masks):
    masks.mask("b").write_bytes(black_png(8, 0, SIZE[1], (b"iCCP", b"no end")))


def two_headers(masks):
    other = struct.pack(">IIBBBBB", 2000, 2000, 8, 0, 0, 0, 0)
    masks.mask("b").write_bytes(black_png(8, 0, SIZE[1], (b"IHDR", other)))


def few_pixels(masks):
    masks.mask("b").write_bytes(black_png(8, 0, SIZE[1] // 2))


def grey_of_2_bits(masks):
    masks.mask("b").write_bytes(black_png(2, 0, 4))


def colors_of_16_bits(masks):
    masks.mask("b").write_bytes(black_png(16, 2, 6 * SIZE[1]))


def no_image(masks):
    (masks.root / "images" / "b.jpg").unlink()


def two_images(masks):
    Image.new("RGB", SIZE[::-1]).save(masks.root / "images" / "b.png")


def two_masks(masks):
    masks.save("b", draw_ids())
    (masks.root / "masks" / "b.PNG").write_bytes(masks.mask("b").read_bytes())


def unprintable_name(masks):
    for folder, ending in (("images", "jpg"), ("masks", "png")):
        os.rename(masks.root / folder / f"b.{ending}", masks.root / folder / f"b\n.{ending}")


def name_of_no_text(masks):
    folder = os.fsencode(masks.root / "masks")
    os.rename(folder + b"/b.png", folder + b"/b\xff.png")


def no_masks(masks):
    for stem in STEMS:
        masks.mask(stem).unlink()


def wrong_photograph(masks):
    (masks.root / "images" / "b.jpg").write_bytes(b"no image")


def large_image(masks):
    Image.new("RGB", (20, 30)).save(masks.root / "images" / "b.jpg")


WRONG_FILES = {
    unknown_id: r"masks/b\.png: id 12 at \(y, x\) = \(4, 9\) is not that of a category in .*json",
    unknown_wide_id: r"masks/b\.png: id 300 at \(y, x\) = \(0, 0\) is not that of",
    unknown_color: r"masks/b\.png: colour \[1, 2, 3\] at \(y, x\) = \(6, 3\) is not that of",
    colors_without_colors: r"masks/b\.png: is RGB, for which .*json: categories\[1\]\.color must "
    r"be three integers of 0\.\.255, got None",
    colors_twice: r"json: categories\[2\].color \[200, 0, 1\] is that of another category",
    color_out_of_range: r"json: categories\[2\].color must be three integers.*got \[200, 0, 256\]",
    colors_as_palette: r"masks/b\.png: its palette names categories in .*json by its indices and "
    r"by its colours, and not the same: index 7 has the colour \[200, 0, 1\]",
    short_color_profile: r"masks/b\.png: cannot be decoded .*; expected a PNG of class ids",
    two_headers: r"masks/b\.png: cannot be decoded .*; expected a PNG of class ids",
    few_pixels: r"masks/b\.png: cannot be decoded .*; expected a PNG of class ids",
    grey_of_2_bits: r"masks/b\.png: must be a PNG of .*, got 2 bits of colour type 0",
    colors_of_16_bits: r"masks/b\.png: must be a PNG of .*, got 16 bits of colour type 2",
    no_image: r"masks/b\.png: has no image 'b' in .*images",
    two_images: r"images/b\.(png|jpg): has the name of .*b\.(jpg|png), its ending apart",
    two_masks: r"masks/b\.(png|PNG): has the name of .*masks/b\.(PNG|png)",
    unprintable_name: r"masks: has a file whose name cannot be printed, 'b\\n'",
    name_of_no_text: r"masks: has a file whose name cannot be printed, 'b\\udcff'",
    no_masks: r"masks: holds no file \.png; expected a folder of PNG masks",
    wrong_photograph: r"images/b\.jpg: cannot be decoded; expected a photograph",
    large_image: r"images/b\.jpg: must be 10 x 14 .*, got 30 x 20",
}


@pytest.mark.parametrize("change", WRONG_FILES, ids=lambda change: change.__name__)
def test_what_is_wrong_is_named(masks, change):
    change(masks)
    with pytest.raises(ValueError, match=WRONG_FILES[change]) as error:
        masks.convert()
    assert len(str(error.value)) < 700 and str(error.value).isprintable()


ONE = {"id": 1, "name": "a"}
WRONG_CATEGORIES = {
    "nothing": (b"", r"categories\.json is not JSON"),
    "a number": (b"7", r"categories\.json: expected a list of categories .*, got int"),
    "object": (b'{"a": []}', r"categories\.json: expected a list of categories .*, got NoneType"),
    "empty": ([], r"categories\.json: 'categories' must be a non-empty list"),
    "no object": ([7], r"json: categories\[0\] must be an object, got int"),
    "no id": ([{"name": "a"}], r"json: categories\[0\]\.id must be an integer .*, got None"),
    "id of text": ([{"id": "1", "name": "a"}], r"json: categories\[0\]\.id must be .*, got '1'"),
    "flag as id": ([{"id": True, "name": "a"}], r"json: categories\[0\]\.id must be .*, got True"),
    "huge id": (
        [{"id": 2**70, "name": "a"}],
        r"json: categories\[0\]\.id must be an integer of 0\.\.",
    ),
    "NaN": (b'[{"id": NaN, "name": "a"}]', r"json: categories\[0\]\.id must be .*, got nan"),
    "id twice": ([ONE, {"id": 1, "name": "b"}], r"json: categories\[1\]\.id 1 is used twice"),
    "no name": ([{"id": 1}], r"json: categories\[0\]\.name must be a non-empty string, got None"),
    "name in two lines": ([{"id": 1, "name": "a\nb"}], r"json: categories\[0\]\.name must be"),
    "isthing": (
        [{**ONE, "isthing": "yes"}],
        r"json: categories\[0\]\.isthing must be 0 or 1, got 'yes'",
    ),
    "nested JSON": (b"[" * 10**5, r"categories\.json: nested too deeply|is not JSON"),
    "nested YAML": (b"[" * 10**4, r"categories\.yaml is not YAML"),
    "not YAML": (b"a: [b", r"categories\.yaml is not YAML .*; expected a list of categories"),
    "empty YAML": (b"", r"categories\.yaml: expected a list of categories .*, got NoneType"),
    "text as YAML": (b"abc", r"categories\.yaml: expected a list of categories .*, got str"),
    "no time": (b"- !!timestamp x", r"categories\.yaml is not YAML"),
    "no number": (b"- !!int ''", r"categories\.yaml is not YAML"),
    "Python": (b"- !!python/object/apply:os.getcwd []", r"yaml is not YAML .*python/object"),
    "bytes": (b"\xff\xfe\x00", r"categories\.yaml is not YAML"),
    "aliases": (
        b"a: &a [x,x]\nb: &b [*a,*a]\ncategories: [*b,*b]",
        r"categories\.yaml is not YAML \(the alias \*a is not read\)",
    ),
}


@pytest.mark.parametrize("case", WRONG_CATEGORIES)
def test_wrong_categories(masks, case):
    content, message = WRONG_CATEGORIES[case]
    path = masks.root / ("categories.json" if "json" in message else "categories.yaml")
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(ValueError, match=message) as error:
        importers.read("semantic_masks", **{**masks.options, "categories": str(path)})
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 700 and str(error.value).isprintable()


WRONG_OPTIONS = {
    "no masks": ({"source": "/nonexistent"}, "/nonexistent: No such file or directory; expected a"),
    "no images": ({"image_dir": "/nonexistent"}, "/nonexistent: No such file .*folder of images"),
    "no categories": ({"categories": "/nonexistent"}, "/nonexistent: No such file or directory"),
    "device": ({"categories": "/dev/zero"}, "/dev/zero: is a pipe or a device"),
    "void": ({"void_ids": "0;1"}, "void_ids must be ids of 0..65535 with commas .*, got '0;1'"),
    "large void": ({"void_ids": "70000"}, "void_ids must be ids of 0..65535"),
    "empty void": ({"void_ids": "1,,2"}, "void_ids must be ids of 0..65535"),
    "all void": ({"void_ids": "3,7,11"}, "all of its categories are among the void_ids '3,7,11'"),
    "no source": ({"source": None}, "--format=semantic_masks needs --source"),
    "pixels": ({"max_pixels": 100}, r"a\.jpg: 10 x 14 .* are more than 100 pixels"),
}


@pytest.mark.parametrize("case", WRONG_OPTIONS)
def test_wrong_options(masks, case):
    options, message = WRONG_OPTIONS[case]
    with pytest.raises(ValueError, match=message):
        masks.convert(**options)


def test_more_segments_than_a_record_holds(masks):
    ids = np.full((520, 520), 255, np.uint8)
    ids[::2, ::2] = CAT
    masks.save("a", ids)
    Image.new("L", (520, 520)).save(masks.root / "images" / "a.jpg")
    message = r"masks/a\.png: has 67600 segments; a record holds at most 65535"
    with pytest.raises(ValueError, match=message):
        masks.convert(things_by_components=True)

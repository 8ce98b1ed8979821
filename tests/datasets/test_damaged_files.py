"""Damaged, hostile and odd files: `doctor` and `convert` name the file, and agree on what is wrong.

What neither may do: wait for ever, end without a name, read or write outside of the folders.
"""

import io
import json
import os
import re
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, PngImagePlugin

from panoptic_tf.datasets import converter, doctor, id_png, images, record, segments
from panoptic_tf.datasets.importers import panoptic_files, photographs
from panoptic_tf.metrics.panoptic_quality import PanopticQuality

ORIENTATION = 0x0112


def examine(coco, **options):
    return doctor.examine_coco_panoptic(**coco.paths, build_quality=PanopticQuality, **options)


def convert(coco, tmp_path, **options):
    return converter.convert_dataset(
        "coco_panoptic",
        output_dir=str(tmp_path / "out"),
        num_shards=1,
        num_processes=1,
        **coco.paths,
        **options,
    )


def check_both_refuse(coco, tmp_path, message, **options):
    """One line of `doctor` says what `convert` says."""
    coco.save()
    with pytest.raises(ValueError, match=message) as error:
        convert(coco, tmp_path, **options)
    problems = examine(coco, **options)["problems"]
    assert str(error.value) in problems
    for problem in problems:
        assert len(problem) < 700 and problem.isprintable()
    assert not (tmp_path / "out").exists() or not os.listdir(tmp_path / "out")


def check_both_accept(coco, tmp_path, **options):
    coco.save()
    assert examine(coco, **options)["problems"] == []
    convert(coco, tmp_path, **options)
    report = doctor.examine_records(
        input_path=str(tmp_path / "out" / "train-*"), build_quality=PanopticQuality
    )
    assert report["problems"] == [] and report["ground_truth_PQ"] == 100
    return report


@pytest.fixture
def coco(make_coco):
    """Two images, stored as PNG."""
    coco = make_coco(2)
    for image in coco.content["images"]:
        path = coco.folder / "images" / image["file_name"]
        image["file_name"] = image["file_name"].replace(".jpg", ".png")
        Image.open(path).save(path.with_suffix(".png"))
    return coco.save()


def chunk(kind, data, checksum=None):
    checksum = zlib.crc32(kind + data) if checksum is None else checksum
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def insert(content, kind, data, checksum=None):
    """Puts a chunk before the pixels."""
    start = content.index(b"IDAT") - 4
    return content[:start] + chunk(kind, data, checksum) + content[start:]


def cut_end(content):
    return content[: content.rindex(b"IEND") - 4]


def wrong_last_checksum(content):
    place = content.rindex(b"IEND") - 5
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def flip_pixels(content):
    place = content.index(b"IDAT") + 20
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


def wrong_header_checksum(content):
    return content[:29] + bytes([content[29] ^ 1]) + content[30:]


DAMAGE = {
    "without its end": cut_end,
    "wrong checksum of pixels": wrong_last_checksum,
    "flipped bit": flip_pixels,
    "wrong checksum of the header": wrong_header_checksum,
    "half": lambda content: content[: len(content) // 2],
    "header alone": lambda content: content[:33],
    "cut in the header": lambda content: content[:20],
    "signature alone": lambda content: content[:8],
    "empty": lambda content: b"",
    "no image": lambda content: b"no image",
}


@pytest.mark.parametrize("folder", ["images", "panoptic"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_png(coco, tmp_path, folder, damage):
    path = coco.folder / folder / "1.png"
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    check_both_refuse(coco, tmp_path, rf"{folder}/1\.png: .*; expected an? ")


@pytest.mark.parametrize("folder", ["images", "panoptic"])
@pytest.mark.parametrize(
    "kind, data", [(b"tEXt", b"Comment\0drawn"), (b"iTXt", b"x\0\0\0\0\0y"), (b"zZZz", b"any")]
)
def test_wrong_checksum_of_what_no_pixel_depends_on(coco, tmp_path, folder, kind, data):
    path = coco.folder / folder / "1.png"
    path.write_bytes(insert(path.read_bytes(), kind, data, checksum=7))
    if folder == "images":  # TensorFlow reads it, Pillow does not.
        check_both_accept(coco, tmp_path)
    else:
        check_both_refuse(coco, tmp_path, r"panoptic/1\.png: cannot be decoded")


def test_any_flipped_bit_of_a_panoptic_png_is_noticed(make_coco):
    coco = make_coco(1)
    path = coco.folder / "panoptic" / "0.png"
    content, ids = path.read_bytes(), coco.ids(0)
    for place in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            np.testing.assert_array_equal(id_png.read_id_map(str(path)), ids)
        except ValueError as error:
            assert f"{path}: " in str(error)


def test_truncated_jpeg(make_coco, tmp_path):
    coco = make_coco(2)
    path = coco.folder / "images" / "1.jpg"
    path.write_bytes(path.read_bytes()[:-40])
    check_both_refuse(coco, tmp_path, r"images/1\.jpg: cannot be decoded")


@pytest.mark.parametrize("kind", ["GIF", "BMP", "WEBP", "TIFF"])
def test_other_formats_are_stored_as_png(coco, tmp_path, kind):
    path = coco.folder / "images" / "1.png"
    options = {"lossless": True} if kind == "WEBP" else {}
    Image.open(path).convert("RGB").save(path, format=kind, **options)
    expected = np.asarray(Image.open(path).convert("RGB"))
    check_both_accept(coco, tmp_path)
    assert [n for n in examine(coco)["notes"] if n.startswith(f"1 {photographs.RECODED}: ")]
    example = read_record(tmp_path, 1)
    np.testing.assert_array_equal(tf.io.decode_png(example["image_bytes"], 3), expected)


def read_record(tmp_path, number):
    (path,) = (tmp_path / "out").glob("*.tfrecord")
    return record.decode_example(list(tf.data.TFRecordDataset(str(path)))[number])


@pytest.mark.parametrize(
    "mode, kind", [("P", panoptic_files.PALETTE), ("RGBA", panoptic_files.ALPHA)]
)
def test_id_pngs_of_other_colour_types_are_noted(coco, tmp_path, mode, kind):
    path = coco.folder / "panoptic" / "1.png"
    rgb = Image.open(path)
    (rgb.quantize() if mode == "P" else rgb.convert(mode)).save(path)
    check_both_accept(coco, tmp_path)
    assert [n for n in examine(coco)["notes"] if n.startswith(f"1 {kind}: ")]


def test_swapped_channels_are_recognised(coco, tmp_path, caplog):
    """OpenCV writes BGR: the ids 70000, 300 and 9 of the JSON file are others in the PNG."""
    ids = coco.ids(1)
    path = coco.folder / "panoptic" / "1.png"
    Image.fromarray(segments.id_to_rgb(ids)[..., ::-1]).save(path)
    check_both_accept(coco, tmp_path)
    assert [n for n in examine(coco)["notes"] if n.startswith(f"1 {panoptic_files.SWAPPED}: ")]
    assert [m for m in caplog.messages if panoptic_files.SWAPPED in m]
    example = read_record(tmp_path, 1)
    names = np.concatenate([[0], example["segment_ids"]])
    np.testing.assert_array_equal(names[example["id_map"]], ids)
    # One id that fits neither way: the colours are what they are.
    ids[0, 0] = 5
    Image.fromarray(segments.id_to_rgb(ids)[..., ::-1]).save(path)
    check_both_refuse(coco, tmp_path / "2", "segments_info lacks 4 segment id")


def test_swapping_is_its_own_inverse():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 256**3, [5, 7], np.uint32)
    swapped = panoptic_files.swap_red_and_blue(ids)
    np.testing.assert_array_equal(segments.rgb_to_id(segments.id_to_rgb(ids)[..., ::-1]), swapped)
    np.testing.assert_array_equal(panoptic_files.swap_red_and_blue(swapped), ids)


@pytest.mark.parametrize("missing", [KeyError, None])
def test_missing_sizes_are_those_of_the_pngs(coco, tmp_path, missing):
    for key in ("height", "width"):
        if missing is KeyError:
            del coco.content["images"][1][key]
        else:
            coco.content["images"][1][key] = None
    instances = [{"id": 1, "image_id": 1, "category_id": 3, "segmentation": [[0, 0, 5, 0, 5, 5]]}]
    listed = [{"id": 1, "height": 21, "width": 17}]
    check_both_accept(coco, tmp_path, instances_json=coco.save_instances(instances, listed))
    (note,) = [n for n in examine(coco)["notes"] if "no height and width" in n]
    assert note.startswith("1 images have no height") and "image_id 1" in note
    example = read_record(tmp_path, 1)
    assert (int(example["height"]), int(example["width"])) == (21, 17)
    path = coco.folder / "panoptic" / "1.png"
    path.write_bytes(large_png(10**5, 10**5))
    check_both_refuse(coco, tmp_path / "2", r"1\.png: height x width 100000 x 100000 are more than")
    path.unlink()
    check_both_refuse(coco, tmp_path / "2", r"1\.png: no such file, for image_id 1, whose entry in")


def test_one_side_alone_is_no_size(coco, tmp_path):
    del coco.content["images"][1]["width"]
    check_both_refuse(coco, tmp_path, r"images\[1\]\.width must be an integer")


def test_segment_id_0_is_void(coco, tmp_path):
    coco.content["annotations"][1]["segments_info"][0]["id"] = 0
    check_both_refuse(coco, tmp_path, r"segments_info\[0\]\.id must be .* got 0\. Black pixels are")


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "I;16", "1"])
def test_every_kind_of_png_that_training_decodes(coco, tmp_path, mode):
    path = coco.folder / "images" / "1.png"
    image = Image.open(path)
    image = (
        Image.fromarray(np.zeros((21, 17), np.uint16)) if mode == "I;16" else image.convert(mode)
    )
    image.save(path)
    check_both_accept(coco, tmp_path)


def large_png(height, width):
    """A header of any size, and hardly anything behind it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return content + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("folder", ["images", "panoptic"])
@pytest.mark.parametrize("size", [(13000, 13000), (1, 2**31 - 1), (17, 21), (2**32 - 1, 2**32 - 1)])
def test_sizes_are_compared_before_pixels_are_decoded(coco, tmp_path, monkeypatch, folder, size):
    path = coco.folder / folder / "1.png"
    path.write_bytes(large_png(*size))
    if folder == "images":
        monkeypatch.setattr(tf.io, "decode_image", lambda *_, **__: pytest.fail("decoded"))
        coco.content["annotations"].pop(0)
    else:
        monkeypatch.setattr(id_png, "decode_id_png", lambda *_: pytest.fail("decoded"))
        coco.content["annotations"].pop(0)
        monkeypatch.setattr(images, "check_decodes", lambda _: None)
    message = rf"{folder}/1\.png: image_id 1 must be 21 x 17 .*, got {size[0]} x {size[1]}"
    check_both_refuse(coco, tmp_path, message)


def test_max_pixels(coco, tmp_path):
    check_both_refuse(coco, tmp_path, r"images\[1\]: .* 21 x 17 are more than 350 ", max_pixels=350)
    check_both_accept(coco, tmp_path, max_pixels=357)
    report = doctor.examine_records(
        input_path=str(tmp_path / "out" / "train-*"), max_pixels=350, build_quality=PanopticQuality
    )
    (problem,) = report["problems"]
    assert "record 1: height x width of the id map 21 x 17 are more than 350 pixels" in problem


def make_pipe(path):
    os.mkfifo(path)


def make_folder(path):
    path.mkdir()


def link_to_device(path):
    path.symlink_to("/dev/zero")


def link_to_itself(path):
    path.symlink_to(path)


NO_FILES = {
    "pipe": (make_pipe, "is a pipe or a device, not a file"),
    "device": (link_to_device, "is a pipe or a device, not a file"),
    "folder": (make_folder, "is a folder, not a file"),
    "loop": (link_to_itself, "Too many levels of symbolic links"),
    "nothing": (lambda path: None, "no such file"),
}


@pytest.mark.parametrize("folder", ["images", "panoptic"])
@pytest.mark.parametrize("case", NO_FILES)
def test_what_is_no_file_is_not_opened(coco, tmp_path, folder, case):
    make, message = NO_FILES[case]
    path = coco.folder / folder / "1.png"
    path.unlink()
    make(path)
    with pytest.raises(ValueError, match=rf"{folder}/1\.png: {message}, for image_id 1"):
        convert(coco, tmp_path)
    (problem,) = examine(coco)["problems"]
    assert f"{folder}/1.png: {message}; expected a" in problem


@pytest.mark.parametrize("case", NO_FILES)
@pytest.mark.parametrize("name", ["panoptic.json", "instances.json"])
def test_json_that_is_no_file(coco, tmp_path, case, name):
    make, _ = NO_FILES[case]
    path = coco.folder / name
    path.unlink(missing_ok=True)
    make(path)
    message = rf"{re.escape(name)}: .*; expected a COCO"
    options = {} if name == "panoptic.json" else {"instances_json": str(path)}
    with pytest.raises(ValueError, match=message) as error:
        convert(coco, tmp_path, **options)
    if options:
        assert str(error.value) in examine(coco, **options)["problems"]
    else:
        with pytest.raises(ValueError, match=message):
            examine(coco)


@pytest.mark.parametrize("make", [make_pipe, make_folder])
def test_shards_that_are_no_files(coco, tmp_path, make):
    convert(coco, tmp_path)
    make(tmp_path / "out" / "train-00001-of-00002.tfrecord")
    report = doctor.examine_records(
        input_path=str(tmp_path / "out" / "train-*.tfrecord"), build_quality=PanopticQuality
    )
    assert any("train-00001-of-00002.tfrecord: is a " in p for p in report["problems"])
    assert report["num_images"] == 2


def test_links_inside_a_data_set_are_followed(coco, tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    for folder in ("images", "panoptic"):
        path = coco.folder / folder / "1.png"
        path.rename(store / f"{folder}.png")
        path.symlink_to(store / f"{folder}.png")
    (coco.folder / "images" / "linked").symlink_to(store)
    (store / "0.png").write_bytes((coco.folder / "images" / "0.png").read_bytes())
    coco.content["images"][0]["file_name"] = "linked/0.png"
    check_both_accept(coco, tmp_path)


HOSTILE_NAMES = [
    *("..", "../1.png", "a/../1.png", "a\\..\\1.png", "/etc/passwd", "", None, 5, ["1.png"]),
    *(
        "1\0.png",
        "\ud800.png",
        "\udcff.png",
        "1\n.png",
        "1\x1b[2J.png",
        "x" * 256,
        "x/" * 9 + "ä" * 200,
    ),
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
@pytest.mark.parametrize("key", ["images", "annotations"])
def test_hostile_names(coco, tmp_path, key, name):
    coco.content[key][1]["file_name"] = name
    message = rf"panoptic\.json: {key}\[1\]\.file_name must (be a file name|stay inside)"
    check_both_refuse(coco, tmp_path, message)


@pytest.mark.parametrize("name", [".._x_gtFine_leftImg8bit.png", "a/.._gtFine_leftImg8bit.png"])
def test_the_city_of_a_cityscapes_name_never_leaves_the_folder(coco, tmp_path, name):
    for outside in (".._x_leftImg8bit.png", ".._leftImg8bit.png"):
        (coco.folder / outside).write_bytes((coco.folder / "images" / "1.png").read_bytes())
    coco.content["images"][1]["file_name"] = name
    check_both_refuse(
        coco, tmp_path, r"images\[1\]\.file_name must stay inside .*images, got '\.\."
    )


def test_a_very_long_path_ends_in_one_line(coco, tmp_path):
    coco.content["images"][1]["file_name"] = "x/" * 3000 + "1.png"
    with pytest.raises(ValueError, match="File name too long"):
        convert(coco.save(), tmp_path)
    (problem,) = examine(coco)["problems"]
    assert len(problem) < 700 and problem.isprintable()


NESTED = [[]]
for _ in range(700):
    NESTED = [NESTED]
LONG = 2**4000

WRONG_VALUES = [True, 1.5, "1", None, LONG, -LONG, float("nan"), [], {}, NESTED, "x" * 10**5]


@pytest.mark.parametrize("number", range(len(WRONG_VALUES)))
@pytest.mark.parametrize(
    "path, message",
    [
        (("images", 1, "id"), r"images\[1\]|image_id .* is not among"),
        (("images", 1, "height"), r"images\[1\]\.height must be an integer"),
        (("images", 1, "width"), r"images\[1\]\.width must be an integer"),
        (("images", 1), r"images\[1\](\.id)? must be an (object|integer)"),
        (("annotations", 1, "image_id"), r"annotations\[1\]\.image_id"),
        (("annotations", 1, "segments_info"), r"annotations\[1\]\.segments_info(\[0\])? must|PNG"),
        (("annotations", 1, "segments_info", 0), r"segments_info\[0\] must be an object|category"),
        (("annotations", 1, "segments_info", 0, "id"), r"segments_info\[0\]\.id must be|PNG"),
        (("annotations", 1, "segments_info", 0, "category_id"), r"category_id .* is not among"),
    ],
)
def test_wrong_values(coco, tmp_path, path, message, number):
    *steps, key = path
    place = coco.content
    for step in steps:
        place = place[step]
    place[key] = WRONG_VALUES[number]
    check_both_refuse(coco, tmp_path, message)


@pytest.mark.parametrize("value", [2, "1", 0.5, [], {}, NESTED, float("nan")])
def test_wrong_crowd_flags(coco, tmp_path, value):
    coco.content["annotations"][1]["segments_info"][0]["iscrowd"] = value
    check_both_refuse(
        coco, tmp_path, r"annotations\[1\]\.segments_info\[0\]\.iscrowd must be 0 or 1"
    )


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '{"images": 1' + "0" * 9999])
@pytest.mark.parametrize("name", ["panoptic.json", "instances.json"])
def test_nested_json(coco, tmp_path, name, text):
    (coco.folder / name).write_text(text)
    message = rf"{re.escape(name)}.*; expected a COCO"
    options = {} if name == "panoptic.json" else {"instances_json": str(coco.folder / name)}
    with pytest.raises(ValueError, match=message):
        convert(coco, tmp_path, **options)
    if not options:
        with pytest.raises(ValueError, match=message):
            examine(coco)
    else:
        assert re.search(message, "\n".join(examine(coco, **options)["problems"]))


def test_areas_that_nothing_reads_end_nothing(coco, tmp_path):
    """Records measure; `doctor` lists whole numbers that are wrong as problems, `convert` not."""
    table = coco.content["annotations"][1]["segments_info"]
    table[0].update(area=184.5, bbox=[0.5, 9.5, 16.5, 10.5])
    table[1].update(area="large", bbox=[-1, float("nan"), [], "x"])
    check_both_accept(coco, tmp_path)
    (note,) = examine(coco)["notes"]
    assert note.startswith("4 areas or boxes are not whole numbers of pixels")
    table[2].update(area=1, bbox=[0, 0, 1, 1])
    coco.save()
    assert len(examine(coco)["problems"]) == 2
    convert(coco, tmp_path, overwrite=True)
    (path,) = (tmp_path / "out").glob("*.tfrecord")
    _, example = map(record.decode_example, tf.data.TFRecordDataset(str(path)))
    rows = example["id_map"].numpy()
    assert example["segment_areas"].numpy().tolist() == np.bincount(rows.reshape(-1))[1:].tolist()


def test_no_annotation_at_all(coco, tmp_path):
    coco.content["annotations"] = []
    with pytest.raises(ValueError, match="'annotations' is empty"):
        convert(coco.save(), tmp_path)
    (problem,) = examine(coco)["problems"]
    assert "panoptic.json: " in problem and "'annotations' is empty" in problem


def with_orientation(image, kind, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    buffer = io.BytesIO()
    image.save(buffer, format=kind, exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_orientation_that_keeps_the_size_must_be_decided(coco, tmp_path, kind, caplog):
    path = coco.folder / "images" / "1.png"
    image = Image.open(path).convert("RGB")
    path.write_bytes(with_orientation(image, kind, 3))
    check_both_refuse(
        coco, tmp_path, r"1\.png: its EXIF orientation is 3, .* Give --exif=stored or"
    )
    assert [n for n in examine(coco, exif="stored")["notes"] if n.startswith(f"1 {images.TURNED}")]
    convert(coco, tmp_path, exif="stored")
    assert [m for m in caplog.messages if f"1 {images.TURNED}" in m]
    report = doctor.examine_records(
        input_path=str(tmp_path / "out" / "train-*"), build_quality=PanopticQuality
    )
    assert [n for n in report["notes"] if re.match("1 images have an EXIF.*image_id 1", n)]
    stored = tf.io.decode_image(read_record(tmp_path, 1)["image_bytes"]).numpy()
    convert(coco, tmp_path, exif="turned", overwrite=True)
    turned = tf.io.decode_image(read_record(tmp_path, 1)["image_bytes"]).numpy()
    # Two decoders of JPEG.
    np.testing.assert_allclose(
        turned.astype(int), stored[::-1, ::-1], atol=0 if kind == "PNG" else 8
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", [6, 8])
def test_orientation_is_applied_where_the_size_says_so(coco, tmp_path, kind, orientation):
    pixels = np.random.default_rng(0).integers(0, 256, [17, 21, 3], np.uint8)
    path = coco.folder / "images" / "1.png"
    path.write_bytes(with_orientation(Image.fromarray(pixels), kind, orientation))
    decoded = tf.io.decode_image(path.read_bytes()).numpy()
    check_both_accept(coco, tmp_path)
    assert [n for n in examine(coco)["notes"] if n.startswith(f"1 {photographs.APPLIED}")]
    found = tf.io.decode_png(read_record(tmp_path, 1)["image_bytes"]).numpy()
    difference = found.astype(int) - np.rot90(decoded, {6: -1, 8: 1}[orientation])
    assert np.abs(difference).max() <= (0 if kind == "PNG" else 8)  # Two decoders of JPEG.


@pytest.mark.parametrize("orientation", [1, 6])
def test_sizes_that_differ_whatever_the_orientation(coco, tmp_path, orientation):
    content = with_orientation(Image.new("RGB", (20, 16)), "PNG", orientation)
    (coco.folder / "images" / "1.png").write_bytes(content)
    remark = "; its EXIF orientation is 6" if orientation == 6 else ""
    message = rf"image_id 1 must be 21 x 17 .*, got 16 x 20{remark}\.$"
    check_both_refuse(coco, tmp_path, message)


@pytest.mark.parametrize("folder", ["images", "panoptic"])
def test_a_huge_comment(coco, tmp_path, folder):
    path = coco.folder / folder / "1.png"
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * 5_000_000, zip=True)
    Image.open(path).save(path, pnginfo=info)
    if folder == "images":  # TensorFlow does not look at it.
        check_both_accept(coco, tmp_path)
    else:
        check_both_refuse(coco, tmp_path, r"panoptic/1\.png: cannot be decoded \(Decompressed data")


def test_records_of_files_that_are_odd_say_so(coco, tmp_path):
    coco.content["annotations"][1]["segments_info"][0]["iscrowd"] = 1
    report = check_both_accept(coco, tmp_path)
    assert any(note.startswith("1 segments of stuff are crowds") for note in report["notes"])


def test_stuff_that_is_a_crowd_and_none(coco, tmp_path):
    """One segment in evaluation: it would not find its own ground truth."""
    table = coco.content["annotations"][1]["segments_info"]
    table[2]["category_id"] = table[0]["category_id"]
    check_both_refuse(coco, tmp_path, r"image_id 1: iscrowd .* id 200 \('grass'\) must be the same")
    table[0]["iscrowd"] = 1
    check_both_accept(coco, tmp_path)


def test_convert_says_what_doctor_notes(coco, tmp_path, caplog):
    coco.content["images"].append({"id": 9, "file_name": "9.png", "height": 5, "width": 5})
    convert(coco.save(), tmp_path)
    (note,) = examine(coco)["notes"]
    (message,) = [m for m in caplog.messages if "no annotation" in m]
    assert message == f"{coco.folder / 'panoptic.json'}: {note}"
    assert json.loads((tmp_path / "out" / "train.manifest.json").read_text())["num_records"] == 2

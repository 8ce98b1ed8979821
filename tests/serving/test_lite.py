"""The module that runs .tflite files without TensorFlow answers as `Predictor`, on its own."""

import dataclasses
import io
import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from panoptic_tf import lite
from panoptic_tf.inputs import geometry
from panoptic_tf.metrics.original_size import restore_original_size
from panoptic_tf.serving import tflite
from panoptic_tf.serving.predictor import Predictor
from panoptic_tf.structures import Prediction

SIZES = [(32, 48), (20, 30), (75, 200), (33, 47), (1, 1), (1, 90)]


@pytest.fixture(autouse=True)
def interpreter(monkeypatch):
    """TensorFlow's where ai-edge-litert is not installed."""
    if tflite.interpreter_class() is tf.lite.Interpreter:
        monkeypatch.setattr(lite, "litert", lambda: tf.lite)


def same(result, expected):
    for name in ("id_map", "category_mask", "instance_mask"):
        np.testing.assert_array_equal(getattr(result, name), getattr(expected, name), name)
    assert [s._asdict() for s in result.segments] == [
        dataclasses.asdict(s) for s in expected.segments
    ]


@pytest.mark.parametrize("size", [*SIZES, (333, 777), (600, 1)])
@pytest.mark.parametrize("frame", [(32, 48), (97, 65)])
def test_images_are_fitted_to_the_last_bit(size, frame):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    image, image_info = lite.fit_and_pad(pixels, frame)
    expected, expected_info = geometry.fit_and_pad(tf.constant(pixels), frame)
    assert image.dtype == image_info.dtype == np.float32
    np.testing.assert_array_equal(image, expected)
    np.testing.assert_array_equal(image_info, expected_info)


@pytest.mark.parametrize("size", SIZES)
def test_answers_are_those_of_the_predictor(tflite_path, make_image, size):
    pixels = make_image(*size)
    result = lite.Model(tflite_path, num_threads=1)(pixels)
    same(result, Predictor(tflite_path)(pixels))
    assert result.id_map.shape == size and result.id_map.dtype == np.int32


@pytest.mark.parametrize("image_format, orientation", [("PNG", 1), ("PNG", 6), ("TIFF", 8)])
def test_files_are_turned_as_exif_says(
    tflite_path, make_image, encode, tmp_path, image_format, orientation
):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(make_image(60, 40), image_format, exif=exif)
    path = tmp_path / "image"
    path.write_bytes(content)
    model, expected = lite.Model(tflite_path), Predictor(tflite_path)(content)
    for source in (content, path, str(path)):
        same(model(source), expected)
    assert expected.image_size == ((60, 40) if orientation == 1 else (40, 60))
    with Image.open(path) as picture:
        same(model(picture), Predictor(tflite_path)(Image.open(path)))


def test_jpeg_differs_by_its_decoder_alone(tflite_path, make_image, encode):
    content = encode(make_image(200, 300), "JPEG", quality=92)
    result, expected = lite.Model(tflite_path)(content), Predictor(tflite_path)(content)
    assert (result.category_mask == expected.category_mask).mean() >= 0.999
    assert (result.instance_mask == expected.instance_mask).mean() >= 0.999


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK"])
def test_colours_become_rgb(tflite_path, make_image, mode):
    picture = Image.fromarray(make_image(32, 48)).convert(mode)
    same(lite.Model(tflite_path)(picture), Predictor(tflite_path)(picture))


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.7, 1.0])
def test_threshold_makes_things_void(tflite_path, make_image, threshold):
    pixels = make_image(64, 96)
    result = lite.Model(tflite_path, score_threshold=threshold)(pixels)
    same(result, Predictor(tflite_path, score_threshold=threshold)(pixels))


def test_semantic_models_have_segments_without_scores(
    network, export_arguments, make_image, tmp_path
):
    keys = (Prediction.SEMANTIC_MASK, Prediction.IMAGE_SIZE)
    semantic = tf.keras.Model(network.input, {key: network.output[key] for key in keys})
    path = tflite.export_tflite(semantic, tflite_path=str(tmp_path / "m"), **export_arguments)
    result = lite.Model(path)(make_image(75, 200))
    same(result, Predictor(path)(make_image(75, 200)))
    assert {s.score for s in result.segments} == {None}


def test_what_only_detects_is_refused(network, export_arguments, tmp_path):
    boxes = tf.keras.layers.Lambda(lambda x: x[..., :4], name="boxes")(network.input["image_info"])
    detector = tf.keras.Model(network.input, {"detection_boxes": boxes})
    path = tflite.export_tflite(detector, tflite_path=str(tmp_path / "m"), **export_arguments)
    with pytest.raises(ValueError, match="only detects"):
        lite.Model(path)


def test_masks_go_to_the_original_size_as_in_evaluation():
    mask = np.random.default_rng(0).integers(0, 9, (20, 30)).astype(np.int32)
    rows, columns = lite._source_index(17, 400), lite._source_index(30, 31)
    expected = restore_original_size(mask, (17, 30), (400, 31))
    np.testing.assert_array_equal(mask[rows[:, None], columns], expected)


def test_description_is_read(tflite_path, dataset_info):
    model = lite.Model(tflite_path)
    assert model.input_size == (32, 48) and model.experiment == "stand_in"
    assert [c._asdict() for c in model.categories] == [
        dataclasses.asdict(c) for c in dataset_info.categories
    ]


def _described(path, tflite_path, change):
    """A copy with another description."""
    with zipfile.ZipFile(tflite_path) as archive:
        content = json.loads(archive.read(lite.FILE_NAME))
        start = archive.infolist()[0].header_offset
    change(content)
    with open(tflite_path, "rb") as file:
        buffer = io.BytesIO(file.read()[:start])
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(lite.FILE_NAME, json.dumps(content))
    path.write_bytes(buffer.getvalue())
    return path


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda content: content.pop("model"), r"malformed \(KeyError\('model'\)"),
        (lambda content: content.update(categories=3), "malformed"),
        (lambda content: content["categories"][0].pop("color"), "'color'"),
        (lambda content: content["model"].update(input_size=[3]), "malformed"),
        (lambda content: content["model"].update(input_size=[48, 32]), r"the model has \(32, 48\)"),
        (lambda content: content["model"].update(part="network"), "holds the part 'network'"),
        (lambda content: content.update(long="x" * lite.MAX_BYTES), "over 4,194,304 bytes"),
    ],
)
def test_descriptions_are_checked(tflite_path, tmp_path, change, message):
    path = _described(tmp_path / "m.tflite", tflite_path, change)
    with pytest.raises(ValueError, match=message) as raised:
        lite.Model(path)
    assert str(path) in str(raised.value)


def test_files_from_before_there_were_parts_are_whole(tflite_path, tmp_path):
    path = _described(
        tmp_path / "m.tflite", tflite_path, lambda content: content["model"].pop("part")
    )
    assert lite.Model(path).input_size == (32, 48)


@pytest.mark.parametrize(
    "image, message",
    [
        (np.zeros([4, 4, 3], np.float32), r"uint8 \[H, W, 3\], got float32"),
        (np.zeros([4, 4], np.uint8), r"got uint8 \[4, 4\]"),
        (np.zeros([0, 4, 3], np.uint8), r"got uint8 \[0, 4, 3\]"),
        (b"%!PS-Adobe", "cannot be read"),
        (b"", "cannot be read"),
        (3, "expected a path, bytes, an array or a Pillow image"),
        (Image.new("I", (4, 4)), "8 bits a channel are needed"),
        (Image.new("RGB", (200, 200)), "200 x 200 pixels, over 30,000"),
        ("none.jpg", "none.jpg: No such file"),
    ],
)
def test_images_that_cannot_be_read_are_named(tflite_path, image, message):
    with pytest.raises(ValueError, match=message):
        lite.Model(tflite_path, max_pixels=30_000)(image)


def test_damaged_files_are_named(tflite_path, make_image, encode, tmp_path):
    path = tmp_path / "cut.png"
    path.write_bytes(encode(make_image(60, 40))[:400])
    with pytest.raises(ValueError, match="cut.png cannot be read"):
        lite.Model(tflite_path)(path)


def test_arguments_are_checked(tflite_path, monkeypatch):
    with pytest.raises(ValueError, match=r"score_threshold must lie in 0..1, got 2"):
        lite.Model(tflite_path, score_threshold=2)
    with pytest.raises(ValueError, match="none.tflite: No such file"):
        lite.Model("none.tflite")
    if hasattr(lite.litert(), "load_delegate"):
        with pytest.raises(ValueError, match="the delegate no_such.so cannot be loaded"):
            lite.Model(tflite_path, delegates=["no_such.so"])


def test_delegates_reach_the_interpreter(tflite_path, monkeypatch):
    given = {}

    def interpreter(**options):
        given.update(options)
        raise RuntimeError("seen")

    runtime = type("Runtime", (), {"Interpreter": staticmethod(interpreter)})
    runtime.load_delegate = staticmethod(lambda path: f"loaded {path}")
    monkeypatch.setattr(lite, "litert", lambda: runtime)
    with pytest.raises(ValueError, match="cannot be loaded: seen"):
        lite.Model(tflite_path, num_threads=3, delegates=["npu.so", object])
    assert given["num_threads"] == 3
    assert given["experimental_delegates"] == ["loaded npu.so", object]


def test_missing_runtime_is_named(tflite_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(ImportError, match="pip install ai-edge-litert"):
        lite.Model(tflite_path)


def test_copy_beside_a_model_needs_no_package(tflite_path, tmp_path):
    path = tflite.write_runner(str(tmp_path / "model.tflite"))
    assert path == str(tmp_path / "panoptic_tf_lite.py")
    code = (
        "import sys, panoptic_tf_lite as lite; lite.read_description(sys.argv[1]);"
        "print(sorted({'tensorflow', 'panoptic_tf', 'absl'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, tflite_path]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

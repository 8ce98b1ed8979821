"""A device without TensorFlow: an environment of a few packages, the files, the docs' lines."""

import dataclasses
import importlib.metadata
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import small_systems
import tensorflow as tf
from PIL import Image

from panoptic_tf import lite
from panoptic_tf.serving import tflite
from panoptic_tf.serving.predictor import Predictor

pytest.importorskip("ai_edge_litert", reason="needs the extra edge")
pytestmark = pytest.mark.slow

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "edge.md"
REST = """
import importlib.util, json, sys
import numpy as np
assert importlib.util.find_spec("tensorflow") is None
assert importlib.util.find_spec("panoptic_tf") is None
np.save("id_map.npy", result.id_map)
json.dump([s._asdict() for s in result.segments], open("segments.json", "w"))
"""


# Of the segmenter after the lines of the page.
REST_OF_MEDIAPIPE = """
import importlib.util, json
import numpy as np
assert importlib.util.find_spec("tensorflow") is None
np.save("category_mask.npy", mask)
with vision.ImageSegmenter.create_from_options(options) as segmenter:
    result = segmenter.segment(mp.Image.create_from_file("photo.jpg"))
    np.save("sums.npy", sum(mask.numpy_view() for mask in result.confidence_masks))
    json.dump(list(segmenter.labels), open("labels.json", "w"))
"""
MEDIAPIPE = "mediapipe==1.2.3"


def documented_command():
    """What installs three packages on a device."""
    text = PAGE.read_text(encoding="utf-8")
    (command,) = re.findall(r"^    (pip install ai-edge-litert.*)$", text, re.MULTILINE)
    return command


def documented_lines(first):
    """The Python lines of the page from the one that starts so."""
    text = PAGE.read_text(encoding="utf-8")
    lines = re.match(r"(?:    .*\n|\n)+", text[text.index(f"    {first}\n") :]).group()
    return re.sub("^    ", "", lines, flags=re.MULTILINE)


def install(packages, folder):
    """The Python of a new environment in a folder; skips the test where pip has not all of it."""
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", *packages], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"pip cannot install {' '.join(packages)} here: {done.stderr[-300:]}")
    return python


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    """The Python of a new environment, in an empty folder."""
    names = documented_command().split()[2:]
    # The versions at hand, so that equality is not one of versions.
    packages = [f"{name}=={importlib.metadata.version(name)}" for name in names]
    return install(packages, tmp_path_factory.mktemp("device"))


def test_documented_lines_run_without_tensorflow(device):
    folder = device.parents[2]
    tf.keras.utils.set_random_seed(3)  # Weights that find two segments.
    (row,) = (row for row in small_systems.ROWS if row.system == "panoptic_deeplab")
    task = small_systems.row_task(row)
    path = tflite.export_tflite(
        task.build_model().inference_network,
        tflite_path=str(folder / "model.tflite"),
        **small_systems.export_arguments(task),
    )
    tflite.write_runner(path)
    pixels = np.random.default_rng(0).integers(0, 256, (90, 70, 3)).astype(np.uint8)
    photo = folder / "photo.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(photo, "PNG", exif=exif)  # pixels that every decoder agrees on

    lines = documented_lines("from panoptic_tf_lite import Model")
    done = subprocess.run([device, "-c", lines + REST], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]

    expected = Predictor(path)(str(photo))
    np.testing.assert_array_equal(np.load(folder / "id_map.npy"), expected.id_map)
    segments = json.loads((folder / "segments.json").read_text())
    assert segments == json.loads(json.dumps([dataclasses.asdict(s) for s in expected.segments]))
    assert len(segments) > 1 and expected.image_size == (70, 90)
    assert all(segment["name"] in done.stdout for segment in segments)


def test_mediapipe_segments_with_the_semantic_file(tmp_path):
    python = install([MEDIAPIPE], tmp_path)
    tf.keras.utils.set_random_seed(3)
    (row,) = (row for row in small_systems.ROWS if row.system == "panoptic_deeplab")
    task = small_systems.row_task(row)
    arguments = small_systems.export_arguments(task)
    path = tflite.export_tflite(
        task.build_model().inference_network,
        tflite_path=str(tmp_path / "model_semantic.tflite"),
        part="semantic",
        **arguments,
    )
    size = arguments["input_size"]
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg", "PNG")
    lines = documented_lines("import mediapipe as mp")
    done = subprocess.run(
        [python, "-c", lines + REST_OF_MEDIAPIPE], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]

    assert json.loads((tmp_path / "labels.json").read_text()) == list(task.dataset_info.names[1:])
    np.testing.assert_allclose(np.load(tmp_path / "sums.npy"), 1.0, atol=1e-4)
    run = tflite.interpreter_class()(model_path=path).get_signature_runner(lite.SIGNATURE)
    logits = run(image=pixels[np.newaxis].astype(np.float32))["semantic_logits"]
    # MediaPipe enlarges them with the corners aligned.
    logits = tf.compat.v1.image.resize_bilinear(logits, size, align_corners=True)[0]
    expected = tf.argmax(logits, axis=-1).numpy()
    assert len(np.unique(expected)) > 1
    found = np.squeeze(np.load(tmp_path / "category_mask.npy"))
    assert np.mean(found == expected) >= 0.999

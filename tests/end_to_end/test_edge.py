"""A device without TensorFlow: an environment of three packages, two files, the docs' lines."""

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

from panoptic_tf.serving import tflite
from panoptic_tf.serving.predictor import Predictor

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


def documented_lines():
    """The Python lines of the page below the command that installs three packages."""
    text = PAGE.read_text(encoding="utf-8")
    (command,) = re.findall(r"^    (pip install ai-edge-litert.*)$", text, re.MULTILINE)
    behind = text.split(command, 1)[1]
    start = behind.index("    from panoptic_tf_lite import Model")
    lines = re.match(r"(?:    .*\n|\n)+", behind[start:]).group()
    return command, re.sub("^    ", "", lines, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    """The Python of a new environment, in an empty folder."""
    pytest.importorskip("ai_edge_litert", reason="needs the package ai-edge-litert")
    folder = tmp_path_factory.mktemp("device")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    command, _ = documented_lines()
    # The versions at hand, so that equality is not one of versions.
    packages = [f"{name}=={importlib.metadata.version(name)}" for name in command.split()[2:]]
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", *packages], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"pip cannot install {' '.join(packages)} here: {done.stderr[-300:]}")
    return python


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

    _, lines = documented_lines()
    done = subprocess.run([device, "-c", lines + REST], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]

    expected = Predictor(path)(str(photo))
    np.testing.assert_array_equal(np.load(folder / "id_map.npy"), expected.id_map)
    segments = json.loads((folder / "segments.json").read_text())
    assert segments == json.loads(json.dumps([dataclasses.asdict(s) for s in expected.segments]))
    assert len(segments) > 1 and expected.image_size == (70, 90)
    assert all(segment["name"] in done.stdout for segment in segments)

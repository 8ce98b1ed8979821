"""The SavedModel without Python: the program of export/embed, and what the graph is made of."""

import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from small_systems import ROWS, export_arguments, row_task
from tensorflow.core.protobuf import saved_model_pb2

from panoptic_tf.datasets import shapes
from panoptic_tf.serving.export import export_saved_model

ROOT = pathlib.Path(__file__).parent.parent.parent
NEEDS_PYTHON = {"PyFunc", "PyFuncStateless", "EagerPyFunc", "NumpyFunc"}


@pytest.fixture(scope="module", params=ROWS, ids=lambda row: row.system)
def folder(request, tmp_path_factory):
    """The SavedModel of a system; its random weights are made larger, until it finds something."""
    tf.keras.utils.set_random_seed(1)
    task = row_task(request.param)
    model = task.build_model()
    for variable in model.inference_network.weights:
        if variable.shape.rank >= 2:
            variable.assign(2.0 * variable)
        elif "bias" in variable.name:  # of class logits: so low that nothing is found
            variable.assign(tf.zeros_like(variable))
    return export_saved_model(
        model.inference_network,
        export_dir=str(tmp_path_factory.mktemp(request.param.system)),
        warmup_batch_sizes=(),
        **export_arguments(task),
    )


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    for tool in ("make", "cc"):
        if shutil.which(tool) is None:
            pytest.skip(f"there is no {tool} to build the C program with")
    path = tmp_path_factory.mktemp("embed") / "panoptic"
    command = ["make", "-C", str(ROOT / "export" / "embed"), f"OUTPUT={path}"]
    command += [f"PYTHON={sys.executable}", "CFLAGS=-O1 -Wall -Wextra -Werror"]
    subprocess.run(command, check=True, capture_output=True)
    return str(path)


def run(program, *arguments, stdout=subprocess.PIPE):
    # Of the environment it gets what keeps TensorFlow quiet: no path of Python, no settings.
    return subprocess.run(
        [program, *map(str, arguments)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env={"TF_CPP_MIN_LOG_LEVEL": "3"},
        timeout=300,
    )


@pytest.mark.slow
def test_the_graph_needs_no_python(folder):
    content = pathlib.Path(folder, "saved_model.pb").read_bytes()

    graph = saved_model_pb2.SavedModel.FromString(content).meta_graphs[0].graph_def
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    operators = {node.op for node in nodes}
    assert {"DecodeImage", "Conv2D"} <= operators
    assert not operators & NEEDS_PYTHON


@pytest.mark.slow
def test_c_program_equals_python(program, folder, tmp_path):
    """A photograph that fits, as JPEG, and one that is larger than the output."""
    drawn = shapes.generate_image(5, 0, 64).image
    part, large = tmp_path / "part.jpg", tmp_path / "large.png"
    Image.fromarray(drawn[:40, :56]).save(part, quality=90)
    Image.fromarray(drawn.repeat(3, 0).repeat(2, 1)).save(large)
    signature = tf.saved_model.load(folder).signatures["image_bytes"]
    for path in (part, large):
        expected = {
            key: value[0].numpy()
            for key, value in signature(image_bytes=tf.constant([path.read_bytes()])).items()
        }
        ended = run(program, folder, path, tmp_path / f"{path.stem}_")
        assert ended.returncode == 0, ended.stderr
        height, width = expected["image_size"]
        for name in ("category", "instance"):
            mask = np.asarray(Image.open(tmp_path / f"{path.stem}_{name}.pgm"))
            np.testing.assert_array_equal(mask, expected[f"{name}_mask"][:height, :width])
        count = expected["num_segments"]
        assert count >= 1
        rows = [line.split() for line in ended.stdout.splitlines()[1:]]
        keys = ("segment_category", "segment_instance", "segment_score", "segment_area")
        np.testing.assert_allclose(
            np.array(rows, np.float64),
            np.stack([expected[key][:count] for key in keys], axis=1),
            atol=6e-5,
        )


def assert_fails(ended, message):
    assert ended.returncode == 1
    said = ended.stderr.splitlines()[-1]  # libjpeg may say something before
    assert said.startswith("panoptic: ") and message in said, ended.stderr


@pytest.mark.slow
def test_c_program_says_what_is_wrong(program, folder, tmp_path):
    if "deeplab" not in folder:
        pytest.skip("one system is enough")
    text = tmp_path / "text.jpg"
    text.write_text("no photograph")
    photo = tmp_path / "photo.png"
    Image.fromarray(shapes.generate_image(5, 0, 64).image).save(photo)
    for arguments, message in (
        ([folder, text, tmp_path / "x_"], f"{text}: no JPEG or PNG"),
        ([folder, tmp_path / "none.jpg", tmp_path / "x_"], "none.jpg cannot be opened"),
        ([tmp_path, photo, tmp_path / "x_"], f"{tmp_path}: "),
        ([folder, photo, tmp_path / "x_", "nothing"], "has no signature nothing"),
        ([folder, photo, tmp_path / "x_", "image_tensor"], "no tensor image_bytes"),
        ([folder, photo, tmp_path / "no_folder" / "x_"], "cannot be written"),
    ):
        assert_fails(run(program, *arguments), message)
        assert not list(tmp_path.glob("x_*"))
    assert run(program).returncode == 2


@pytest.mark.slow
def test_c_program_that_cannot_write(program, saved_model_dir, tmp_path):
    folder = os.path.join(saved_model_dir, "1")
    photo = tmp_path / "photo.png"
    Image.fromarray(shapes.generate_image(5, 0, 64).image).save(photo)
    (tmp_path / "x_category.pgm").mkdir()
    assert_fails(run(program, folder, photo, tmp_path / "x_"), "x_category.pgm cannot be written")
    assert [path.name for path in tmp_path.glob("x_*")] == ["x_category.pgm"]
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    with open("/dev/full", "w") as full:
        ended = run(program, folder, photo, tmp_path / "y_", stdout=full)
    assert_fails(ended, "standard output cannot be written")
    assert not list(tmp_path.glob("y_*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "index, message",
    [
        ("x", "no number from 0"),
        ("", "no number from 0"),
        ("1x", "no number from 0"),
        ("-1", "no number from 0"),
        (str(2**32), "no number from 0"),
        (str(2**70), "no number from 0"),
        ("77", "no output 77 for valid"),
    ],
)
def test_c_program_refuses_the_number_of_an_output(
    index, message, program, saved_model_dir, tmp_path
):
    changed = tmp_path / "changed"
    shutil.copytree(os.path.join(saved_model_dir, "1"), changed)
    model = saved_model_pb2.SavedModel.FromString((changed / "saved_model.pb").read_bytes())
    output = model.meta_graphs[0].signature_def["image_bytes"].outputs["valid"]
    output.name = f"{output.name.split(':')[0]}:{index}"
    (changed / "saved_model.pb").write_bytes(model.SerializeToString())
    photo = tmp_path / "photo.png"
    Image.fromarray(shapes.generate_image(5, 0, 64).image).save(photo)
    assert_fails(run(program, changed, photo, tmp_path / "x_"), message)

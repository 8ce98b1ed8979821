"""Small files of every kind that a command takes, right and wrong ones."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from panoptic_tf.datasets import converter, shapes_writer

DRIVER = pathlib.Path(__file__).parent / "driver.py"


def _write_run(folder, experiment, named=None):
    """A checkpoint of a single variable beside the `params.yaml` of an experiment."""
    import tensorflow as tf
    from official.core import exp_factory

    from panoptic_tf import systems  # noqa: F401
    from panoptic_tf.training import run_folder

    folder.mkdir()
    tf.train.CheckpointManager(
        tf.train.Checkpoint(variable=tf.Variable(tf.zeros(2))), str(folder), max_to_keep=1
    ).save(checkpoint_number=1)
    run_folder.write_params(exp_factory.get_exp_config(experiment), str(folder), named)


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """The folder that stands for {tmp} in the arguments."""
    folder = tmp_path_factory.mktemp("files")
    json_path = shapes_writer.write_split(
        str(folder / "shapes"), seed=1, num_images=2, size=32, num_processes=1, show_progress=False
    )
    panoptic = json.loads(pathlib.Path(json_path).read_text())
    converter.convert_dataset(
        "coco_panoptic",
        panoptic_json=json_path,
        panoptic_dir=str(folder / "shapes" / "panoptic"),
        image_dir=str(folder / "shapes" / "images"),
        output_dir=str(folder / "records"),
        split="val",
        num_processes=1,
    )
    _write_run(folder / "deeplab_run", "panoptic_deeplab_shapes")
    _write_run(folder / "named_run", "panoptic_deeplab_shapes", named="panoptic_deeplab_shapes")
    (folder / "empty").mkdir()
    (folder / "none-00000-of-00001").write_bytes(b"")
    (folder / "a_file").write_text("text\n")
    (folder / "list.yaml").write_text("- a\n- b\n")
    (folder / "broken.yaml").write_text("task: {a: 1\n")
    (folder / "deep.yaml").write_text("[" * 5000)
    (folder / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    (folder / "wrong_key.yaml").write_text("task:\n  train_dat:\n    cache: true\n")
    (folder / "wrong_type.yaml").write_text("trainer:\n  train_steps: many\n")
    (folder / "broken.json").write_text('{"images": [')
    (folder / "list.json").write_text("[1, 2]")
    (folder / "fpn.yaml").write_text("experiment: panoptic_fpn_shapes\n")
    (folder / "fcn.yaml").write_text("experiment: panoptic_fcn_shapes\n")
    (folder / "typo.yaml").write_text("experiment: panoptic_fpn_shape\n")
    (folder / "mode.yaml").write_text("experiment: panoptic_fpn_shapes\nmode: trian\n")
    (folder / "number.yaml").write_text("experiment: 7\n")
    (folder / "fake.tflite").write_bytes(b"\x1c\x00\x00\x00TFL3" + bytes(64))
    (folder / "fake.pkl").write_bytes(b"\x80\x04]q\x00.")
    for name in ("fake.png", "records/picture.png"):
        (folder / name).write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    del panoptic["categories"]
    (folder / "no_categories.json").write_text(json.dumps(panoptic))
    return folder


@pytest.fixture(scope="session")
def run_all(tmp_path_factory):
    """Runs lists of arguments; the results of `driver.run` in the same order."""

    def run(inputs, **environment):
        folder = tmp_path_factory.mktemp("driver")
        (folder / "inputs.json").write_text(json.dumps(inputs))
        subprocess.run(
            [sys.executable, str(DRIVER), folder / "inputs.json", folder / "results.json"],
            cwd=folder,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **environment},
            check=True,
            timeout=1800,
        )
        return json.loads((folder / "results.json").read_text())

    return run

"""Runs the commands of the README as they stand, after a short demo."""

import json
import os
import pathlib
import pickle
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands():
    """The shell commands of the README, in order, but for those that set up."""
    lines = "".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("panoptic-tf ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, demo_folder):
    """An empty folder with nothing but `runs/demo` and the file that is imported."""
    path = tmp_path_factory.mktemp("readme")
    (path / "runs").mkdir()
    shutil.copytree(demo_folder, path / "runs" / "demo")
    write_published_weights(path / "model_final_c10459.pkl")
    return path


def write_published_weights(path):
    """Random numbers under the names and in the shapes of detectron2's Panoptic FPN R50."""
    names = ROOT / "tests" / "checkpoints" / "names" / "detectron2_panoptic_fpn_R_50_1x.txt"
    rng = np.random.default_rng(0)
    state = {}
    for name, shape in (line.split() for line in names.read_text().splitlines()):
        sizes = [int(length) for length in shape.split("x")]
        values = np.abs(rng.standard_normal(sizes, np.float32))
        state[name] = values if len(sizes) == 1 else values / np.prod(sizes[1:], dtype=np.float32)
    with open(path, "wb") as file:
        pickle.dump({"model": state, "__author__": "Detectron2 Model Zoo"}, file)


def run(folder, command, **kwargs):
    environment = {
        **os.environ,
        "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, **kwargs
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


@pytest.fixture(scope="module")
def runs(folder):
    """What the commands leave behind, run in their order."""
    assert len(commands()) >= 10
    for command in commands():
        run(folder, command, shell=True)
    return folder / "runs"


def load(path):
    return json.loads(path.read_text())


def test_commands_of_the_walk_through_work_in_order(runs):
    for name in (
        *("evaluation/report.html", "score/metrics.json", "predictions/predictions.json"),
        "imported_predictions/predictions.json",
    ):
        assert (runs / name).exists(), name
    (program,) = blocks("python")
    run(runs.parent, [sys.executable, "-c", program])


def test_scores_are_those_of_the_demo(runs):
    expected = load(runs / "demo" / "metrics.json")
    metrics = load(runs / "evaluation" / "metrics.json")
    assert metrics["step"] == 30
    for folder, form in (
        ("evaluation", "keras"),
        ("evaluation_saved_model", "saved_model"),
        ("evaluation_tflite", "tflite_float32"),
    ):
        found = load(runs / folder / "metrics.json")
        assert found["PQ"] == pytest.approx(expected[form]["PQ"], abs=1e-6), form

    # The result files are what the COCO tools read, and score the same.
    scored = load(runs / "score" / "metrics.json")
    for name in ("PQ", "ECE"):
        assert scored[name] == pytest.approx(metrics[name], abs=1e-6)
    things = {row["dataset_id"] for row in scored["per_category"] if row["is_thing"]}
    results = load(runs / "evaluation" / "coco_instances_results.json")
    assert {result["category_id"] for result in results} <= things


def test_training_leaves_metrics_and_panels(runs):
    import tensorflow as tf

    assert load(runs / "model" / "metrics.json")["step"] == 20
    paths = [str(path) for path in (runs / "model" / "validation").glob("events.*")]
    events = map(tf.compat.v1.Event.FromString, tf.data.TFRecordDataset(paths).as_numpy_iterator())
    tags = {value.tag for event in events for value in event.summary.value}
    assert {"PQ", "mIoU", "panel/0", "panel/3"} <= tags


def test_set_up_commands_are_targets_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^make (\w+)", "".join(blocks("sh")), flags=re.MULTILINE)
    assert set(targets) == {"demo", "test", "install"}
    for target in set(targets):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target

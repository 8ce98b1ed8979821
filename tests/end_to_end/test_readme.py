"""Runs the commands of the README as they stand, after a short demo."""

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


def test_commands_of_the_walk_through_work_in_order(folder):
    assert len(commands()) >= 10
    for command in commands():
        run(folder, command, shell=True)
    for name in (
        *("evaluation/report.html", "score/metrics.json", "predictions/predictions.json"),
        "imported_predictions/predictions.json",
    ):
        assert (folder / "runs" / name).exists(), name
    (program,) = blocks("python")
    run(folder, [sys.executable, "-c", program])


def test_set_up_commands_are_targets_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^make (\w+)", "".join(blocks("sh")), flags=re.MULTILINE)
    assert set(targets) == {"demo", "test", "install"}
    for target in set(targets):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target

"""One short demo for all end-to-end tests."""

import subprocess
import sys

import pytest


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory):
    """The folder of a demo of 48 images and 30 steps; output.txt holds what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "demo"
    command = [
        *(sys.executable, "-m", "panoptic_tf.experiments.cli", "demo", f"--output_dir={folder}"),
        *("--num_train_images=48", "--num_val_images=8", "--train_steps=30"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (folder / "output.txt").write_text(done.stdout + done.stderr)
    return folder

"""One short demo for all end-to-end tests."""

import subprocess
import sys

import pytest


def run_command(*arguments, expect=0):
    """Runs `panoptic-tf` in a process of its own; returns what it prints."""
    command = [sys.executable, "-m", "panoptic_tf.experiments.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == expect, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="session")
def panoptic_tf_command():
    """`run_command`."""
    return run_command


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory):
    """The folder of a demo of 48 images and 30 steps; output.txt holds what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "demo"
    arguments = ("--num_train_images=48", "--num_val_images=8", "--train_steps=30")
    output = run_command("demo", f"--output_dir={folder}", *arguments)
    (folder / "output.txt").write_text(output)
    return folder

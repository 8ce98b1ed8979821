"""What the benchmarks of faults share: commands in processes of their own, and small data sets."""

from __future__ import annotations

import pathlib
import sys
from typing import Dict, List

from panoptic_tf.datasets import shapes_writer


def command(*arguments: str) -> List[str]:
    """The arguments of a process that runs `panoptic-tf <arguments>`."""
    return [sys.executable, "-m", "panoptic_tf.experiments.cli", *arguments]


def write_shapes(folder: pathlib.Path, count: int) -> Dict[str, str]:
    """Draws shapes of 64x64 and returns the paths that `convert` takes, by flag."""
    json_path = shapes_writer.write_split(
        str(folder), seed=count, num_images=count, size=64, show_progress=False
    )
    return {
        "panoptic_json": json_path,
        "panoptic_dir": str(folder / "panoptic"),
        "image_dir": str(folder / "images"),
    }

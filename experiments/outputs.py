"""Where a command writes: looked at, or made, before the work."""

from __future__ import annotations

import os

from panoptic_tf.api.paths import check_can_write

__all__ = ["check_can_write", "make_output_dir"]


def make_output_dir(path: str) -> None:
    """Makes the folder of --output_dir, if there is none, and looks whether one can write there.

    Raises:
      ValueError: something else has its name, or it cannot be written to.
      OSError: it cannot be made.
    """
    path = path or "."
    try:
        os.makedirs(path, exist_ok=True)
    except FileExistsError as error:
        raise ValueError(f"--output_dir: {error.filename} is not a folder.") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise ValueError(f"--output_dir: {path} cannot be written to.")

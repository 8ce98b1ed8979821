"""Where a command writes: looked at, or made, before the work."""

from __future__ import annotations

import os


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


def check_can_write(flag: str, path: str) -> None:
    """Looks whether a file can be written, before anything is built; writes nothing.

    Raises:
      ValueError: its folder is no folder or cannot be written to, or a folder has the file's name.
    """
    if "://" in path:
        return
    if os.path.isdir(path):
        raise ValueError(f"--{flag}: {path} is a folder; expected the name of a file.")
    folder = os.path.dirname(os.path.abspath(path))
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        raise ValueError(f"--{flag}: {folder} is not a folder.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"--{flag}: {folder} cannot be written to.")

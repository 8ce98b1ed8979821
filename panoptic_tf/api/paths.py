"""Where results go, looked at before the work."""

from __future__ import annotations

import os


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

"""Reading untrusted files, writing whole ones: clear errors, nothing half-written, no escapes."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from typing import Any, Iterator


@contextlib.contextmanager
def atomic_path(path: str) -> Iterator[str]:
    """Gives a temporary name beside `path`, renamed to it when the block ends without an error.

    Raises:
      OSError: the folder cannot be created or written; the message names it.
    """
    folder = os.path.dirname(os.path.abspath(path))
    try:
        os.makedirs(folder, exist_ok=True)
        handle, temporary = tempfile.mkstemp(
            dir=folder, prefix="." + os.path.basename(path), suffix=".tmp"
        )
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror}") from error
    os.close(handle)
    try:
        yield temporary
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def write_bytes(path: str, content: bytes) -> None:
    """Writes a whole file atomically."""
    with atomic_path(path) as temporary:
        with open(temporary, "wb") as file:
            file.write(content)


def write_json(path: str, content: Any) -> None:
    """Writes JSON atomically; NaN and infinity are refused."""
    write_bytes(path, json.dumps(content, indent=1, allow_nan=False).encode())


def read_json(path: str, *, expected: str) -> Any:
    """Reads a JSON file.

    Args:
      path: the file.
      expected: what the file should be, for the error message.

    Raises:
      ValueError: the file does not exist, cannot be read, or is not JSON.
    """
    try:
        with open(path, "rb") as file:
            return json.loads(file.read())
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; expected {expected}.") from error
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); expected {expected}.") from error


def inside(folder: str, file_name: Any, *, source: str) -> str:
    """Joins a file name that came from data to its folder, and refuses any way out of it.

    Args:
      folder: the folder that must hold the file.
      file_name: the untrusted name; sub-folders are fine.
      source: file and field the name came from, for the error message.

    Raises:
      ValueError: not a relative path below the folder.
    """
    if not isinstance(file_name, str) or not file_name or "\0" in file_name:
        raise ValueError(f"{source} must be a file name, got {file_name!r}.")
    root = os.path.realpath(folder)
    path = os.path.realpath(os.path.join(root, file_name))
    escapes = os.path.isabs(file_name) or ".." in file_name.replace("\\", "/").split("/")
    if escapes or os.path.commonpath([root, path]) != root:
        raise ValueError(f"{source} must stay inside {folder}, got {file_name!r}.")
    return os.path.join(folder, file_name)

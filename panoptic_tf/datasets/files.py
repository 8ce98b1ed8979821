"""Reading untrusted files, writing whole ones: clear errors, nothing half-written, no escapes."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
import unicodedata
from typing import Any, Iterator, Optional

_MAX_NAME_BYTES = 255
"""What file systems allow between two slashes."""

_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")
"""Control characters, halves of surrogate pairs, ends of lines and paragraphs."""


@contextlib.contextmanager
def atomic_path(path: str) -> Iterator[str]:
    """Gives a temporary name beside `path`, renamed to it when the block ends without an error.

    Raises:
      OSError: the file cannot be created or written, or the disk is full; the message names it.
    """
    folder = os.path.dirname(os.path.abspath(path))
    try:
        os.makedirs(folder, exist_ok=True)
        handle, temporary = tempfile.mkstemp(
            dir=folder, prefix="." + os.path.basename(path)[: _MAX_NAME_BYTES // 4], suffix=".tmp"
        )
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror}") from error
    os.close(handle)
    try:
        yield temporary
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            raise OSError(error.errno, f"cannot write {path}: {error.strerror}") from error
        raise


def write_bytes(path: str, content: bytes) -> None:
    """Writes a whole file atomically."""
    with atomic_path(path) as temporary:
        with open(temporary, "wb") as file:
            file.write(content)


def write_json(path: str, content: Any) -> None:
    """Writes JSON atomically; NaN and infinity are refused."""
    write_bytes(path, json.dumps(content, indent=1, allow_nan=False).encode())


def file_problem(path: str) -> Optional[str]:
    """Why a path is no file that can be read, or None; links are followed.

    What is no regular file is never opened: a pipe would wait for its other end.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "no such file"
    except OSError as error:
        return error.strerror
    if stat.S_ISDIR(mode):
        return "is a folder, not a file"
    return None if stat.S_ISREG(mode) else "is a pipe or a device, not a file"


def read_bytes(path: str, *, expected: str) -> bytes:
    """Reads a whole file.

    Args:
      path: the file.
      expected: what the file should be, for the error message.

    Raises:
      ValueError: no such file, no regular file, or it cannot be read.
    """
    problem = file_problem(path)
    try:
        if problem is None:
            with open(path, "rb") as file:
                return file.read()
    except OSError as error:
        problem = error.strerror
    raise ValueError(f"{path}: {problem}; expected {expected}.")


def read_json(path: str, *, expected: str) -> Any:
    """Reads a JSON file.

    Args:
      path: the file.
      expected: what the file should be, for the error message.

    Raises:
      ValueError: the file does not exist, cannot be read, or is not JSON.
    """
    if not os.path.lexists(path):
        raise ValueError(f"{path}: No such file or directory; expected {expected}.")
    content = read_bytes(path, expected=expected)
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError(f"{path}: nested too deeply; expected {expected}.") from error
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); expected {expected}.") from error


def is_printable(text: str) -> bool:
    """Whether a text can be written as UTF-8 in one line."""
    return not any(unicodedata.category(character) in _UNPRINTABLE for character in text)


def shown(value: Any, *, most: int = 80) -> str:
    """The `repr` of a value for a message, its middle left out where it is long."""
    return shorten(repr(value), most=most)


def shorten(text: str, *, most: int = 500) -> str:
    """Cuts the middle out of a message that some value of a hostile file made long."""
    if len(text) <= most:
        return text
    kept = (most - 5) // 2
    return f"{text[:kept]} ... {text[-kept:]}"


def inside(folder: str, file_name: Any, *, source: str, follow_links: bool = False) -> str:
    """Joins a file name that came from data to its folder, and refuses any way out of it.

    Args:
      folder: the folder that must hold the file.
      file_name: the untrusted name; sub-folders are fine.
      source: file and field the name came from, for the error message.
      follow_links: links in the folder, which its owner made, may lead out of it.

    Raises:
      ValueError: not a relative path below the folder, or no name that a file can have.
    """
    if not isinstance(file_name, str) or not file_name or not is_printable(file_name):
        raise ValueError(f"{source} must be a file name, got {shown(file_name)}.")
    parts = file_name.replace("\\", "/").split("/")
    if max(len(part.encode()) for part in parts) > _MAX_NAME_BYTES:
        raise ValueError(
            f"{source} must be a file name of at most {_MAX_NAME_BYTES} bytes, "
            f"got {shown(file_name)}."
        )
    escapes = os.path.isabs(file_name) or ".." in parts
    if not escapes and not follow_links:
        root = os.path.realpath(folder)
        path = os.path.realpath(os.path.join(root, file_name))
        escapes = os.path.commonpath([root, path]) != root
    if escapes:
        raise ValueError(f"{source} must stay inside {folder}, got {file_name!r}.")
    return os.path.join(folder, file_name)

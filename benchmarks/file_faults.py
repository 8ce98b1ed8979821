"""Faults of files, and how a command ended that met them; shared by the fuzz benchmarks."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import random
import re
import signal
import traceback
import zlib
from typing import Callable, Iterator, List, Tuple

from PIL import Image

_MOST_LINES, _MOST_CHARACTERS = 5, 2000


class _Hang(BaseException):
    pass


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended: well, with problems in one line each, with a traceback, or not."""

    problems: List[str]
    trace: str = ""
    hangs: bool = False


def run(command: Callable[[], List[str]], seconds: int) -> Ended:
    """Runs a command, which returns the problems it collects or raises the first."""

    def stop(*_):
        raise _Hang()

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return Ended(command())
    except _Hang:
        return Ended([f"more than {seconds} s"], hangs=True)
    except (ValueError, OSError) as error:  # What the command line says in one line.
        is_ours = not isinstance(error, (UnicodeError, json.JSONDecodeError))
        return Ended([str(error)], "" if is_ours else traceback.format_exc())
    except Exception as error:
        return Ended([str(error)], traceback.format_exc())
    finally:
        signal.alarm(0)


def listing(folder: str) -> set:
    """Names of all files and folders below a folder."""
    return {
        os.path.relpath(os.path.join(root, name), folder)
        for root, folders, names in os.walk(folder)
        for name in [*folders, *names]
    }


def check_messages(folder: str, messages: List[str]) -> Iterator[Tuple[str, str]]:
    """Yields messages that are long, or name neither file nor field."""
    for text in messages:
        is_long = text.count("\n") >= _MOST_LINES or len(text) > _MOST_CHARACTERS
        if is_long or not (folder in text or re.search(r"must be|'\w+'|[a-z_]+\[\d+\]", text)):
            yield "message", text


def flip(rng: random.Random, path: str) -> None:
    """Flips a bit."""
    change(path, lambda data: _flipped(rng, data))


def _flipped(rng: random.Random, data: bytes) -> bytes:
    if not data:
        return data
    changed = bytearray(data)
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(rng: random.Random, path: str) -> None:
    """Cuts the end off."""
    change(path, lambda data: data[: rng.randrange(len(data) + 1)])


def change(path: str, changed: Callable[[bytes], bytes]) -> None:
    """Changes the content of a file, if it is one."""
    if not os.path.isfile(path):
        return
    with open(path, "rb") as file:
        data = file.read()
    with open(path, "wb") as file:
        file.write(changed(data))


def rewrite_header(rng: random.Random, path: str) -> None:
    """Another size or kind in the header, its checksum right."""

    def rewritten(data: bytes) -> bytes:
        header = bytearray(data[16:29])
        if len(header) < 13:
            return data
        kind = rng.choice(("size", "depth", "color"))
        if kind == "size":
            size = rng.choice((0, 1, 13, 13000, 2**31 - 1))
            header[0:4] = size.to_bytes(4, "big")
        header[8] = rng.choice((1, 2, 4, 8, 16, 3)) if kind == "depth" else header[8]
        header[9] = rng.choice((0, 2, 3, 4, 6, 1)) if kind == "color" else header[9]
        checksum = zlib.crc32(b"IHDR" + bytes(header)).to_bytes(4, "big")
        return data[:16] + bytes(header) + checksum + data[33:]

    change(path, rewritten)


def other_image(rng: random.Random, path: str) -> None:
    """Another mode, size or format under the same name."""
    size = rng.choice(((16, 12), (12, 16), (1, 1)))
    mode = rng.choice(("RGB", "L", "P", "1", "RGBA", "I;16", "LA"))
    image_format = rng.choice(("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"))
    with contextlib.suppress(OSError, ValueError):
        if os.path.isfile(path):
            Image.new(mode, size).save(path, format=image_format)


def replace_file(rng: random.Random, path: str) -> None:
    """Something else where the file was."""
    if os.path.lexists(path) and not os.path.isdir(path):
        os.unlink(path)
    kind = rng.choice(("nothing", "empty", "folder", "pipe", "link", "loop", "outside"))
    with contextlib.suppress(OSError):
        if kind == "empty":
            open(path, "wb").close()
        elif kind == "folder":
            os.mkdir(path)
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "link":
            os.symlink(f"{1 if path.endswith('0.png') else 0}.png", path)
        elif kind == "loop":
            os.symlink(os.path.basename(path), path)
        elif kind == "outside":
            os.symlink("/dev/zero", path)

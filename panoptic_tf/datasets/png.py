"""The chunks of a PNG file (ISO/IEC 15948), and their checksums."""

from __future__ import annotations

import zlib
from typing import Iterator, NamedTuple, Tuple

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_SIZE = slice(16, 24)  # of IHDR, which comes first


class Chunk(NamedTuple):
    """One chunk; fewer bytes than it should have where the file ends early.

    Attributes:
      kind: four letters, the first of which is upper case where the pixels depend on it.
      data: what it holds.
      checksum: as the file says.
    """

    kind: bytes
    data: bytes
    checksum: bytes


def chunks(content: bytes) -> Iterator[Chunk]:
    """The chunks of a PNG, up to IEND or where the file ends."""
    start, kind = len(SIGNATURE), b""
    while start + 8 <= len(content) and kind != b"IEND":
        kind = content[start + 4 : start + 8]
        end = start + 8 + int.from_bytes(content[start : start + 4], "big")
        yield Chunk(kind, content[start + 8 : end], content[end : end + 4])
        start = end + 4


def header_size(content: bytes) -> Tuple[int, int]:
    """Reads (height, width) from the header.

    Raises:
      OSError: not a PNG, or cut off in the header.
    """
    sides = content[_SIZE]
    if not content.startswith(SIGNATURE) or len(sides) < 8:
        raise OSError("not a PNG with a whole header")
    return int.from_bytes(sides[4:], "big"), int.from_bytes(sides[:4], "big")


def check_lengths(content: bytes) -> None:
    """Checks that no chunk is longer than the file: libpng allocates what it says, up to 2 GiB.

    Raises:
      OSError: one is.
    """
    for kind, _, checksum in chunks(content):
        if len(checksum) < 4:
            raise OSError(f"damaged or cut off: its chunk {kind!r} is longer than the file")


def check_whole(content: bytes) -> None:
    """Checks the checksums of all chunks that the pixels depend on, which Pillow does not.

    Raises:
      OSError: a checksum is wrong, or the end is missing.
    """
    kind = b""
    for kind, data, checksum in chunks(content):
        found = zlib.crc32(data, zlib.crc32(kind)).to_bytes(4, "big")
        if kind[:1].isupper() and checksum != found:
            raise OSError(f"damaged or cut off: the checksum of its chunk {kind!r} is wrong")
    if kind != b"IEND":
        raise OSError("cut off: it ends without the chunk IEND")

"""Arguments of a pickle's opcodes, read from mapped bytes: a claimed length allocates nothing.

Long strings stay where they are until an array is read from them; see `Blob`.
"""

from __future__ import annotations

import codecs
import dataclasses
import struct
from typing import Any, Callable, Dict, Tuple, Union

import numpy as np

from panoptic_tf.checkpoints.readers.mapped import MappedFile

# Strings of more bytes stay in the file. Names and configurations are shorter.
LONG_STRING = 64 * 1024
# Protocol 0 writes an array as one line of text, which is decoded at once. The largest array of a
# network here has 51 MB; text can be six times as long, but for zeros only.
_MAX_LINE = 256 * 1024 * 1024
# Longer numbers are no counts; making them from decimal digits takes time quadratic in these.
_MAX_NUMBER = 256
_COUNTED_AT_ONCE = 1 << 24


class Refused(ValueError):
    """What a pickle holds that weights do not; the message says what."""


@dataclasses.dataclass(frozen=True)
class Blob:
    """A long string that stays in the file.

    Attributes:
      data: its bytes there.
      is_text: whether they are UTF-8; else they are what is meant.
    """

    data: memoryview
    is_text: bool = False

    def encoded_size(self) -> int:
        """Bytes that `encoded` has; no string is made.

        Raises:
          Refused: text with characters that are no bytes.
        """
        if not self.is_text:
            return len(self.data)
        size = 0
        for start in range(0, len(self.data), _COUNTED_AT_ONCE):
            values = np.frombuffer(self.data[start : start + _COUNTED_AT_ONCE], np.uint8)
            # From 0xc4 on, UTF-8 is beyond latin1.
            if values.max() >= 0xC4:
                raise Refused("text that is encoded as latin1 has characters beyond it")
            size += int(np.count_nonzero((values & 0xC0) != 0x80))
        return size

    def encoded(self) -> Union[bytes, memoryview]:
        """The bytes that it stands for; text in latin1."""
        return bytes_from_text(str(self.data, "utf-8")) if self.is_text else self.data


def bytes_from_text(text: str) -> bytes:
    """Text in latin1, as protocols before 3 write bytes."""
    try:
        return text.encode("latin1")
    except UnicodeEncodeError as error:
        raise Refused("text that is encoded as latin1 has characters beyond it") from error


class Arguments:
    """Reads one argument after the other.

    Args:
      file: the mapped file.
      start: first byte of the pickle.
      stop: the byte after the last that it may reach.
    """

    def __init__(self, file: MappedFile, start: int, stop: int):
        self._file = file
        self._view = file.view(0, stop)
        self._stop = stop
        self.position = start

    def take(self, size: int) -> memoryview:
        """The next bytes.

        Raises:
          CheckpointError: there are fewer.
        """
        start = self.position
        if size > self._stop - start:
            raise self._ends(f"what starts at byte {start} reaches to byte {start + size}")
        self.position = start + size
        return self._view[start : self.position]

    def line(self) -> bytes:
        """The bytes up to the next line's end, which is skipped."""
        end = self._file.content.find(b"\n", self.position, self._stop)
        if end < 0:
            raise self._ends(f"a line that starts at byte {self.position} has no end")
        if end - self.position > _MAX_LINE:
            raise Refused(f"a line of {end - self.position} bytes")
        line = bytes(self._view[self.position : end])
        self.position = end + 1
        return line

    def _ends(self, what: str) -> ValueError:
        if self._stop == self._file.size:
            return self._file.ends_early(what)
        return ValueError(f"{what}, but the pickle ends at byte {self._stop}")

    def unpack(self, form: str) -> Any:
        """A number of fixed size."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]


def _fixed(form: str) -> Callable[[Arguments], Any]:
    return lambda arguments: arguments.unpack(form)


def _bytes(form: str) -> Callable[[Arguments], Union[bytes, Blob]]:
    def read(arguments: Arguments) -> Union[bytes, Blob]:
        data = arguments.take(arguments.unpack(form))
        return Blob(data) if len(data) > LONG_STRING else bytes(data)

    return read


def _old_string(form: str) -> Callable[[Arguments], Union[str, Blob]]:
    """A str of Python 2: text or bytes, which latin1 can hold both."""

    def read(arguments: Arguments) -> Union[str, Blob]:
        size = arguments.unpack(form)
        if size < 0:
            raise Refused(f"a string of {size} bytes")
        data = arguments.take(size)
        return Blob(data) if size > LONG_STRING else str(data, "latin1")

    return read


def _text(form: str) -> Callable[[Arguments], Union[str, Blob]]:
    def read(arguments: Arguments) -> Union[str, Blob]:
        data = arguments.take(arguments.unpack(form))
        if len(data) > LONG_STRING:
            return Blob(data, is_text=True)
        return str(data, "utf-8", "surrogatepass")

    return read


def _long(form: str) -> Callable[[Arguments], int]:
    def read(arguments: Arguments) -> int:
        size = arguments.unpack(form)
        if not 0 <= size <= _MAX_NUMBER:
            raise Refused(f"a number of {size} bytes")
        return int.from_bytes(arguments.take(size), "little", signed=True)

    return read


def _number_line(arguments: Arguments) -> str:
    line = arguments.line()
    if len(line) > _MAX_NUMBER:
        raise Refused(f"a number of {len(line)} digits")
    return line.decode("ascii")


def _short_decimal(arguments: Arguments) -> Union[int, bool]:
    line = _number_line(arguments)
    return {"00": False, "01": True}.get(line) if line in ("00", "01") else int(line)  # type: ignore


def _quoted(arguments: Arguments) -> str:
    line = arguments.line().strip()
    if len(line) < 2 or line[0] != line[-1] or line[:1] not in (b"'", b'"'):
        raise Refused("a string without quotes")
    return codecs.escape_decode(line[1:-1])[0].decode("latin1")  # type: ignore[attr-defined]


def _pair(arguments: Arguments) -> Tuple[str, str]:
    return _name(arguments), _name(arguments)


def _name(arguments: Arguments) -> str:
    return arguments.line().decode("utf-8")


READERS: Dict[str, Callable[[Arguments], Any]] = {
    "uint1": _fixed("<B"),
    "uint2": _fixed("<H"),
    "uint4": _fixed("<I"),
    "uint8": _fixed("<Q"),
    "int4": _fixed("<i"),
    "float8": _fixed(">d"),
    "bytes1": _bytes("<B"),
    "bytes4": _bytes("<I"),
    "bytes8": _bytes("<Q"),
    "bytearray8": _bytes("<Q"),
    "string1": _old_string("<B"),
    "string4": _old_string("<i"),
    "unicodestring1": _text("<B"),
    "unicodestring4": _text("<I"),
    "unicodestring8": _text("<Q"),
    "long1": _long("<B"),
    "long4": _long("<i"),
    "decimalnl_short": _short_decimal,
    "decimalnl_long": lambda arguments: int(_number_line(arguments).rstrip("L")),
    "floatnl": lambda arguments: float(_number_line(arguments)),
    "stringnl": _quoted,
    "stringnl_noescape": _name,
    "stringnl_noescape_pair": _pair,
    "unicodestringnl": lambda arguments: str(arguments.line(), "raw-unicode-escape"),
}
"""By what `pickletools` calls the argument of an opcode."""

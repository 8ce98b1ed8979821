"""JPEG and PNG files of a data set: the size in the header, EXIF orientation, and the proof that
training can decode them.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import TYPE_CHECKING, Callable, Iterator, Tuple

from PIL import Image

from panoptic_tf.datasets import png

# The functions that decode import it, so that a client needs seconds less to start.
if TYPE_CHECKING:
    import tensorflow as tf

MAX_PIXELS = 50_000_000
"""Default limit of height times width; its pixels take 150 MB."""

EXPECTED = "a JPEG or PNG image"

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif")
"""Of the names of photographs, in lower case."""

_PILLOW_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "HEIF")
"""HEIF is there when a plug-in has registered it. Pillow has readers that start other programs."""

APPLY, IGNORE = EXIF = ("apply", "ignore")
"""What inference does with an EXIF orientation: it turns the picture, or leaves it as stored."""

TURNED = "images have an EXIF orientation, which is not applied: masks must fit the stored pixels"
"""A kind of `Notes`."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF orientation (tag 0x0112)."""

_BACK = {6: 8, 8: 6}
"""Orientations whose turn is not undone by itself."""

JPEG_SIGNATURE = b"\xff\xd8\xff"
_EXIF_HEADER = b"Exif\0\0"
_ORIENTATION = 0x0112
_APP1, _START_OF_SCAN = 0xE1, 0xDA


def header_size(content: bytes) -> Tuple[int, int]:
    """Reads (height, width) from the header; nothing is decoded.

    Raises:
      ValueError: neither JPEG nor PNG, or the header is damaged.
    """
    import tensorflow as tf

    is_png = content.startswith(png.SIGNATURE)
    if not is_png and not content.startswith(JPEG_SIGNATURE):
        raise ValueError(f"it starts with {content[:8]!r}")
    try:
        if is_png:
            return png.header_size(content)
        height, width = tf.io.extract_jpeg_shape(content).numpy()[:2].tolist()
    except OSError as error:
        raise ValueError(str(error)) from error
    except tf.errors.OpError as error:
        raise ValueError(_reason(error)) from error
    return height, width


def decode_on_cpu() -> None:
    """Leaves the GPUs to others; without effect where TensorFlow has them already."""
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices([], "GPU")


def check_decodes(content: bytes) -> None:
    """Decodes an image with the decoder of training.

    Args:
      content: of a JPEG or PNG file.

    Raises:
      ValueError: training could not decode it.
    """
    import tensorflow as tf

    try:
        if content.startswith(png.SIGNATURE):
            png.check_lengths(content)
        tf.io.decode_image(content, channels=3, expand_animations=False)
    except OSError as error:
        raise ValueError(str(error)) from error
    except tf.errors.OpError as error:
        raise ValueError(_reason(error)) from error


def open_picture(content: bytes) -> Image.Image:
    """Opens a photograph with Pillow, which decodes it when it is used.

    Raises:
      Exception: whatever Pillow meets; `UnidentifiedImageError` of any other kind of file.
    """
    Image.init()
    formats = [each for each in _PILLOW_FORMATS if each in Image.OPEN]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes, which are checked
        return Image.open(io.BytesIO(content), formats=formats)


def in_frame(picture: Image.Image, orientation: int, *, is_turned: bool) -> Image.Image:
    """The picture as EXIF says, or as it is stored.

    Args:
      picture: what `open_picture` returned, decoded or not.
      orientation: its own, read before it was decoded: Pillow turns TIFF, and only TIFF, itself.
      is_turned: as EXIF says.
    """
    is_already = picture.format == "TIFF"
    if orientation == 1 or is_already == is_turned:
        return picture
    return picture.transpose(
        _TURNS[orientation if is_turned else _BACK.get(orientation, orientation)]
    )


def orientation(content: bytes) -> int:
    """EXIF orientation of a JPEG or PNG file, 1 (as stored) where it has none that can be read."""

    def read_exif() -> Image.Exif:
        exif = Image.Exif()
        exif.load(_exif_block(content))
        return exif

    return orientation_of(read_exif)


def orientation_of(read_exif: Callable[[], Image.Exif]) -> int:
    """The orientation in what a function returns, 1 (as stored) where there is none."""
    try:
        found = read_exif().get(_ORIENTATION, 1)
    except Exception:  # Metadata of any kind; Pillow raises what it meets.
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _exif_block(content: bytes) -> bytes:
    if content.startswith(png.SIGNATURE):
        found = (c.data for c in png.chunks(content) if c.kind == b"eXIf")
    else:
        found = (
            data
            for marker, data in _jpeg_segments(content)
            if marker == _APP1 and data.startswith(_EXIF_HEADER)
        )
    return next(found, b"")


def _jpeg_segments(content: bytes) -> Iterator[Tuple[int, bytes]]:
    """Markers and data of the segments before the pixels."""
    start = 2
    while True:
        start = content.find(b"\xff", start)
        if start < 0 or start + 4 > len(content):
            return
        marker = content[start + 1]
        if marker == _START_OF_SCAN:
            return
        if marker == 0xFF:  # fill byte
            start += 1
            continue
        end = start + 2 + int.from_bytes(content[start + 2 : start + 4], "big")
        yield marker, content[start + 4 : end]
        start = end


def _reason(error: tf.errors.OpError) -> str:
    """What TensorFlow says, without where in its graph."""
    text = (error.message or type(error).__name__).splitlines()[0]
    return text.split("} ", 1)[-1].split(" [Op:")[0].rstrip(".")

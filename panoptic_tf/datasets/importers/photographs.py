"""Photographs as people have them, to bytes that the graph decodes.

JPEG and PNG are kept as they are; what Pillow reads beside them becomes a PNG of the same pixels.
Where EXIF data turn a picture, the size that the annotation states says which frame its masks are
of: that of the stored pixels, or that of the turned picture, which is then stored turned.
"""

from __future__ import annotations

import dataclasses
import io
from typing import NamedTuple, Optional, Tuple

from PIL import Image, TiffImagePlugin

from panoptic_tf.datasets import checks, files, images, png
from panoptic_tf.datasets.importers.source import Size

EXPECTED = "a photograph that Pillow reads (JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF)"

APPLIED = "images have an EXIF orientation, which was applied: the annotations are of that size"
RECODED = "images are neither JPEG nor PNG and are stored as PNG"
"""Kinds of `Notes`."""

AUTO, STORED, TURNED = EXIF = ("auto", "stored", "turned")
"""What annotations of turned pictures are of: the stored pixels, the turned picture, or what the
stated size says; where that cannot tell, `auto` is an error."""

_EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")


def check_exif(exif: str) -> None:
    """Raises ValueError unless it is one of `EXIF`."""
    if exif not in EXIF:
        raise ValueError(f"exif must be one of {', '.join(EXIF)}, got {files.shown(exif)}.")


@dataclasses.dataclass(frozen=True)
class Photograph:
    """An image that training can decode.

    Attributes:
      content: JPEG or PNG.
      size: (height, width) of its pixels.
      notes: kinds of `Notes`.
    """

    content: bytes
    size: Size
    notes: Tuple[str, ...] = ()


def read(
    path: str,
    *,
    stated: Optional[Size] = None,
    max_pixels: int,
    exif: str = AUTO,
    whose: str = "",
) -> Photograph:
    """Reads a photograph.

    Args:
      path: the file.
      stated: (height, width) that its annotation states; None where it states none.
      max_pixels: limit of height times width.
      exif: one of `EXIF`, for pictures that EXIF data turn.
      whose: the image's id, for the error message; optional.

    Raises:
      ValueError: no photograph, damaged, too large, of another size than stated, or turned by EXIF
        data where nothing says which frame the annotation is of; the message names the file.
    """
    opened = _open(path)
    size, orientation = opened.size, opened.orientation
    is_applied = orientation > 1 and _is_of_turned(path, size, stated, orientation, exif)
    frame = size[::-1] if is_applied and orientation > 4 else size
    if stated is not None and tuple(stated) != frame:
        turned = f"; its EXIF orientation is {orientation}" if orientation > 1 else ""
        raise ValueError(
            f"{path}:{f' {whose}' if whose else ''} must be {stated[0]} x {stated[1]} (height x "
            f"width of its annotation), got {size[0]} x {size[1]}{turned}."
        )
    if size[0] * size[1] > max_pixels:
        raise ValueError(
            f"{path}: {size[0]} x {size[1]} (height x width) are more than {max_pixels:,} pixels. "
            "Raise --max_pixels if that is meant."
        )
    notes = [] if orientation == 1 else [APPLIED if is_applied else images.TURNED]
    if opened.picture is None and not is_applied:
        checks.check_image(opened.content, path, lambda _: None)
        return Photograph(opened.content, size, tuple(notes))
    if opened.picture is not None:
        notes.append(RECODED)
    picture = opened.picture or _open_picture(opened.content, path)
    pixels = _decode(picture, path, orientation, is_applied)
    if (pixels.height, pixels.width) != frame:
        raise ValueError(
            f"{path}: has {pixels.height} x {pixels.width} pixels (height x width), which is not "
            f"the size in its header, {size[0]} x {size[1]}."
        )
    return Photograph(_as_png(pixels), frame, tuple(notes))


def size_and_orientation(path: str) -> Tuple[Size, int]:
    """(height, width) of the stored pixels and the EXIF orientation; nothing is decoded.

    Raises:
      ValueError: no photograph; the message names the file.
    """
    opened = _open(path)
    return opened.size, opened.orientation


class _Opened(NamedTuple):
    """A file whose header was read.

    Attributes:
      content: the file.
      picture: what Pillow opened; None of JPEG and PNG, which are kept.
      size: (height, width) of the stored pixels.
      orientation: EXIF orientation.
    """

    content: bytes
    picture: Optional[Image.Image]
    size: Size
    orientation: int


def _open(path: str) -> _Opened:
    content = files.read_bytes(path, expected=EXPECTED)
    if content.startswith((png.SIGNATURE, images.JPEG_SIGNATURE)):
        return _Opened(content, None, _header_size(content, path), images.orientation(content))
    picture = _open_picture(content, path)
    size = (picture.height, picture.width)
    if isinstance(picture, TiffImagePlugin.TiffImageFile):  # Pillow may have the turned size.
        tags = (TiffImagePlugin.IMAGELENGTH, TiffImagePlugin.IMAGEWIDTH)
        size = (int(picture.tag_v2[tags[0]]), int(picture.tag_v2[tags[1]]))
    return _Opened(content, picture, size, images.orientation_of(picture.getexif))


def _is_of_turned(
    path: str, size: Size, stated: Optional[Size], orientation: int, exif: str
) -> bool:
    """Whether an annotation is of the turned picture."""
    if exif != AUTO:
        return exif == TURNED
    if stated is None or orientation <= 4 or size[0] == size[1]:
        raise ValueError(
            f"{path}: its EXIF orientation is {orientation}, and it is not clear whether its "
            "annotation is of the stored pixels or of the turned picture. Give --exif=stored or "
            "--exif=turned, or save the picture without an orientation."
        )
    return tuple(stated) == size[::-1]


def _header_size(content: bytes, path: str) -> Size:
    try:
        return images.header_size(content)
    except ValueError as error:
        raise ValueError(f"{path}: cannot be decoded ({error}); expected {EXPECTED}.") from error


def _open_picture(content: bytes, path: str) -> Image.Image:
    try:
        return images.open_picture(content)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: cannot be decoded; expected {EXPECTED}.") from error


def _decode(picture: Image.Image, path: str, orientation: int, is_turned: bool) -> Image.Image:
    """The pixels, turned as EXIF says where that is wanted; only 8 bits a channel are lossless."""
    if picture.mode not in _EIGHT_BITS:
        raise ValueError(f"{path}: has pixels of mode {picture.mode!r}; expected 8 bits a channel.")
    try:
        return images.in_frame(picture, orientation, is_turned=is_turned).convert("RGB")
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise ValueError(f"{path}: cannot be decoded ({error}); expected {EXPECTED}.") from error


def _as_png(pixels: Image.Image) -> bytes:
    content = io.BytesIO()
    pixels.info.clear()  # What was not applied must not be applied later.
    pixels.save(content, "PNG")
    return content.getvalue()

"""Photographs as people have them, to bytes that the graph decodes.

JPEG and PNG are kept as they are; what Pillow reads beside them becomes a PNG of the same pixels.
Where EXIF data turn a picture, the size that the annotation states says which frame its masks are
of: that of the stored pixels, or that of the turned picture, which is then stored turned.
"""

from __future__ import annotations

import dataclasses
import io
import warnings
from typing import Optional, Tuple

from PIL import Image, ImageOps

from panoptic_tf.datasets import checks, files, images, png
from panoptic_tf.datasets.importers.source import Size

EXPECTED = "a photograph that Pillow reads (JPEG, PNG, WebP, TIFF, BMP, AVIF)"

APPLIED = "images have an EXIF orientation, which was applied: the annotations are of that size"
RECODED = "images are neither JPEG nor PNG and are stored as PNG"
"""Kinds of `Notes`."""

AUTO, STORED, TURNED = EXIF = ("auto", "stored", "turned")
"""What annotations of turned pictures are of: the stored pixels, the turned picture, or what the
stated size says; where that cannot tell, `auto` is an error."""

_EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")


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
    path: str, *, stated: Optional[Size] = None, max_pixels: int, exif: str = AUTO
) -> Photograph:
    """Reads a photograph.

    Args:
      path: the file.
      stated: (height, width) that its annotation states; None where it states none.
      max_pixels: limit of height times width.
      exif: one of `EXIF`, for pictures that EXIF data turn.

    Raises:
      ValueError: no photograph, damaged, too large, of another size than stated, or turned by EXIF
        data where nothing says which frame the annotation is of; the message names the file.
    """
    content = files.read_bytes(path, expected=EXPECTED)
    is_kept = content.startswith((png.SIGNATURE, images.JPEG_SIGNATURE))
    picture = None if is_kept else _open(content, path)
    size = _header_size(content, path) if picture is None else (picture.height, picture.width)
    if size[0] * size[1] > max_pixels:
        raise ValueError(
            f"{path}: {size[0]} x {size[1]} (height x width) are more than {max_pixels:,} pixels. "
            "Raise --max_pixels if that is meant."
        )
    orientation = images.orientation(content) if picture is None else _orientation(picture)
    is_applied = orientation > 1 and _is_of_turned(path, size, stated, orientation, exif)
    frame = size[::-1] if is_applied and orientation > 4 else size
    if stated is not None and tuple(stated) != frame:
        raise ValueError(
            f"{path}: must be {stated[0]} x {stated[1]} (height x width of its annotation), got "
            f"{size[0]} x {size[1]}."
        )
    notes = [] if orientation == 1 else [APPLIED if is_applied else images.TURNED]
    if is_kept and not is_applied:
        checks.check_image(content, path, lambda _: None)
        return Photograph(content, size, tuple(notes))
    if not is_kept:
        notes.append(RECODED)
    return Photograph(_as_png(picture or _open(content, path), path), frame, tuple(notes))


def _is_of_turned(
    path: str, size: Size, stated: Optional[Size], orientation: int, exif: str
) -> bool:
    """Whether an annotation is of the turned picture."""
    if exif != AUTO:
        return exif == TURNED
    if stated is None or orientation <= 4 or size[0] == size[1]:
        raise ValueError(
            f"{path}: its EXIF orientation is {orientation}, and nothing tells whether its "
            "annotation is of the stored pixels or of the turned picture. Say --exif=stored or "
            "--exif=turned, or save the picture without an orientation."
        )
    return tuple(stated) == size[::-1]


def _header_size(content: bytes, path: str) -> Size:
    try:
        return images.header_size(content)
    except ValueError as error:
        raise ValueError(f"{path}: cannot be decoded ({error}); expected {EXPECTED}.") from error


def _open(content: bytes, path: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Image.open(io.BytesIO(content))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: cannot be read; expected {EXPECTED}.") from error


def _orientation(picture: Image.Image) -> int:
    return images.orientation_of(picture.getexif)


def _as_png(picture: Image.Image, path: str) -> bytes:
    """The pixels, turned as EXIF says; only 8 bits a channel are lossless."""
    if picture.mode not in _EIGHT_BITS:
        raise ValueError(f"{path}: has pixels of mode {picture.mode!r}; expected 8 bits a channel.")
    try:
        turned = ImageOps.exif_transpose(picture).convert("RGB")
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise ValueError(f"{path}: cannot be decoded ({error}); expected {EXPECTED}.") from error
    content = io.BytesIO()
    turned.save(content, "PNG")
    return content.getvalue()

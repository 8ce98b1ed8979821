"""The images of a measurement: given, or drawn."""

from __future__ import annotations

import dataclasses
import io
from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from PIL import Image

from panoptic_tf.datasets import files
from panoptic_tf.serving import image_source

MOST = 64
"""So many images are taken at most; they are held in memory."""

_NUM_DRAWN = 8
_GRAIN = 16


class NamedImage(NamedTuple):
    """An image as a user has it.

    Attributes:
      name: for messages.
      content: of a file.
    """

    name: str
    content: bytes


@dataclasses.dataclass(frozen=True)
class Images:
    """Which images are predicted.

    Attributes:
      paths: of files; none where images are drawn.
      size: (height, width) of drawn ones.
    """

    paths: Tuple[str, ...] = ()
    size: Optional[Tuple[int, int]] = None

    @property
    def description(self) -> str:
        """A few words."""
        if self.size is None:
            return f"{len(self.paths)} given"
        return f"{_NUM_DRAWN} of noise, {self.size[0]}x{self.size[1]}, JPEG"


def given(paths: Sequence[str], *, max_pixels: int) -> Images:
    """The first of some files, each of which is decoded once.

    Args:
      paths: of the files.
      max_pixels: see `image_source.read_image`.

    Raises:
      ValueError: one cannot be read; the message names it.
    """
    taken = tuple(paths[:MOST])
    for path in taken:
        image_source.read_image(path, max_pixels=max_pixels)
    return Images(paths=taken)


def read(images: Images) -> List[NamedImage]:
    """Reads the files, or draws.

    Noise is blurred, so that its JPEGs are of about the length of photographs'.
    """
    if images.size is None:
        expected = image_source.EXPECTED
        return [NamedImage(p, files.read_bytes(p, expected=expected)) for p in images.paths]
    height, width = images.size
    rng = np.random.default_rng(0)
    drawn = []
    for number in range(_NUM_DRAWN):
        shape = (-(-height // _GRAIN) + 1, -(-width // _GRAIN) + 1, 3)
        coarse = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        drawn.append(NamedImage(f"drawn image {number}", buffer.getvalue()))
    return drawn

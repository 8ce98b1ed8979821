"""Names written into segments, where they have room and cover no other name."""

from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Box = Tuple[float, float, float, float]  # left, top, right, bottom

_BACKGROUND = (0, 0, 0, 160)
_MIN_FONT_SIZE = 12
_MAX_NAME = 28


def draw_labels(image: np.ndarray, numbers: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """Writes one text per segment, at the point of the segment that is farthest from its border.

    Args:
      image: uint8 [H, W, 3].
      numbers: int [H, W], row of the segment of each pixel.
      texts: by row; an empty text is not written.

    Returns:
      uint8 [H, W, 3].
    """
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture, "RGBA")
    font = load_font(max(_MIN_FONT_SIZE, max(image.shape) // 48))
    areas = np.bincount(numbers.ravel(), minlength=len(texts))
    depths = _depths(numbers)
    taken: List[Box] = []
    for row in np.argsort(-areas, kind="stable"):
        box = _place(draw, font, numbers == row, depths, texts[row]) if texts[row] else None
        if box is not None and not any(_overlap(box, other) for other in taken):
            taken.append(box)
            draw.rounded_rectangle(box, radius=3, fill=_BACKGROUND)
            middle = ((box[0] + box[2]) / 2.0, (box[1] + box[3]) / 2.0)
            draw.text(middle, shorten(texts[row]), "white", font, anchor="mm")
    return np.asarray(picture)


def load_font(size: int) -> ImageFont.FreeTypeFont:
    """Loads the font of all pictures; `size` in pixels."""
    return ImageFont.load_default(size)


def shorten(text: str) -> str:
    """Makes one short line of a text."""
    text = " ".join(text.split())
    return text if len(text) <= _MAX_NAME else text[: _MAX_NAME - 1] + "…"


def _place(draw, font, mask: np.ndarray, depths: np.ndarray, text: str) -> Optional[Box]:
    """Returns the box of the text inside the image, or None where the segment is too small."""
    y, x = np.unravel_index(np.argmax(np.where(mask, depths, 0)), mask.shape)
    left, top, right, bottom = draw.textbbox((0, 0), shorten(text), font, anchor="lt")
    width, height = right - left + 6, bottom - top + 6
    if depths[y, x] * 2 < height or np.count_nonzero(mask) < width * height:
        return None
    left = min(max(x - width / 2.0, 0.0), max(mask.shape[1] - width - 1.0, 0.0))
    top = min(max(y - height / 2.0, 0.0), max(mask.shape[0] - height - 1.0, 0.0))
    return left, top, left + width, top + height


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _depths(numbers: np.ndarray) -> np.ndarray:
    """Returns how far each pixel is from leaving its segment along a row or column, int [H, W]."""
    horizontal = np.minimum(_run_lengths(numbers), _run_lengths(numbers[:, ::-1])[:, ::-1])
    vertical = np.minimum(_run_lengths(numbers.T).T, _run_lengths(numbers[::-1].T).T[::-1])
    return np.minimum(horizontal, vertical)


def _run_lengths(numbers: np.ndarray) -> np.ndarray:
    """Returns how many equal numbers end at each pixel of a row, itself counted, int [H, W]."""
    columns = np.arange(numbers.shape[1])
    is_start = np.ones(numbers.shape, bool)
    is_start[:, 1:] = numbers[:, 1:] != numbers[:, :-1]
    starts = np.maximum.accumulate(np.where(is_start, columns, 0), axis=1)
    return columns - starts + 1

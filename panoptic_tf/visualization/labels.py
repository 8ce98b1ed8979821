"""Names written into segments, where they have room and cover no other name."""

from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

Box = Tuple[float, float, float, float]  # left, top, right, bottom

_BACKGROUND = (0, 0, 0, 160)
_MIN_FONT_SIZE = 12
_MAX_NAME = 28
_GRID_SIZE = 1024  # pixels of the longer side of what places are sought on


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
    grid = _Grid(numbers)
    taken: List[Box] = []
    for row in np.argsort(-areas, kind="stable"):
        if not texts[row]:
            continue
        text = shorten(texts[row])
        left, top, right, bottom = draw.textbbox((0, 0), text, font, anchor="lt")
        width, height = right - left + 6, bottom - top + 6
        box = grid.place(row, width, height) if areas[row] >= width * height else None
        if box is not None and not any(_overlap(box, other) for other in taken):
            taken.append(box)
            draw.rounded_rectangle(box, radius=3, fill=_BACKGROUND)
            middle = ((box[0] + box[2]) / 2.0, (box[1] + box[3]) / 2.0)
            draw.text(middle, text, "white", font, anchor="mm")
    return np.asarray(picture)


def load_font(size: int) -> ImageFont.FreeTypeFont:
    """Loads the font of all pictures; `size` in pixels."""
    return ImageFont.load_default(size)


def shorten(text: str) -> str:
    """Makes one short line of a text."""
    text = " ".join(text.split())
    return text if len(text) <= _MAX_NAME else text[: _MAX_NAME - 1] + "…"


class _Grid:
    """Every n-th pixel of a map of segments, and how deep in its segment each of them lies."""

    def __init__(self, numbers: np.ndarray):
        self._size = numbers.shape
        self._step = -(-max(numbers.shape) // _GRID_SIZE)
        self._numbers = numbers[:: self._step, :: self._step]
        self._depths = _depths(self._numbers)

    def place(self, row: int, width: float, height: float) -> Optional[Box]:
        """Returns a text's box inside the image, or None where the segment is too thin for it."""
        depths = np.where(self._numbers == row, self._depths, 0)
        y, x = np.unravel_index(np.argmax(depths), depths.shape)
        if depths[y, x] * self._step * 2 < height:
            return None
        y, x = y * self._step, x * self._step
        left = min(max(x - width / 2.0, 0.0), max(self._size[1] - width - 1.0, 0.0))
        top = min(max(y - height / 2.0, 0.0), max(self._size[0] - height - 1.0, 0.0))
        return left, top, left + width, top + height


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _depths(numbers: np.ndarray) -> np.ndarray:
    """Returns half the side of the largest square around each pixel that is its segment's: [H, W].

    The chessboard distance to the segment's outermost pixels, which have 1.
    """
    is_outermost = np.ones(numbers.shape, bool)
    is_outermost[1:-1, 1:-1] = False
    across = numbers[:, 1:] != numbers[:, :-1]
    down = numbers[1:] != numbers[:-1]
    is_outermost[:, 1:] |= across
    is_outermost[:, :-1] |= across
    is_outermost[1:] |= down
    is_outermost[:-1] |= down
    return ndimage.distance_transform_cdt(~is_outermost, "chessboard") + 1

"""Input, ground truth and prediction side by side, for TensorBoard and for galleries."""

from __future__ import annotations

from typing import List, Mapping, Optional, Sequence, Tuple

import numpy as np
from PIL import Image, ImageDraw

from panoptic_tf.structures import VOID, GroundTruth, Prediction
from panoptic_tf.visualization import images, labels, overlay

_GAP = 4
_BACKGROUND = (24, 26, 31)
_TEXT = (235, 237, 240)
_WRONG = np.array([235.0, 64.0, 52.0])


def draw_panel(
    image: np.ndarray,
    ground_truth: Optional[Mapping[str, np.ndarray]] = None,
    prediction: Optional[Mapping[str, np.ndarray]] = None,
    *,
    colors: Sequence[overlay.Color],
    names: Optional[Sequence[str]] = None,
    show_difference: bool = False,
    tile_size: int = 384,
) -> np.ndarray:
    """Draws the tiles input | ground truth | prediction | difference that are asked for.

    Masks larger than the image (padded right and bottom) are cut to it.

    Args:
      image: uint8 [H, W, 3], RGB.
      ground_truth: `category_mask`, `instance_mask` and optionally `crowd_mask`, each [H, W].
      prediction: `category_mask` and `instance_mask`, each [H, W].
      colors: (red, green, blue) by category id, entry 0 for void.
      names: by category id; given, segments are labelled.
      show_difference: whether to show where the categories differ (needs both masks).
      tile_size: longer side of each tile in pixels.

    Returns:
      uint8 [h, w, 3].
    """
    images.check_image(image)
    height, width = images.fit_size(*image.shape[:2], tile_size)
    small = images.resize_image(image, height, width)
    tiles: List[Tuple[str, np.ndarray]] = [("input", small)]
    fitted = []
    for title, masks in (("ground truth", ground_truth), ("prediction", prediction)):
        if masks is not None:
            masks = _fit_masks(masks, image.shape[:2], (height, width))
            fitted.append(masks)
            drawn = overlay.draw_overlay(small, **masks, colors=colors, names=names)
            tiles.append((title, drawn))
    if show_difference and len(fitted) == 2:
        tiles.append(("wrong category", _draw_difference(small, *fitted)))
    return _join(tiles)


def _fit_masks(masks: Mapping[str, np.ndarray], size, tile_size) -> Mapping[str, np.ndarray]:
    fitted = {}
    for key in (Prediction.CATEGORY_MASK, Prediction.INSTANCE_MASK, GroundTruth.CROWD_MASK):
        if masks.get(key) is not None:
            mask = np.asarray(masks[key])[: size[0], : size[1]]
            if mask.shape != tuple(size):
                raise ValueError(
                    f"{key} must cover the image's size {list(size)}, got {list(mask.shape)}."
                )
            fitted[key] = images.resize_mask(mask, *tile_size)
    return fitted


def _draw_difference(image: np.ndarray, ground_truth, prediction) -> np.ndarray:
    """Red where the categories differ, grey where they agree, dark where ground truth is void."""
    expected, got = (masks[Prediction.CATEGORY_MASK] for masks in (ground_truth, prediction))
    is_void = (expected == VOID)[..., np.newaxis]
    is_wrong = (expected != got)[..., np.newaxis] & ~is_void
    gray = images.to_gray(image) * np.where(is_void, 0.25, 0.8)
    drawn = np.where(is_wrong, 0.3 * gray + 0.7 * _WRONG, gray)
    return np.round(np.broadcast_to(drawn, image.shape)).astype(np.uint8)


def _join(tiles: Sequence[Tuple[str, np.ndarray]]) -> np.ndarray:
    """Puts tiles of one size in a row, each under its title."""
    height, width = tiles[0][1].shape[:2]
    font_size = max(12, min(height, width) // 24)
    header = 2 * font_size
    panel = Image.new(
        "RGB", (len(tiles) * (width + _GAP) - _GAP, header + height), color=_BACKGROUND
    )
    draw, font = ImageDraw.Draw(panel), labels.load_font(font_size)
    for column, (title, tile) in enumerate(tiles):
        left = column * (width + _GAP)
        panel.paste(Image.fromarray(tile), (left, header))
        draw.text((left + width / 2.0, header / 2.0), title, _TEXT, font, anchor="mm")
    return np.asarray(panel)

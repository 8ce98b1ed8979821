"""Small things done to pictures: resize, grey, encode. Numpy arrays in, arrays or bytes out."""

from __future__ import annotations

import io
from typing import Tuple

import numpy as np
from PIL import Image


def encode_png(image: np.ndarray) -> bytes:
    """Encodes uint8 [H, W, 3] (or [H, W]) as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def encode_jpeg(image: np.ndarray, quality: int = 90) -> bytes:
    """Encodes uint8 [H, W, 3] as JPEG without colour subsampling, which would smear borders."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def fit_size(height: int, width: int, long_side: int) -> Tuple[int, int]:
    """Returns (height, width) scaled so that the longer one is `long_side`."""
    scale = long_side / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes uint8 [H, W, 3] to [height, width, 3]; enlarged pixels stay squares."""
    if image.shape[:2] == (height, width):
        return image
    method = Image.Resampling.NEAREST if height > image.shape[0] else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(image).resize((width, height), method))


def resize_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes a mask [H, W] of any kind to [height, width], nearest pixel."""
    rows = (np.arange(height) + 0.5) * mask.shape[0] / height
    columns = (np.arange(width) + 0.5) * mask.shape[1] / width
    return mask[rows.astype(int)[:, np.newaxis], columns.astype(int)]


def to_gray(image: np.ndarray) -> np.ndarray:
    """Returns the luminance of uint8 [H, W, 3] (ITU-R BT.601) as float32 [H, W, 1], 0..255."""
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    return (image.astype(np.float32) @ weights)[..., np.newaxis]


def check_image(image: np.ndarray) -> None:
    """Raises a ValueError unless `image` is uint8 [H, W, 3]."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(f"image must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}.")

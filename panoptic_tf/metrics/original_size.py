"""From the frame of a prediction to the image's own size, for masks of ids or bits."""

from __future__ import annotations

from typing import Sequence

import numpy as np


def restore_original_size(
    mask: np.ndarray, valid_size: Sequence[int], original_size: Sequence[int]
) -> np.ndarray:
    """Cuts a mask of ids to its valid part and resizes that to the original size.

    Nearest neighbour with half-pixel centers: output row i shows input row
    floor((i + 1/2) * valid height / original height).

    Args:
      mask: [H, W], ids, or [H, W, P], bits.
      valid_size: (height, width) of the top-left part that the image fills.
      original_size: (height, width) of the result.

    Returns:
      [original height, original width] or [.., .., P]; a view where nothing is resized.
    """
    (valid_height, valid_width), (height, width) = valid_size, original_size
    if not (0 < valid_height <= mask.shape[0] and 0 < valid_width <= mask.shape[1]):
        raise ValueError(
            f"the valid size must be within the mask's {mask.shape[:2]}, "
            f"got ({valid_height}, {valid_width})."
        )
    mask = mask[:valid_height, :valid_width]
    if mask.shape[:2] == (height, width):
        return mask
    rows = (2 * np.arange(height) + 1) * int(valid_height) // (2 * int(height))
    columns = (2 * np.arange(width) + 1) * int(valid_width) // (2 * int(width))
    return mask[rows[:, None], columns]

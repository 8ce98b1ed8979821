"""The flag of what is too large to be decoded, which many commands have."""

from __future__ import annotations

from absl import flags

MAX_PIXELS = 50_000_000
"""`datasets.images.MAX_PIXELS`, without its imports."""


def define_max_pixels(consequence: str) -> flags.FlagHolder[int]:
    """Defines --max_pixels.

    Args:
      consequence: what happens to a larger image.
    """
    return flags.DEFINE_integer(
        "max_pixels",
        MAX_PIXELS,
        f"Limit of height times width of an image; {consequence}.",
        lower_bound=1,
    )

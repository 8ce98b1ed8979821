"""Pictures with the segments painted over them."""

from __future__ import annotations

import os
from typing import Any

from PIL import Image

from panoptic_tf.datasets import files
from panoptic_tf.serving.result import PanopticResult
from panoptic_tf.serving.writers import base

FOLDER = "overlays"

JPEG, PNG = PICTURES = ("jpg", "png")
_FORMATS = {JPEG: "JPEG", PNG: "PNG"}


class OverlayWriter(base.Writer):
    """Writes `overlays/<name>.jpg` or `.png`.

    Args:
      picture: one of `PICTURES`.
    """

    def __init__(self, *args: Any, picture: str = JPEG):
        super().__init__(*args)
        self._picture = picture

    def add(self, image: base.ImageFile, result: PanopticResult) -> None:
        """See the class."""
        overlay = os.path.join(self.output_dir, FOLDER, f"{image.name}.{self._picture}")
        with files.atomic_path(overlay) as temporary:
            Image.fromarray(result.plot()).save(
                temporary, format=_FORMATS[self._picture], quality=92
            )

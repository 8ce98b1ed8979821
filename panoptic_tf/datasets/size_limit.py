"""Records whose images have too many pixels are left out before anything of them is decoded."""

from __future__ import annotations

import contextlib

import numpy as np
import tensorflow as tf
from absl import logging

from panoptic_tf.datasets import images, png, record
from panoptic_tf.datasets.notes import Notes


class SizeLimit:
    """Leaves out and counts records of large images.

    Args:
      max_pixels: limit of height times width, of the image and of its id map.

    Attributes:
      max_pixels: see above.
    """

    def __init__(self, max_pixels: int = images.MAX_PIXELS):
        self.max_pixels = max_pixels
        self._num_skipped = 0
        self._notes = Notes()

    def filter(self, records: tf.data.Dataset) -> tf.data.Dataset:
        """Filters elements (..., serialized record string [])."""
        return records.filter(
            lambda *element: tf.ensure_shape(
                tf.numpy_function(self._admits, [element[-1]], tf.bool), []
            )
        )

    def report(self, source: str) -> int:
        """The number of images left out since the last call; warns in one line if there are any.

        Args:
          source: where the records are from.
        """
        for text in self._notes.texts():
            logging.warning("%s: %s Raise --max_pixels if that is meant.", source, text)
        count = self._num_skipped
        self._num_skipped, self._notes = 0, Notes()
        return count

    def _admits(self, serialized: bytes) -> np.bool_:
        # What has no size is for the decoder, which says what is wrong.
        with contextlib.suppress(Exception):
            image, id_map, name = record.read_bytes(
                serialized, record.Field.IMAGE, record.Field.ROWS, record.Field.FILE_NAME
            )
            sizes = [png.header_size(id_map)]
            with contextlib.suppress(ValueError):
                sizes.append(images.header_size(image))
            height, width = max(sizes, key=lambda size: size[0] * size[1])
            if height * width > self.max_pixels:
                self._num_skipped += 1
                kind = f"images have more than {self.max_pixels:,} pixels and are left out"
                self._notes.add(kind, f"{name.decode()} ({height} x {width})")
                return np.bool_(False)
        return np.bool_(True)

"""What every writer of predictions is."""

from __future__ import annotations

import os

from PIL import Image

from panoptic_tf.datasets import files
from panoptic_tf.datasets.coco_writer import ImageId
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.serving.result import PanopticResult


class Writer:
    """Takes the results of many images.

    Args:
      output_dir: folder of all files.
      dataset_info: the categories.
    """

    def __init__(self, output_dir: str, dataset_info: DatasetInfo):
        self.output_dir = output_dir
        self.dataset_info = dataset_info

    def add(self, image_id: ImageId, name: str, path: str, result: PanopticResult) -> None:
        """Writes the files of one image, or keeps for `close` what belongs in one for all.

        Args:
          image_id: of the image, unique: an integer, or its name.
          name: of its files, without an ending; unique.
          path: of the image.
          result: of the image.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Writes the files of all images."""


def save_png(picture: Image.Image, *path: str) -> None:
    """Saves a picture as PNG, atomically; `path` is joined."""
    with files.atomic_path(os.path.join(*path)) as temporary:
        picture.save(temporary, format="PNG")

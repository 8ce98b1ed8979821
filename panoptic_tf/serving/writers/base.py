"""What every writer of predictions is."""

from __future__ import annotations

import abc
import os
from typing import Any, NamedTuple

from PIL import Image

from panoptic_tf.datasets import files
from panoptic_tf.datasets.coco_writer import ImageId
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.serving.result import PanopticResult


class ImageFile(NamedTuple):
    """An image and what it is called in results.

    Attributes:
      path: of the file.
      file_name: path below the folder of all images, with slashes.
      name: of its result files, without an ending; unique. It may hold sub-folders.
      image_id: unique: an integer, or the name.
    """

    path: str
    file_name: str
    name: str
    image_id: ImageId


class Writer(abc.ABC):
    """Takes the results of many images; a format of one file an image may need `add` alone.

    Args:
      output_dir: folder of all files.
      dataset_info: the categories.
    """

    def __init__(self, output_dir: str, dataset_info: DatasetInfo):
        self.output_dir = output_dir
        self.dataset_info = dataset_info

    def check(self, image: ImageFile, result: PanopticResult) -> None:  # noqa: B027
        """Checks that the format can hold a result; nothing is written.

        Raises:
          ValueError: it cannot; the message names the image.
        """

    @abc.abstractmethod
    def add(self, image: ImageFile, result: PanopticResult) -> None:
        """Writes the files of one image, or keeps for `close` what belongs in one for all.

        Args:
          image: the image.
          result: of the image, which `check` let pass.
        """

    def kept(self) -> Any:
        """What `add` has kept for `close`, as it goes from one process to another."""
        return None

    def join(self, kept: Any) -> None:  # noqa: B027
        """Takes what an equal writer, in another process, has kept of the images that come next."""

    def close(self) -> None:  # noqa: B027
        """Writes the files of all images."""


def save_png(picture: Image.Image, *path: str) -> None:
    """Saves a picture as PNG, atomically; `path` is joined."""
    with files.atomic_path(os.path.join(*path)) as temporary:
        picture.save(temporary, format="PNG")

"""Images that a network is quantised with: records, prepared exactly as for evaluation."""

from __future__ import annotations

from typing import Iterator, List, Tuple

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from panoptic_tf.datasets import record
from panoptic_tf.datasets.dataset_info import DatasetInfo, check_beside
from panoptic_tf.inputs import geometry
from panoptic_tf.inputs.shards import find_shards
from panoptic_tf.serving import decoding
from panoptic_tf.serving.quantization import Inputs, ReadInputs

NUM_IMAGES = 200
"""Default number of images."""

_MAX_OPEN_FILES = 64


def read_inputs(
    input_path: str,
    *,
    dataset_info: DatasetInfo,
    input_size: geometry.Size,
    num_images: int = NUM_IMAGES,
) -> ReadInputs:
    """Reads the first images of records, fitted and padded; see `geometry.fit_and_pad`.

    Args:
      input_path: file pattern of training records.
      dataset_info: categories of the model; the records' own must be the same.
      input_size: (height, width) of the network's input.
      num_images: how many.

    Returns:
      A function that goes through them: `image` float32 [1, H, W, 3], RGB 0..255, and `image_info`
      float32 [1, 4, 2]. It may be called again.

    Raises:
      ValueError: no path given, no file matches, fewer records than `num_images`, other categories,
        or an image that cannot be read.
    """
    paths = _check(input_path, dataset_info, num_images)
    images = _read_images(paths, num_images)
    if len(images) < num_images:
        raise ValueError(
            f"calibration needs {num_images} images, the files of {input_path!r} hold "
            f"{len(images)}. Give more records, or set --num_calibration_images."
        )

    def inputs() -> Iterator[Inputs]:
        for name, content in tqdm(images, unit="image", desc="calibrate", leave=False):
            pixels = tf.constant(decoding.decode_image(content, name=name))
            image, image_info = geometry.fit_and_pad(pixels, input_size)
            yield {
                "image": image.numpy()[np.newaxis],
                "image_info": image_info.numpy()[np.newaxis],
            }

    return inputs


def _check(input_path: str, dataset_info: DatasetInfo, num_images: int) -> List[str]:
    if not input_path:
        raise ValueError(
            "quantization int8 needs --calibration_path, the pattern of the training records "
            "(data/train-*) that the ranges of the activations are measured on."
        )
    if num_images < 1:
        raise ValueError(f"num_calibration_images must be positive, got {num_images}.")
    paths = find_shards(input_path, name="calibration_path", allow_partial=True).paths
    check_beside(paths[0], dataset_info)
    return paths


def _read_images(paths: List[str], num_images: int) -> List[Tuple[str, bytes]]:
    """Name and bytes of the first images."""
    # From all files in turn: a file may hold what is alike.
    records = tf.data.Dataset.from_tensor_slices(paths).interleave(
        tf.data.TFRecordDataset, cycle_length=min(len(paths), _MAX_OPEN_FILES)
    )
    records = records.take(num_images).map(record.decode_example)
    return [
        (example["file_name"].decode(), example["image_bytes"])
        for example in records.as_numpy_iterator()
    ]

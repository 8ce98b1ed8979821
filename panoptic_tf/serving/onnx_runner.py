"""The runner of exported .onnx files."""

from __future__ import annotations

import importlib
from typing import Any, Dict, Optional

import numpy as np

from panoptic_tf.serving.model_info import FILE_NAME, ModelInfo

SUFFIX = ".onnx"

Arrays = Dict[str, np.ndarray]


def import_package(name: str) -> Any:
    """A package of the extra `onnx`.

    Raises:
      ValueError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"ONNX needs the package {name}: `pip install 'panoptic-tf[onnx]'` ({error})."
        ) from error


def run_content(content: bytes, inputs: Arrays, *, source: str) -> Arrays:
    """The outputs of a file that is at hand.

    Args:
      content: of the file.
      inputs: by name.
      source: is named in errors.

    Raises:
      ValueError: the package is missing, or the file cannot be loaded.
    """
    session = _load(source, content, None)
    return dict(zip([x.name for x in session.get_outputs()], session.run(None, dict(inputs))))


def _load(onnx_path: str, content: Optional[bytes], num_threads: Optional[int]) -> Any:
    runtime = import_package("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors
    if num_threads is not None:
        options.intra_op_num_threads = num_threads
    source = onnx_path if content is None else content
    try:
        return runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own types have no common one
        raise ValueError(f"{onnx_path} cannot be loaded on ONNX Runtime: {error}") from error


class OnnxRunner:
    """Runs a .onnx file on the CPU; needs the package onnxruntime.

    Args:
      onnx_path: the file.
      num_threads: threads of an operator; default is the runtime's choice.
      content: of the file, where it is at hand.

    Attributes:
      info: what the file says of itself.
      input_size: (height, width) of its input.

    Raises:
      ValueError: the package is missing, or the file cannot be read or is no export of ours.
    """

    def __init__(
        self,
        onnx_path: str,
        *,
        num_threads: Optional[int] = None,
        content: Optional[bytes] = None,
    ):
        self._session = _load(onnx_path, content, num_threads)
        inputs = {x.name: x.shape for x in self._session.get_inputs()}
        if set(inputs) != {"image", "image_info"} or len(inputs["image"]) != 4:
            raise ValueError(
                f"{onnx_path}: expected inputs image [B, H, W, 3] and image_info, got {inputs}."
                + (" It is a part of a model." if set(inputs) == {"image"} else "")
            )
        self.input_size = tuple(inputs["image"][1:3])
        described = self._session.get_modelmeta().custom_metadata_map
        if FILE_NAME not in described:
            raise ValueError(
                f"{onnx_path} holds no {FILE_NAME} in its metadata; expected a file written by "
                "`panoptic-tf export-onnx`."
            )
        source = f"{onnx_path}:{FILE_NAME}"
        self.info = ModelInfo.from_bytes(described[FILE_NAME].encode(), source=source)
        self._names = [x.name for x in self._session.get_outputs()]

    def __call__(self, image: np.ndarray, image_info: np.ndarray) -> Arrays:
        """Predicts one image: float32 [H, W, 3] and [4, 2] -> predictions with batch 1."""
        return self.predict_batch(image[np.newaxis], image_info[np.newaxis])

    def predict_batch(self, images: np.ndarray, image_info: np.ndarray) -> Arrays:
        """Predicts images: float32 [B, H, W, 3] and [B, 4, 2]."""
        given = {"image": images, "image_info": image_info}
        return dict(zip(self._names, self._session.run(None, given)))

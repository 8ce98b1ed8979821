"""What is timed: one request of some images, by every way into a model."""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, List, Mapping, Optional, Protocol, Sequence, Tuple

import numpy as np
import tensorflow as tf

from panoptic_tf.inputs import geometry
from panoptic_tf.serving import client, decoding, image_source, onnx_runner, tflite
from panoptic_tf.serving.predictor import Predictor, SavedModelRunner
from panoptic_tf.serving.throughput.inputs import NamedImage

PREDICTOR, SIGNATURE, NETWORK, CLIENT = "Predictor", "signature", "network", "client"

Arrays = Tuple[np.ndarray, np.ndarray]

ADDRESS, SAVED_MODEL, ONNX, TFLITE = "address", "saved_model", "onnx", "tflite"


class Call(Protocol):
    """A way into a model."""

    def prepare(self, images: Sequence[NamedImage]) -> Any:
        """Makes a request of images; not timed."""

    def __call__(self, request: Any) -> None:
        """Runs a request."""


def kind_of(model: str) -> str:
    """What a model is: served at an address, a SavedModel's folder, an .onnx or a .tflite file.

    Raises:
      ValueError: there is no such file or folder.
    """
    if "://" in model:
        return ADDRESS
    if not os.path.exists(model):
        raise ValueError(f"{model}: no such file or folder; expected a model that was exported.")
    if os.path.isdir(model):
        return SAVED_MODEL
    return ONNX if model.endswith(onnx_runner.SUFFIX) else TFLITE


def open_call(
    model: str,
    through: str,
    *,
    num_threads: Optional[int] = None,
    max_pixels: int = decoding.MAX_PIXELS,
    client_options: Optional[Mapping[str, Any]] = None,
) -> Call:
    """Loads a model.

    Args:
      model: folder, file or address.
      through: `Predictor` (bytes in, `PanopticResult` out, one image after the other), `signature`
        (of a SavedModel: bytes in, arrays out, all at once, as a server does), `network` (pixels of
        the network's size in, arrays out) or `client` (of an address: bytes in, `PanopticResult`
        out).
      num_threads: of the runtime of a file.
      max_pixels: see `Predictor`.
      client_options: of `client.Client`.

    Raises:
      ValueError: it cannot be loaded.
    """
    if through == CLIENT:
        return _Client(model, max_pixels=max_pixels, **(client_options or {}))
    if through == SIGNATURE:
        return _Signature(model)
    if through == NETWORK:
        networks: Dict[str, Callable[..., Call]] = {
            SAVED_MODEL: _SavedNetwork,
            ONNX: _OnnxNetwork,
            TFLITE: _TFLiteNetwork,
        }
        return networks[kind_of(model)](model, num_threads, max_pixels)
    return _Predictor(model, num_threads=num_threads, max_pixels=max_pixels)


class _Client:
    """A request is one image; the server makes batches of those that come at once."""

    def __init__(self, address: str, **options: Any):
        self._client = client.Client(address, **options)

    def prepare(self, images: Sequence[NamedImage]) -> NamedImage:
        (image,) = images
        return image

    def __call__(self, request: NamedImage) -> None:
        self._client(request.content, name=request.name)


class _Predictor:
    def __init__(self, path: str, **options: Any):
        self._predictor = Predictor(path, **options)

    def prepare(self, images: Sequence[NamedImage]) -> List[image_source.ImageSource]:
        return [image.content for image in images]

    def __call__(self, request: List[image_source.ImageSource]) -> None:
        self._predictor(request)


class _Signature:
    def __init__(self, path: str):
        self._runner = SavedModelRunner(path)
        self._run = self._runner.signatures["image_bytes"]

    def prepare(self, images: Sequence[NamedImage]) -> Sequence[NamedImage]:
        return images

    def __call__(self, request: Sequence[NamedImage]) -> None:
        outputs = self._run(image_bytes=tf.constant([image.content for image in request]))
        arrays = {key: value.numpy() for key, value in outputs.items()}
        for image, is_valid in zip(request, arrays["valid"]):
            if not is_valid:
                decoding.decode_image(image.content, name=image.name)  # Says what is wrong with it.
                raise ValueError(f"{image.name} has more pixels than the model's own limit.")


class _SavedNetwork:
    def __init__(self, path: str, num_threads: Optional[int], max_pixels: int):
        self._runner = SavedModelRunner(path)
        self._run = self._runner.signatures["image_tensor"]
        self._max_pixels = max_pixels

    def prepare(self, images: Sequence[NamedImage]) -> tf.Tensor:
        fitted, _ = _fit(images, self._runner.info.input_size, self._max_pixels)
        return tf.cast(tf.round(fitted), tf.uint8)

    def __call__(self, request: tf.Tensor) -> None:
        for value in self._run(image_tensor=request).values():
            value.numpy()


class _OnnxNetwork:
    def __init__(self, path: str, num_threads: Optional[int], max_pixels: int):
        self._runner = onnx_runner.OnnxRunner(path, num_threads=num_threads)
        self._max_pixels = max_pixels

    def prepare(self, images: Sequence[NamedImage]) -> Arrays:
        return _fit(images, self._runner.input_size, self._max_pixels)

    def __call__(self, request: Arrays) -> None:
        self._runner.predict_batch(*request)


class _TFLiteNetwork:
    def __init__(self, path: str, num_threads: Optional[int], max_pixels: int):
        self._runner = tflite.TFLiteRunner(path, num_threads=num_threads)
        self._max_pixels = max_pixels

    def prepare(self, images: Sequence[NamedImage]) -> Arrays:
        return _fit(images, self._runner.input_size, self._max_pixels)

    def __call__(self, request: Arrays) -> None:
        for image, image_info in zip(*request):
            self._runner(image, image_info)


def _fit(images: Sequence[NamedImage], input_size: Sequence[int], max_pixels: int) -> Arrays:
    """Images in the network's frame: float32 [B, H, W, 3] and [B, 4, 2]."""
    size, fitted = (input_size[0], input_size[1]), []
    for image in images:
        pixels = image_source.read_image(image.content, name=image.name, max_pixels=max_pixels)
        fitted.append([x.numpy() for x in geometry.fit_and_pad(tf.constant(pixels), size)])
    frames, image_info = map(np.stack, zip(*fitted))
    return frames, image_info

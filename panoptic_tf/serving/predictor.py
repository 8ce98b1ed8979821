"""`Predictor`: a model file and an image in, a `PanopticResult` of the image's own size out."""

from __future__ import annotations

import os
import time
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union, overload

import numpy as np
import tensorflow as tf

from panoptic_tf.datasets import files, images
from panoptic_tf.inputs import geometry
from panoptic_tf.serving import decoding, image_source, onnx_runner, tflite, tiling
from panoptic_tf.serving.image_source import ImageSource
from panoptic_tf.serving.model_info import FILE_NAME, MAX_BYTES, ModelInfo
from panoptic_tf.serving.result import PanopticResult, PredictedSegment, to_original_size

__all__ = ["PanopticResult", "PredictedSegment", "Predictor", "UnreadableImages"]

Arrays = Dict[str, np.ndarray]


class UnreadableImages(ValueError):
    """Some images of a list cannot be read; the message names them.

    Attributes:
      results: one for each image of the list, None where it cannot be read.
      problems: one message for each image that cannot be read.
    """

    def __init__(self, results: List[Optional[PanopticResult]], problems: List[str]):
        super().__init__(
            f"{len(problems)} of {len(results)} images cannot be read (the error's `results` holds "
            f"those of the others): {files.shorten(' '.join(problems))}"
        )
        self.results = results
        self.problems = problems


class Predictor:
    """Runs an exported model.

    A SavedModel is a program that runs with your rights: load only what you trust.

    Args:
      path: a SavedModel's folder, the folder of its versions (the newest is taken), or a .tflite or
        .onnx file.
      num_threads: of what runs a file.
      max_pixels: larger images are refused before they are decoded.
      exif: what is done with an EXIF orientation: `apply` turns the picture as it says, and results
        are of the turned picture; `ignore` predicts the pixels as they are stored.
      score_threshold: 0..1; see `PanopticResult`.
      tile_size: an image that is larger is predicted in tiles of this side, or (height, width), in
        pixels of the image, which are then one result; see `tiling`. Default: every image whole.
      tile_overlap: pixels that neighbouring tiles share; default a quarter of the shorter side.

    Attributes:
      dataset_info: the model's categories.
      input_size: (height, width) of the network's input.
      experiment: name of the experiment that made it.
      max_pixels, exif, score_threshold: see above.
      last_seconds: time the model took for the last image, decoding not counted.

    Example:
        predictor = panoptic_tf.Predictor(saved_model)
        prediction = predictor(glob.glob("data/train/images/*")[0])

    Raises:
      ValueError: no such path, or not a model of ours; the message says what was found. Or an
        argument is out of its range.
    """

    def __init__(
        self,
        path: Union[str, os.PathLike[str]],
        *,
        num_threads: Optional[int] = None,
        max_pixels: int = decoding.MAX_PIXELS,
        exif: str = images.APPLY,
        score_threshold: Optional[float] = None,
        tile_size: Union[int, Sequence[int], None] = None,
        tile_overlap: Optional[int] = None,
    ):
        if exif not in images.EXIF:
            raise ValueError(f"exif must be one of {', '.join(images.EXIF)}, got {exif!r}.")
        if score_threshold is not None and not 0.0 <= score_threshold <= 1.0:
            raise ValueError(f"score_threshold must lie in 0..1, got {score_threshold}.")
        self._tiling = tiling.Tiling.of(tile_size, tile_overlap)
        path = os.fspath(path)
        if not os.path.exists(path):
            raise ValueError(
                f"{path}: no such file or folder; expected a SavedModel's folder, or a .tflite or "
                ".onnx file."
            )
        if os.path.isdir(path):
            self._model: Any = SavedModelRunner(path)
        else:
            self._model = _FileModel(path, num_threads)
        self.path = path
        self.dataset_info = self._model.info.dataset_info
        self.input_size = self._model.info.input_size
        self.experiment = self._model.info.experiment
        self.last_seconds = 0.0
        self.max_pixels = max_pixels
        self.exif = exif
        self.score_threshold = score_threshold

    @overload
    def __call__(self, image: ImageSource) -> PanopticResult: ...

    @overload
    def __call__(
        self, image: Union[List[ImageSource], Tuple[ImageSource, ...]]
    ) -> List[PanopticResult]: ...

    def __call__(self, image):
        """Predicts one image, or each of a list.

        Args:
          image: path, bytes of a file (JPEG, PNG, WebP, TIFF, BMP, GIF, or AVIF where Pillow reads
            it; of several frames the first), uint8 [H, W, 3] RGB, or a Pillow image; or a list or
            tuple of such.

        Raises:
          ValueError: an image cannot be read; the message names it.
          UnreadableImages: the same of a list, when all its images were tried.
        """
        if isinstance(image, (list, tuple)):
            return self._predict_all(image)
        return self._predict(image, "the image")

    def _predict(self, image: ImageSource, name: str) -> PanopticResult:
        pixels = image_source.read_image(
            image, name=name, max_pixels=self.max_pixels, exif=self.exif
        )
        return PanopticResult(
            pixels,
            self.predict_arrays(pixels),
            self.dataset_info,
            score_threshold=self.score_threshold,
        )

    def _predict_all(self, images: Sequence[ImageSource]) -> List[PanopticResult]:
        results: List[PanopticResult] = []
        problems: Dict[int, str] = {}
        for position, image in enumerate(images):
            try:
                results.append(self._predict(image, f"images[{position}]"))
            except ValueError as error:
                problems[position] = str(error)
        if not problems:
            return results
        done = iter(results)
        raise UnreadableImages(
            [None if i in problems else next(done) for i in range(len(images))],
            list(problems.values()),
        )

    def predict_arrays(self, pixels: np.ndarray) -> Arrays:
        """Predicts one image as plain arrays.

        Args:
          pixels: uint8 [H, W, 3], RGB.

        Returns:
          What the model gives of the keys of `structures.Prediction`, without a batch dimension;
          masks have the image's exact size, areas are the table's: pixels of the model's output.
          Of an image in tiles, masks and segment table alone, and areas are pixels of the image.
        """
        if self._tiling is None or not self._tiling.cuts(pixels.shape):
            return self._predict_whole(pixels)
        seconds = 0.0

        def predict(tile: np.ndarray) -> tiling.TilePrediction:
            nonlocal seconds
            arrays = self._predict_whole(tile)
            seconds += self.last_seconds
            return tiling.panoptic_masks(arrays, self.score_threshold)

        merged = tiling.predict_tiles(
            predict, pixels, self._tiling, num_categories=len(self.dataset_info.categories)
        )
        self.last_seconds = seconds
        return merged

    def _predict_whole(self, pixels: np.ndarray) -> Arrays:
        start = time.perf_counter()
        outputs = self._model(pixels)
        self.last_seconds = time.perf_counter() - start
        return to_original_size(outputs, (pixels.shape[0], pixels.shape[1]))


class SavedModelRunner:
    """Runs a SavedModel.

    Args:
      path: its folder, or the folder of its versions.

    Attributes:
      info: what it says of itself.
      signatures: by name; see `export`.

    Raises:
      ValueError: not a SavedModel of ours.
    """

    def __init__(self, path: str):
        folder = find_version(path)
        asset = os.path.join(folder, "assets", FILE_NAME)
        try:
            with open(asset, "rb") as file:
                content = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise ValueError(
                f"{asset}: {error.strerror}; expected a SavedModel written by "
                "`panoptic-tf export-saved-model`."
            ) from error
        self.info = ModelInfo.from_bytes(content, source=asset)
        try:
            self._loaded = tf.saved_model.load(folder)
            self.signatures = self._loaded.signatures
            self._run = self.signatures["image_tensor"]
        except (KeyError, OSError, ValueError, RuntimeError, tf.errors.OpError) as error:
            raise ValueError(f"{folder} cannot be loaded as a SavedModel: {error}") from error

    def __call__(self, pixels: np.ndarray) -> Arrays:
        """Predicts one image: uint8 [H, W, 3] -> predictions without a batch dimension."""
        outputs = self._run(image_tensor=tf.constant(pixels[np.newaxis]))
        return {key: value[0].numpy() for key, value in outputs.items() if key != "valid"}


class _FileModel:
    def __init__(self, path: str, num_threads: Optional[int]):
        self._runner: Any
        if path.endswith(onnx_runner.SUFFIX):
            self._runner = onnx_runner.OnnxRunner(path, num_threads=num_threads)
            self.info = self._runner.info
        else:
            self._runner = tflite.TFLiteRunner(path, num_threads=num_threads)
            self.info = tflite.read_model_info(path)
        if self.info.input_size != self._runner.input_size:
            raise ValueError(
                f"{path}: its {FILE_NAME} says input size {self.info.input_size}, the model has "
                f"{self._runner.input_size}."
            )

    def __call__(self, pixels: np.ndarray) -> Arrays:
        image, image_info = geometry.fit_and_pad(tf.constant(pixels), self.info.input_size)
        outputs = self._runner(image.numpy(), image_info.numpy())
        return {key: value[0] for key, value in outputs.items()}


def find_version(path: str) -> str:
    """The folder of a SavedModel: the path itself, or the newest version in it.

    Raises:
      ValueError: there is none.
    """
    if os.path.exists(os.path.join(path, "saved_model.pb")):
        return path
    names = [name for name in os.listdir(path) if name.isdecimal()]
    for name in sorted(names, key=int, reverse=True):
        folder = os.path.join(path, name)
        if os.path.exists(os.path.join(folder, "saved_model.pb")):
            return folder
    raise ValueError(
        f"{path} is not a model: neither it nor a numbered folder in it holds a saved_model.pb."
    )

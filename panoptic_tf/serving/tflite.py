"""TFLite export with builtin operators only, and the runner of such files.

Signature `serving_default`: image float32 [1, H, W, 3] (RGB 0..255, zero padded) and image_info
float32 [1, 4, 2], as `geometry.fit_and_pad` makes them -> the network's predictions. Normalisation
and post-processing are inside. The categories travel in the file as a zip archive behind the model,
the way TFLite metadata keeps its associated files: `unzip -p model.tflite dataset_info.json`.
"""

from __future__ import annotations

import io
import re
import zipfile
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
import tensorflow as tf

from panoptic_tf.datasets import dataset_info as dataset_info_lib
from panoptic_tf.datasets import files
from panoptic_tf.inputs import geometry, normalize
from panoptic_tf.ops import forms
from panoptic_tf.serving import quantization as quantization_lib
from panoptic_tf.serving.model_info import FILE_NAME, MAX_BYTES, ModelInfo

QUANTIZATIONS = ("none", "float16", "dynamic", "int8")
SIGNATURE = "serving_default"

_IDENTIFIER = b"TFL3"  # bytes 4..8 of every TFLite file
_MAX_ARCHIVE_FILES = 16


def export_tflite(
    inference_network: tf.keras.Model,
    *,
    dataset_info: dataset_info_lib.DatasetInfo,
    mean: Sequence[float],
    std: Sequence[float],
    channel_order: str,
    input_size: geometry.Size,
    tflite_path: str,
    experiment: str = "",
    quantization: str = "none",
    int8_options: Optional[quantization_lib.Options] = None,
) -> str:
    """Converts a network, batch 1, and writes the file, whole or not at all.

    Args:
      inference_network: takes normalised image [B, H, W, 3] and image_info [B, 4, 2].
      dataset_info: categories, kept in the file.
      mean, std, channel_order: see `normalize.normalize_image`.
      input_size: (height, width) of the network's input.
      tflite_path: the file.
      experiment: name of the experiment, kept in the file.
      quantization: `none` (float32), `float16` (weights stored in half), `dynamic` (weights in 8
        bits, activations float) or `int8` (weights and activations of the layers with weights; see
        `quantization`).
      int8_options: what `int8` is calibrated with; it needs them.

    Returns:
      `tflite_path`.

    Raises:
      ValueError: unknown quantisation, no calibration for `int8`, or the network needs an operator
        that is not builtin.
    """
    if quantization not in QUANTIZATIONS:
        raise ValueError(
            f"quantization must be one of {', '.join(QUANTIZATIONS)}, got {quantization!r}."
        )
    if (quantization == "int8") != (int8_options is not None):
        raise ValueError(
            "int8_options, which hold the images to calibrate with, belong to quantization 'int8', "
            f"got quantization {quantization!r} and options {int8_options}."
        )
    target = forms.Form.TFLITE
    info = ModelInfo(dataset_info, (input_size[0], input_size[1]), experiment, target.value)

    @tf.function(
        autograph=False,
        input_signature=[
            tf.TensorSpec([1, *input_size, 3], tf.float32, name="image"),
            tf.TensorSpec([1, 4, 2], tf.float32, name="image_info"),
        ],
    )
    def answer(image, image_info):
        normalized = normalize.normalize_image(
            image, image_info, mean=mean, std=std, channel_order=channel_order
        )
        features = {"image": normalized, "image_info": image_info}
        with forms.use(target):
            return inference_network(features, training=False)

    module = tf.Module()
    module.network_weights = list(inference_network.weights)
    module.answer = answer
    converted = "none" if quantization == "int8" else quantization
    model = _convert(answer.get_concrete_function(), module, converted)
    if int8_options is not None:
        model = quantization_lib.quantize_model(
            model, layers=_layers_with_weights(inference_network), options=int8_options
        )
    files.write_bytes(tflite_path, append_model_info(model, info))
    return tflite_path


def quantize_tflite(
    float_path: str,
    inference_network: tf.keras.Model,
    *,
    tflite_path: str,
    int8_options: quantization_lib.Options,
) -> str:
    """Makes the int8 file of a float32 file; the same as exporting anew, without converting.

    Args:
      float_path: written by `export_tflite` without quantisation.
      inference_network: what it was made of.
      tflite_path: the file.
      int8_options: what it is calibrated with.

    Returns:
      `tflite_path`.

    Raises:
      ValueError: see `quantization.quantize_model`.
    """
    info = read_model_info(float_path)
    with open(float_path, "rb") as file:
        model = file.read()
    model = quantization_lib.quantize_model(
        model, layers=_layers_with_weights(inference_network), options=int8_options
    )
    files.write_bytes(tflite_path, append_model_info(model, info))
    return tflite_path


def append_model_info(model: bytes, info: ModelInfo) -> bytes:
    """Appends the description of a model as a zip archive of one file."""
    buffer = io.BytesIO(model)
    with zipfile.ZipFile(buffer, "a") as archive:
        # A fixed date: the same model gives the same bytes.
        archive.writestr(zipfile.ZipInfo(FILE_NAME, (1980, 1, 1, 0, 0, 0)), info.to_bytes())
    return buffer.getvalue()


def read_model_info(tflite_path: str) -> ModelInfo:
    """Reads the description of a model out of its file.

    Raises:
      ValueError: the file has none, or one that is too large or malformed.
    """
    source = f"{tflite_path}:{FILE_NAME}"
    try:
        with zipfile.ZipFile(tflite_path) as archive:
            if len(archive.infolist()) > _MAX_ARCHIVE_FILES:
                raise ValueError(f"{tflite_path}: its archive has over {_MAX_ARCHIVE_FILES} files.")
            with archive.open(FILE_NAME) as file:
                # One byte more than allowed: from_bytes refuses it, however far it would unpack.
                content = file.read(MAX_BYTES + 1)
    except (zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError) as error:
        raise ValueError(
            f"{tflite_path} holds no readable {FILE_NAME} ({error}); expected a file written by "
            "`panoptic-tf export-tflite`."
        ) from error
    return ModelInfo.from_bytes(content, source=source)


class TFLiteRunner:
    """Runs a .tflite file; needs the package ai-edge-litert or the interpreter of TensorFlow.

    Args:
      tflite_path: the file.
      num_threads: threads of the interpreter; default is the runtime's choice.

    Raises:
      ValueError: not a TFLite file, or not one with our signature.
    """

    def __init__(self, tflite_path: str, *, num_threads: Optional[int] = None):
        _check_identifier(tflite_path)
        try:
            interpreter = interpreter_class()(model_path=tflite_path, num_threads=num_threads)
            self._run = interpreter.get_signature_runner(SIGNATURE)
            inputs = self._run.get_input_details()
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{tflite_path} cannot be loaded: {error}") from error
        if set(inputs) != {"image", "image_info"}:
            raise ValueError(
                f"{tflite_path}: expected inputs image and image_info, got {sorted(inputs)}."
            )
        self._interpreter = interpreter  # the signature runner does not own it
        self.input_size = tuple(int(v) for v in inputs["image"]["shape"][1:3])

    def __call__(self, image: np.ndarray, image_info: np.ndarray) -> Dict[str, np.ndarray]:
        """Predicts one image: float32 [H, W, 3] and [4, 2] -> predictions with batch 1."""
        return self._run(image=image[np.newaxis], image_info=image_info[np.newaxis])


def _layers_with_weights(network: tf.keras.Model) -> List[str]:
    return [layer.name for layer in network.layers if layer.weights]


def _convert(function: Any, module: tf.Module, quantization: str) -> bytes:
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if quantization != "none":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    try:
        return converter.convert()
    except Exception as error:  # the converter's own error type has no public name
        found = re.findall(r"(?:Select|Custom|Flex) ops: ([^\n]+)", str(error))
        if not found:
            raise
        operators = sorted({name for line in found for name in re.split(r"[,\s]+", line) if name})
        raise ValueError(
            f"not builtin in TFLite: {', '.join(operators)}. The file would need SELECT_TF_OPS or "
            "custom operators, which edge runtimes lack; replace them in the network."
        ) from error


def _check_identifier(path: str) -> None:
    try:
        with open(path, "rb") as file:
            head = file.read(8)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; expected a .tflite file.") from error
    if head[4:] != _IDENTIFIER:
        raise ValueError(f"{path} is not a TFLite file: it starts with {head!r}.")


def interpreter_class() -> Any:
    """The interpreter of ai_edge_litert where it is installed, else TensorFlow's."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        return tf.lite.Interpreter
    return Interpreter

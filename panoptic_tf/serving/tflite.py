"""TFLite export with builtin operators only, and the runner of such files.

Signature `serving_default`: image float32 [1, H, W, 3] (RGB 0..255, zero padded) and image_info
float32 [1, 4, 2], as `geometry.fit_and_pad` makes them -> the network's predictions. Normalisation
and post-processing are inside. The categories travel in the file as a zip archive behind the model,
the way TFLite metadata keeps its associated files: `unzip -p model.tflite dataset_info.json`.
`parts` are files without post-processing. `panoptic_tf.lite` runs files without TensorFlow.
"""

from __future__ import annotations

import io
import os
import re
import zipfile
from typing import Any, Optional, Sequence

import tensorflow as tf

from panoptic_tf import lite
from panoptic_tf.datasets import dataset_info as dataset_info_lib
from panoptic_tf.datasets import files
from panoptic_tf.inputs import geometry
from panoptic_tf.ops import forms
from panoptic_tf.serving import parts, tflite_metadata
from panoptic_tf.serving import quantization as quantization_lib
from panoptic_tf.serving.model_info import FILE_NAME, ModelInfo

QUANTIZATIONS = ("none", "float16", "dynamic", "int8")
SIGNATURE = lite.SIGNATURE

RUNNER_NAME = "panoptic_tf_lite.py"
"""Name of the copy of `panoptic_tf.lite` beside a file."""


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
    part: str = parts.WHOLE,
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
      part: `whole`, `network` or `semantic`; see `parts`.

    Returns:
      `tflite_path`.

    Raises:
      ValueError: unknown quantisation or part, no calibration for `int8`, the network has no such
        part, or it needs an operator that is not builtin.
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
    taken = parts.take_part(
        inference_network,
        part,
        num_categories=dataset_info.num_categories,
        mean=mean,
        std=std,
        channel_order=channel_order,
        form=target,
    )
    size = (input_size[0], input_size[1])
    color = taken.padding_color
    info = ModelInfo(dataset_info, size, experiment, target.value, part=part, padding_color=color)
    module = tf.Module()
    module.network_weights = list(taken.network.weights)
    # Not an attribute of the module: converting would trace it once more.
    function = tf.function(taken.answer, autograph=False, input_signature=taken.signature(1, size))
    converted = "none" if quantization == "int8" else quantization
    model = _convert(function.get_concrete_function(), module, converted)
    if int8_options is not None:
        model = _quantize(model, taken.network, info, int8_options)
    _write(tflite_path, model, info)
    return tflite_path


def write_runner(tflite_path: str) -> str:
    """Writes the module that runs a file without TensorFlow beside it, `RUNNER_NAME`.

    Returns:
      Its path.
    """
    path = os.path.join(os.path.dirname(tflite_path), RUNNER_NAME)
    with open(lite.__file__, "rb") as file:
        files.write_bytes(path, file.read())
    return path


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
    model = _quantize(model, inference_network, info, int8_options)
    _write(tflite_path, model, info)
    return tflite_path


def append_model_info(model: bytes, info: ModelInfo, *, labels: str = "") -> bytes:
    """Appends the description of a model, and names of channels if there are some, as a zip."""
    contents = {FILE_NAME: info.to_bytes()}
    if labels:
        contents[tflite_metadata.LABELS] = labels.encode()
    buffer = io.BytesIO(model)
    with zipfile.ZipFile(buffer, "a") as archive:
        for name, content in contents.items():
            # A fixed date: the same model gives the same bytes.
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
    return buffer.getvalue()


def read_model_info(tflite_path: str) -> ModelInfo:
    """Reads the description of a model out of its file.

    Raises:
      ValueError: the file has none, or one that is too large or malformed.
    """
    content = lite.read_description(tflite_path)
    return ModelInfo.from_bytes(content, source=f"{tflite_path}:{FILE_NAME}")


class TFLiteRunner(lite.Runner):
    """Runs a .tflite file; needs the package ai-edge-litert or the interpreter of TensorFlow.

    Args:
      tflite_path: the file.
      num_threads: threads of the interpreter; default is the runtime's choice.

    Raises:
      ValueError: not a TFLite file, or not one with our signature.
    """

    def __init__(self, tflite_path: str, *, num_threads: Optional[int] = None):
        super().__init__(
            tflite_path, num_threads=num_threads, interpreter_class=interpreter_class()
        )


def _write(tflite_path: str, model: bytes, info: ModelInfo) -> None:
    labels = ""
    if info.part == parts.SEMANTIC:
        model = tflite_metadata.add_segmenter_metadata(model, name=info.experiment)
        labels = "".join(f"{category.name}\n" for category in info.dataset_info.categories)
    files.write_bytes(tflite_path, append_model_info(model, info, labels=labels))


def _quantize(
    model: bytes, network: tf.keras.Model, info: ModelInfo, options: quantization_lib.Options
) -> bytes:
    """The int8 form of a float32 file's model, calibrated on images as it wants them."""
    if info.padding_color:
        read_inputs = parts.with_padding(options.read_inputs, info.padding_color)
        options = options._replace(read_inputs=read_inputs)
    layers = [layer.name for layer in network.layers if layer.weights]
    return quantization_lib.quantize_model(model, layers=layers, options=options)


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


def interpreter_class() -> Any:
    """The interpreter of ai_edge_litert where it is installed, else TensorFlow's."""
    try:
        return lite.litert().Interpreter
    except ImportError:
        return tf.lite.Interpreter

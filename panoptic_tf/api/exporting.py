"""Exports from Python, and what `panoptic-tf export-saved-model` and the like run."""

from __future__ import annotations

import os
import re
from typing import Any, Callable, Dict, NamedTuple, Optional, Sequence, Tuple, Union

import tensorflow as tf

from panoptic_tf.api import models, paths, process_state, settings
from panoptic_tf.inputs.shards import find_shards
from panoptic_tf.ops import forms
from panoptic_tf.serving import calibration, decoding, onnx_export, onnx_runner, parts, tflite
from panoptic_tf.serving import export as export_lib
from panoptic_tf.serving import quantization as quantization_lib
from panoptic_tf.systems.task import PanopticTask
from panoptic_tf.training import runner

FORMATS = ("saved_model", "tflite", "onnx")
TARGETS = (forms.Form.CPU.value, forms.Form.ACCELERATOR.value)
SERVED_PRECISIONS = ("float32", "bfloat16")

Path = Union[str, os.PathLike]


def export(path: Path, output: Path, *, format: Optional[str] = None, **options: Any) -> str:
    """Exports a trained model.

    Args:
      path: the folder of a run, or a checkpoint's prefix.
      output: folder of the SavedModel's versions, or the .tflite or .onnx file.
      format: `saved_model`, `tflite` or `onnx`; default by the ending of the output.
      **options: of `export_saved_model`, `export_tflite` or `export_onnx`.

    Returns:
      The path that `Predictor` takes: the folder of the version, or the file.

    Example:
        saved_model = panoptic_tf.export(run.model_dir, "runs/python/saved_model")

    Raises:
      ValueError: unknown format, and what those raise.
    """
    if format is None:
        ending = os.path.splitext(os.fspath(output))[1]
        format = {".tflite": "tflite", onnx_runner.SUFFIX: "onnx"}.get(ending, "saved_model")
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}.")
    functions: Dict[str, Callable[..., str]] = {
        "saved_model": export_saved_model,
        "tflite": export_tflite,
        "onnx": export_onnx,
    }
    return functions[format](path, output, **options)


def export_saved_model(
    path: Path,
    export_dir: Path,
    *,
    input_size: Union[None, int, Sequence[int]] = None,
    version: Optional[int] = None,
    input_type: str = "image_bytes",
    max_pixels: int = decoding.MAX_PIXELS,
    max_png_pixels: int = decoding.MAX_PNG_PIXELS,
    warmup_batch_sizes: Sequence[int] = (1,),
    target: str = forms.Form.CPU.value,
    precision: str = "float32",
    **configured: Any,
) -> str:
    """Exports a checkpoint for TensorFlow Serving and `Predictor`.

    Args:
      path: the folder of a run, or a checkpoint's prefix.
      export_dir: folder of the versions.
      input_size: (height, width) that images are fitted into; default the experiment's.
      version: number of the version's folder; default the next free one.
      input_type: of `serving.export.INPUT_TYPES`: the signature that `serving_default` is.
      max_pixels: larger images are returned as not valid.
      max_png_pixels: the same of the signature `panoptic_png`, if it is the lower one.
      warmup_batch_sizes: one warm-up request each.
      target: `cpu` or `accelerator`: what it is served on; the results are the same.
      precision: of `SERVED_PRECISIONS`: what the network's layers compute in. Post-processing and
        outputs are float32 in both.
      **configured: `experiment`, `config_file`, `overrides` where the params.yaml beside the
        checkpoint is not meant; see `settings.configure`.

    Returns:
      The folder of the version.

    Raises:
      ValueError: there is no checkpoint or it does not fit, or an argument is out of its range.
      OSError: it cannot be written.
    """
    if input_type not in export_lib.INPUT_TYPES:
        raise ValueError(
            f"input_type must be one of {', '.join(export_lib.INPUT_TYPES)}, got {input_type!r}."
        )
    if target not in TARGETS:
        raise ValueError(f"target must be one of {', '.join(TARGETS)}, got {target!r}.")
    if precision not in SERVED_PRECISIONS:
        raise ValueError(
            f"precision must be one of {', '.join(SERVED_PRECISIONS)}, got {precision!r}."
        )
    folder = os.fspath(export_dir)
    name = "" if version is None else str(version)
    paths.check_can_write("export_dir", os.path.join(folder, name, "saved_model.pb"))
    with process_state.kept():
        loaded = _load(path, input_size, configured, precision)
        return export_lib.export_saved_model(
            loaded.network,
            export_dir=folder,
            version=version,
            input_type=input_type,
            max_pixels=max_pixels,
            max_png_pixels=max_png_pixels,
            warmup_batch_sizes=warmup_batch_sizes,
            form=forms.Form(target),
            precision=precision,
            **loaded.arguments,
        )


def export_tflite(
    path: Path,
    tflite_path: Path,
    *,
    input_size: Union[None, int, Sequence[int]] = None,
    quantization: str = "none",
    part: str = parts.WHOLE,
    with_runner: bool = False,
    calibration_path: Optional[str] = None,
    num_calibration_images: int = calibration.NUM_IMAGES,
    float_layers: Optional[str] = None,
    quantization_report: Optional[str] = None,
    **configured: Any,
) -> str:
    """Exports a checkpoint as one .tflite file, post-processing included.

    Args:
      path: the folder of a run, or a checkpoint's prefix.
      tflite_path: the file.
      input_size: (height, width) that images are fitted into; default the experiment's.
      quantization: of `serving.tflite.QUANTIZATIONS`.
      part: `whole`; or `network`, without post-processing, or `semantic`, its semantic logits with
        the metadata that MediaPipe reads.
      with_runner: whether to write `panoptic_tf_lite.py` beside it, which runs a whole file without
        TensorFlow.
      calibration_path: pattern of training records, which `int8` needs.
      num_calibration_images: the first so many are taken.
      float_layers: regular expression of the layers that stay float32 in an `int8` file; default
        the last layers of the system's heads.
      quantization_report: CSV file for the error of each `int8` layer.
      **configured: see `export_saved_model`.

    Returns:
      `tflite_path`.

    Raises:
      ValueError: there is no checkpoint or it does not fit, or an argument is out of its range or
        goes with another quantization.
      OSError: it cannot be written.
    """
    _check_quantization(quantization, calibration_path, quantization_report, float_layers)
    parts.check_part(part)
    file = os.fspath(tflite_path)
    paths.check_can_write("tflite_path", file)
    if quantization_report:
        paths.check_can_write("quantization_report", quantization_report)
    with process_state.kept():
        loaded = _load(path, input_size, configured)
        options = None
        if calibration_path:
            options = quantization_lib.Options(
                calibration.read_inputs(
                    calibration_path,
                    dataset_info=loaded.arguments["dataset_info"],
                    input_size=loaded.arguments["input_size"],
                    num_images=num_calibration_images,
                ),
                quantization_lib.pattern_of(loaded.task.float_layers())
                if float_layers is None
                else float_layers,
                quantization_report,
            )
        tflite.export_tflite(
            loaded.network,
            tflite_path=file,
            quantization=quantization,
            part=part,
            int8_options=options,
            **loaded.arguments,
        )
    if with_runner:
        tflite.write_runner(file)
    return file


def export_onnx(
    path: Path,
    onnx_path: Path,
    *,
    input_size: Union[None, int, Sequence[int]] = None,
    part: str = parts.WHOLE,
    **configured: Any,
) -> str:
    """Exports a checkpoint as one .onnx file, post-processing included.

    Args:
      path: the folder of a run, or a checkpoint's prefix.
      onnx_path: the file, named `.onnx`.
      input_size: (height, width) that images are fitted into; default the experiment's.
      part: `whole`; or `network`, without post-processing, or `semantic`, its semantic logits.
      **configured: see `export_saved_model`.

    Returns:
      `onnx_path`.

    Raises:
      ValueError: there is no checkpoint or it does not fit, the file has another ending, a package
        is missing, the part is unknown or the network has no such part, or the outputs of the file
        differ from the network's.
      OSError: it cannot be written.
    """
    file = os.fspath(onnx_path)
    if not file.endswith(onnx_runner.SUFFIX):
        raise ValueError(f"--onnx_path={file} must end in {onnx_runner.SUFFIX}.")
    parts.check_part(part)
    paths.check_can_write("onnx_path", file)
    onnx_export.check_packages()
    with process_state.kept():
        loaded = _load(path, input_size, configured)
        return onnx_export.export_onnx(
            loaded.network, onnx_path=file, part=part, **loaded.arguments
        )


def _check_quantization(
    quantization: str,
    calibration_path: Optional[str],
    quantization_report: Optional[str],
    float_layers: Optional[str],
) -> None:
    """Before the network is loaded, which takes a while.

    Raises:
      ValueError: unknown quantization, int8 without records, records without int8, or no regular
        expression.
    """
    if quantization not in tflite.QUANTIZATIONS:
        raise ValueError(
            f"quantization must be one of {', '.join(tflite.QUANTIZATIONS)}, got {quantization!r}."
        )
    if quantization == "int8":
        if not calibration_path:
            raise ValueError(
                "--quantization=int8 needs --calibration_path, the pattern of the training records."
            )
        find_shards(calibration_path, name="calibration_path", allow_partial=True)
    else:
        given = {"calibration_path": calibration_path, "quantization_report": quantization_report}
        for name, value in given.items():
            if value:
                raise ValueError(f"--{name} needs --quantization=int8.")
    try:
        re.compile(float_layers or "")
    except re.error as error:
        raise ValueError(f"--float_layers={float_layers}: {error}.") from error


class _Loaded(NamedTuple):
    network: tf.keras.Model
    task: PanopticTask
    arguments: Dict[str, Any]


def _load(
    path: Path,
    input_size: Union[None, int, Sequence[int]],
    configured: Dict[str, Any],
    precision: str = "float32",
) -> _Loaded:
    """The inference network with a checkpoint's weights, its task, what the exports take."""
    checkpoint_path = os.fspath(path)
    models.check_checkpoint("checkpoint_path", checkpoint_path)
    found = settings.configure(saved_dir=models.folder_of(checkpoint_path), **configured)
    params = found.params
    if input_size is not None:
        params = params.replace(task={"model": {"input_size": list(_size(input_size))}})
    task = runner.build_task(params)
    model = runner.load_model(params, task, checkpoint_path=checkpoint_path, precision=precision)
    arguments = {**runner.export_arguments(params, task), "experiment": found.experiment}
    return _Loaded(model.inference_network, task, arguments)


def _size(value: Union[int, Sequence[int]]) -> Tuple[int, int]:
    sides = (value, value) if isinstance(value, int) else tuple(value)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"input_size must be (height, width) in pixels, got {value!r}.")
    return sides

"""ONNX export with the post-processing inside, checked on ONNX Runtime before it is written.

Inputs are image float32 [B, H, W, 3] (RGB 0..255, zero padded) and image_info float32 [B, 4, 2], as
`geometry.fit_and_pad` makes them; outputs the network's predictions. B is dynamic. Files of `parts`
have no post-processing. The file's metadata hold what `ModelInfo` says, under the name of its file.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
from typing import Any, Sequence
from unittest import mock

import numpy as np
import tensorflow as tf

from panoptic_tf.datasets import dataset_info as dataset_info_lib
from panoptic_tf.datasets import files, shapes
from panoptic_tf.inputs import geometry
from panoptic_tf.ops import forms
from panoptic_tf.serving import onnx_graph, onnx_runner, parts
from panoptic_tf.serving.differences import differences
from panoptic_tf.serving.model_info import FILE_NAME, ModelInfo

OPSET = 17
"""Of ONNX 1.12; ONNX Runtime has it since 1.12, of 2022."""

_PRODUCER = "panoptic_tf"
_PART_TOLERANCE = 1e-4
_TINY = 1e-30


def export_onnx(
    inference_network: tf.keras.Model,
    *,
    dataset_info: dataset_info_lib.DatasetInfo,
    mean: Sequence[float],
    std: Sequence[float],
    channel_order: str,
    input_size: geometry.Size,
    onnx_path: str,
    experiment: str = "",
    part: str = parts.WHOLE,
) -> str:
    """Converts a network, runs the result beside it, and writes the file, whole or not at all.

    Args:
      inference_network: takes normalised image [B, H, W, 3] and image_info [B, 4, 2].
      dataset_info: categories, kept in the file.
      mean, std, channel_order: see `normalize.normalize_image`.
      input_size: (height, width) of the network's input.
      onnx_path: the file.
      experiment: name of the experiment, kept in the file.
      part: `whole`, `network` or `semantic`; see `parts`.

    Returns:
      `onnx_path`.

    Raises:
      ValueError: a package of the extra `onnx` is missing, the part is unknown or the network has
        no such part, or ONNX Runtime returns something else than the network.
    """
    check_packages()
    take = functools.partial(
        parts.take_part,
        inference_network,
        part,
        num_categories=dataset_info.num_categories,
        mean=mean,
        std=std,
        channel_order=channel_order,
    )
    target = forms.Form.ONNX
    taken = take(form=target)
    size = (input_size[0], input_size[1])
    color = taken.padding_color
    info = ModelInfo(dataset_info, size, experiment, target.value, part=part, padding_color=color)
    content = _convert(taken, info, onnx_path)
    check = _check if part == parts.WHOLE else _check_part
    check(content, take(form=forms.current()).answer, info, onnx_path)
    files.write_bytes(onnx_path, content)
    return onnx_path


def check_packages() -> None:
    """Raises a ValueError where one of the extra `onnx` is missing."""
    for package in ("tf2onnx", "onnx", "onnxruntime"):
        onnx_runner.import_package(package)


def _convert(taken: parts.Part, info: ModelInfo, path: str) -> bytes:
    onnx = importlib.import_module("onnx")
    model = _run_tf2onnx(taken.answer, taken.signature(None, info.input_size))
    unknown = sorted(
        {node.op_type for node in model.graph.node if node.domain not in ("", "ai.onnx")}
    )
    if unknown:
        raise ValueError(f"{path}: ONNX has no operator for {', '.join(unknown)} of the network.")
    onnx_graph.read_unchanged_from_outside(model.graph)
    onnx_graph.round_scales_up(model.graph)
    model.producer_name = _PRODUCER
    onnx.helper.set_model_props(model, {FILE_NAME: info.to_bytes().decode()})
    return model.SerializeToString()


def _run_tf2onnx(answer: Any, signature: Sequence[tf.TensorSpec]) -> Any:
    """The ModelProto of a function.

    tf2onnx copies the graph before each of its optimisers, to skip one that fails. That takes up to
    a third of the time, and none fails on our networks: copies are made only after a failure.
    """
    tf2onnx = importlib.import_module("tf2onnx")
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    function = tf.function(answer, autograph=False, input_signature=signature)

    def convert() -> Any:
        return tf2onnx.convert.from_function(function, input_signature=signature, opset=OPSET)[0]

    try:
        with mock.patch.dict(os.environ, {"TF2ONNX_CATCH_ERRORS": "FALSE"}):
            return convert()
    except Exception:
        return convert()


def _check(content: bytes, answer: Any, info: ModelInfo, path: str) -> None:
    """Runs the model and the network on two drawn images, of which one leaves a part of the frame.

    Raises:
      ValueError: they differ.
    """
    run = onnx_runner.OnnxRunner(path, content=content)
    height, width = info.input_size
    drawn = _draw(info.input_size)
    pieces = [drawn, drawn[: max(height * 3 // 4, 1), : max(width // 2, 1)]]
    fitted = [geometry.fit_and_pad(tf.constant(piece), info.input_size) for piece in pieces]
    image, image_info = (tf.stack(x) for x in zip(*fitted))
    expected = {key: value.numpy() for key, value in answer(image, image_info).items()}
    for problem in differences(run.predict_batch(image.numpy(), image_info.numpy()), expected):
        raise ValueError(_refusal(path, problem))


def _check_part(content: bytes, answer: Any, info: ModelInfo, path: str) -> None:
    """Runs the network without post-processing on a drawn image and its mirror image.

    Raises:
      ValueError: an output is not the same to a relative L2 of 1e-4.
    """
    drawn = _draw(info.input_size)
    images = np.stack([drawn, drawn[:, ::-1]]).astype(np.float32)
    expected = {key: value.numpy() for key, value in answer(tf.constant(images)).items()}
    found = onnx_runner.run_content(content, {"image": images}, source=path)
    for key, value in expected.items():
        other = found[key]
        distance = float(np.linalg.norm(other - value) / (np.linalg.norm(value) + _TINY))
        if not distance <= _PART_TOLERANCE:  # NaN too
            raise ValueError(_refusal(path, f"{key} differs by {distance:.3g} (relative L2)"))


def _draw(size: geometry.Size) -> np.ndarray:
    """An image of shapes, uint8 [H, W, 3]."""
    return shapes.generate_image(0, 0, max(size)).image[: size[0], : size[1]]


def _refusal(path: str, problem: str) -> str:
    return (
        f"{path} is not written: on ONNX Runtime {problem}. Try other versions of the packages "
        "of the extra `onnx`."
    )

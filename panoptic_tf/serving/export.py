"""SavedModel export: bytes or pixels in, panoptic predictions out, decoding and scaling inside.

Signatures (B is dynamic, every output has it first):
  image_bytes: string [B], JPEG or PNG of any sizes -> the network's predictions and valid [B].
  image_tensor: uint8 [B, h, w, 3] -> the same.
  panoptic_png: string [B] -> panoptic_png_bytes [B], the segment table and valid [B].
`serving_default` is one of them. An image that cannot be read has valid False and zeros elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from typing import Any, Callable, Dict, Iterator, Optional, Sequence

import tensorflow as tf

from panoptic_tf.datasets import dataset_info as dataset_info_lib
from panoptic_tf.datasets import files
from panoptic_tf.inputs import geometry, normalize
from panoptic_tf.ops import forms
from panoptic_tf.serving import decoding, id_map, warmup
from panoptic_tf.serving.model_info import FILE_NAME, ModelInfo
from panoptic_tf.structures import ImageInfo, Prediction, Tensors

INPUT_TYPES = ("image_bytes", "image_tensor", "panoptic_png")
SEGMENT_ID = "segment_id"
PANOPTIC_PNG = "panoptic_png_bytes"
VALID = "valid"

_SEGMENT_TABLE = (
    Prediction.SEGMENT_CATEGORY,
    Prediction.SEGMENT_INSTANCE,
    Prediction.SEGMENT_SCORE,
    Prediction.NUM_SEGMENTS,
)


def export_saved_model(
    inference_network: tf.keras.Model,
    *,
    dataset_info: dataset_info_lib.DatasetInfo,
    mean: Sequence[float],
    std: Sequence[float],
    channel_order: str,
    input_size: geometry.Size,
    export_dir: str,
    input_type: str = "image_bytes",
    experiment: str = "",
    version: Optional[int] = None,
    max_pixels: int = decoding.MAX_PIXELS,
    max_png_pixels: int = decoding.MAX_PNG_PIXELS,
    warmup_batch_sizes: Sequence[int] = (1,),
    form: forms.Form = forms.Form.CPU,
    precision: str = "",
) -> str:
    """Writes `<export_dir>/<version>/`, whole or not at all.

    Args:
      inference_network: takes normalised image [B, H, W, 3] and image_info [B, 4, 2].
      dataset_info: categories, kept in the assets.
      mean, std, channel_order: see `normalize.normalize_image`.
      input_size: (height, width) of the network's input.
      export_dir: folder of the versions.
      input_type: the signature that `serving_default` is.
      experiment: name of the experiment, kept in the assets.
      version: integer name of the folder; default the next free one.
      max_pixels: larger images are returned as not valid.
      max_png_pixels: the limit of `panoptic_png`, which encodes as many pixels as it decodes; where
        it is above `max_pixels`, that is the limit.
      warmup_batch_sizes: batch sizes of the warm-up requests; none are written without the package
        tensorflow-serving-api.
      form: of the operations: for servers with CPUs or with accelerators; kept in the assets.
      precision: what the network's layers compute in, kept in the assets.

    Returns:
      The folder of the version.

    Raises:
      ValueError: unknown input type, the version exists, or the network lacks a panoptic head that
        `panoptic_png` needs.
    """
    size = (input_size[0], input_size[1])
    info = ModelInfo(dataset_info, size, experiment, form.value, precision)
    answer = build_answer(inference_network, mean, std, channel_order, form)
    functions = _build_functions(
        answer, info.input_size, max_pixels, min(max_pixels, max_png_pixels)
    )
    if not _has_panoptic_outputs(inference_network):
        del functions["panoptic_png"]
    if input_type not in functions:
        raise ValueError(f"input_type must be one of {sorted(functions)}, got {input_type!r}.")
    with _new_version(export_dir, version) as (temporary, path):
        with tempfile.TemporaryDirectory() as folder:
            asset = os.path.join(folder, FILE_NAME)
            files.write_bytes(asset, info.to_bytes())
            module = _ServingModule(inference_network.weights, functions, asset)
            # Not their concrete functions: saving would trace each once more.
            signatures = {**functions, "serving_default": functions[input_type]}
            tf.saved_model.save(module, temporary, signatures=signatures)
        warmup.write_requests(
            temporary, input_type, input_size=info.input_size, batch_sizes=warmup_batch_sizes
        )
    return path


class _ServingModule(tf.Module):
    """Holds what the functions need; the Keras model itself is not written a second time."""

    def __init__(self, weights: Sequence[tf.Variable], functions: Dict[str, Any], asset: str):
        super().__init__()
        self.network_weights = list(weights)
        self.dataset_info = tf.saved_model.Asset(asset)
        for name, function in functions.items():
            setattr(self, name, function)


def build_answer(
    network: tf.keras.Model,
    mean: Sequence[float],
    std: Sequence[float],
    channel_order: str,
    form: forms.Form,
) -> Callable[[tf.Tensor, tf.Tensor], Tensors]:
    """From images as `geometry.fit_and_pad` makes them, and their image_info, to predictions."""

    def answer(images: tf.Tensor, image_info: tf.Tensor) -> Tensors:
        normalized = normalize.normalize_image(
            images, image_info, mean=mean, std=std, channel_order=channel_order
        )
        with forms.use(form):
            return network({"image": normalized, "image_info": image_info}, training=False)

    return answer


def _build_functions(
    answer: Callable[[tf.Tensor, tf.Tensor], Tensors],
    input_size: geometry.Size,
    max_pixels: int,
    max_png_pixels: int,
) -> Dict[str, Any]:
    # No AutoGraph, which would walk through the whole network.
    @tf.function(
        autograph=False,
        input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")],
    )
    def image_bytes(image_bytes):
        decoded = decoding.decode_images(image_bytes, input_size, max_pixels=max_pixels)
        return _only_valid(answer(decoded.images, decoded.image_info), decoded.valid)

    @tf.function(
        autograph=False,
        input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="image_tensor")],
    )
    def image_tensor(image_tensor):
        images, image_info = geometry.fit_and_pad(image_tensor, input_size)
        return _only_valid(answer(images, image_info), tf.ones_like(images[:, 0, 0, 0], tf.bool))

    @tf.function(
        autograph=False,
        input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")],
    )
    def panoptic_png(image_bytes):
        decoded = decoding.decode_images(image_bytes, input_size, max_pixels=max_png_pixels)
        prediction = answer(decoded.images, decoded.image_info)
        sizes = tf.cast(decoded.image_info[:, ImageInfo.ORIGINAL_SIZE], tf.int32)
        pngs, areas = id_map.encode_id_maps(prediction, sizes)
        category = prediction[Prediction.SEGMENT_CATEGORY]
        outputs = {
            **{key: prediction[key] for key in _SEGMENT_TABLE},
            SEGMENT_ID: tf.where(category > 0, tf.range(1, category.shape[1] + 1), 0),
            Prediction.SEGMENT_AREA: areas,
            Prediction.IMAGE_SIZE: sizes,
            PANOPTIC_PNG: pngs,
        }
        return _only_valid(outputs, decoded.valid)

    return {"image_bytes": image_bytes, "image_tensor": image_tensor, "panoptic_png": panoptic_png}


def _only_valid(outputs: Tensors, valid: tf.Tensor) -> Tensors:
    """Zeros (empty strings) in the rows of images that could not be read."""

    def select(values: tf.Tensor) -> tf.Tensor:
        mask = tf.reshape(valid, [-1] + [1] * (values.shape.rank - 1))
        return tf.where(mask, values, tf.zeros([], values.dtype))

    return {**{key: select(values) for key, values in outputs.items()}, VALID: valid}


def _has_panoptic_outputs(network: tf.keras.Model) -> bool:
    return set(Prediction.PANOPTIC_KEYS) <= set(network.output)


@contextlib.contextmanager
def _new_version(export_dir: str, version: Optional[int]) -> Iterator[Any]:
    """Gives (temporary folder, final folder), and renames one to the other at the end."""
    os.makedirs(export_dir, exist_ok=True)
    if version is None:
        version = 1 + max([0, *(int(name) for name in os.listdir(export_dir) if name.isdecimal())])
    path = os.path.join(export_dir, str(version))
    if os.path.exists(path):
        raise ValueError(f"{path} exists; give another --version, or none for the next free one.")
    # Not an integer name: a server that watches the folder does not load it.
    temporary = tempfile.mkdtemp(dir=export_dir, prefix=f".{version}.", suffix=".tmp")
    try:
        yield temporary, path
        os.chmod(temporary, 0o755)
        os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise

"""deeplab2's Panoptic-DeepLab with random weights: its checkpoints, and what it computes with them.

PYTHONPATH=folder_above_deeplab2 python benchmarks/references/deeplab2_weights.py \\
    --model=resnet50_os16_coco --image=photo.jpg --output_dir=dump

Runs with TensorFlow 2.15 and deeplab2 from its repository, whose `.proto` files are compiled: in
the folder above it, with grpcio-tools 1.62,

python -m grpc_tools.protoc -I. --python_out=. deeplab2/*.proto

Measured with deeplab2 64bc1c1 and TensorFlow 2.15.1.

The models are those of the published configurations, named by these and the data set. But the ASPP
pools over the size of the photograph instead of the training crop's, which is what it does at that
size. Norms are drawn as `backbone_weights.py` has it, predictors so that scores pass the thresholds
and vary over the image; the channel for void of COCO's models never wins, as nothing teaches it.
Written are:
  ckpt-1.*, checkpoint: as its trainings write, without the optimizer.
  names.txt: name and shape of what is in the checkpoint.
  reference.npz, floats float32 and channels last:
    image: uint8 RGB [H, W, 3], before normalisation; H and W are multiples of 32 plus one.
    C2..C5: what the decoder takes of them.
    semantic_logits (without void's), center [h, w, 1], offset [h, w, 2] (y, x; in pixels of the
      network's input, that is times 4), before the upsampling.
    panoptic_category (of the data set, 0 void), panoptic_instance (segment): int32 [H, W].
"""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, Mapping, NamedTuple, Sequence, Tuple

import backbone_weights
import deeplab2
import numpy as np
import tensorflow as tf
from deeplab2 import config_pb2
from deeplab2.data import coco_constants, dataset
from deeplab2.model.deeplab import DeepLab
from google.protobuf import text_format

_SIZE = (257, 385)
_STRIDE = 4
_RESIDUAL_SCALE = 0.3
_CONFIGS = {
    **{
        f"{name}_coco": f"coco/panoptic_deeplab/{name}"
        for name in (
            *("resnet50_os16", "resnet50_os32"),
            *("resnet50_beta_os16", "resnet50_beta_os32"),
        )
    },
    **{
        f"{name}_cityscapes": f"cityscapes/panoptic_deeplab/{name}"
        for name in (
            *("resnet50_beta_os32", "mobilenet_v3_large_os16", "mobilenet_v3_large_os32"),
            *("mobilenet_v3_small_os16", "mobilenet_v3_small_os32"),
        )
    },
    "resnet50_os32_cityscapes": (
        "cityscapes/panoptic_deeplab/resnet50_os32_merge_with_pure_tf_func"
    ),
}
# Ids of the data set by training id.
_CITYSCAPES = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


class _Predictor(NamedTuple):
    """How the outputs of a layer are spread over the photograph, channel by channel."""

    std: float
    mean: float = 0.0
    mean_std: float = 0.0  # of the channels' means


_PREDICTORS: Dict[str, _Predictor] = {
    "semantic_logits": _Predictor(2.0, 0.0, 2.0),
    "center_heatmap": _Predictor(0.1, -0.1),  # of which 0.1 is the threshold
    "offset_map": _Predictor(1.0, 0.0, 0.5),  # in cells
}


def main() -> None:
    """Writes the checkpoint, the names and the reference."""
    arguments = backbone_weights.build_parser(__doc__).parse_args()
    size = arguments.size or _SIZE
    image = backbone_weights.read_image(arguments.image, size)
    tf.keras.utils.set_random_seed(arguments.seed)
    random = np.random.default_rng(arguments.seed)
    config = _config(arguments.model, size)
    info = dataset.MAP_NAME_TO_DATASET_INFO[config.train_dataset_options.dataset]
    model = DeepLab(config, info)
    images = tf.constant(image[np.newaxis], tf.float32)
    parts = _Parts(model, images)
    parts.outputs()  # makes the variables
    _randomise(model, parts, random)
    has_void = info.ignore_label < info.num_classes
    _spread(parts, has_void=has_void, random=random)

    features, outputs = parts.features(), parts.outputs()
    panoptic = model(images, training=False)["panoptic_pred"][0].numpy()
    os.makedirs(arguments.output_dir, exist_ok=True)
    names = _save(model, arguments.output_dir)
    backbone_weights.write(
        arguments.output_dir,
        names,
        image=image,
        **{f"C{level}": features[f"res{level}"][0].numpy() for level in "2345"},
        semantic_logits=outputs["semantic_logits"][0, ..., int(has_void) :].numpy(),
        center=outputs["center_heatmap"][0].numpy(),
        offset=outputs["offset_map"][0].numpy() * _STRIDE,
        **_panoptic_arrays(panoptic, info),
    )


def _config(name: str, size: Tuple[int, int]) -> Any:
    if name not in _CONFIGS:
        raise ValueError(f"Unknown model {name!r}; known: {', '.join(_CONFIGS)}.")
    folder = os.path.dirname(deeplab2.__file__)
    config = config_pb2.ExperimentOptions()
    with open(os.path.join(folder, "configs", f"{_CONFIGS[name]}.textproto")) as file:
        text_format.Parse(file.read(), config)
    config.train_dataset_options.crop_size[:] = size
    # The same function of the same variables.
    config.trainer_options.solver_options.use_sync_batchnorm = False
    config.evaluator_options.merge_semantic_and_instance_with_tf_op = False
    return config


class _Parts:
    """Encoder and decoder on one image, as the model calls them."""

    def __init__(self, model: DeepLab, images: tf.Tensor):
        self._items = {"encoder": model._encoder, "decoder": model._decoder}
        self._images = images / 127.5 - 1.0

    def features(self) -> Dict[str, tf.Tensor]:
        """`res2`, ..."""
        return self._items["encoder"](self._images, training=False)

    def outputs(self) -> Dict[str, tf.Tensor]:
        """`semantic_logits`, `center_heatmap` and `offset_map` at stride 4."""
        return self._items["decoder"](self.features(), training=False)

    def predictors(self) -> Dict[str, tf.keras.layers.Layer]:
        """What gives these out."""
        decoder = self._items["decoder"]
        heads = ("_semantic_head", "_instance_center_head", "_instance_regression_head")
        return {key: getattr(decoder, head).final_conv for key, head in zip(_PREDICTORS, heads)}


def _randomise(model: DeepLab, parts: _Parts, random: np.random.Generator) -> None:
    """Draws all of the norms, whose statistics are near those of what reaches them.

    A channel that hardly varies, as all do after the image pooling, would be spread out until
    rounding is all that is seen of it. What ends a residual branch, whose gamma starts at 0, stays
    small, or rounding errors would triple from stage to stage.
    """

    def calibrate(norm: tf.keras.layers.Layer) -> Callable[..., tf.Tensor]:
        call = norm.call

        def calibrated(inputs: tf.Tensor, *arguments: Any, **keywords: Any) -> tf.Tensor:
            mean, variance = (x.numpy() for x in tf.nn.moments(inputs, (0, 1, 2)))
            variance = np.maximum(variance, 1e-2 * variance.mean() + 1e-6)
            variance = np.maximum(variance, 0.2 * np.square(mean))
            shift = np.sqrt(variance) * 0.1 * random.standard_normal(mean.shape)
            norm.moving_mean.assign(mean + shift)
            norm.moving_variance.assign(variance * random.uniform(0.5, 1.5, mean.shape))
            return call(inputs, *arguments, **keywords)

        return calibrated

    norms = [m for m in model.submodules if isinstance(m, tf.keras.layers.BatchNormalization)]
    for norm in norms:
        scale = np.where(norm.gamma == 0.0, _RESIDUAL_SCALE, 1.0)
        norm.gamma.assign(scale * random.uniform(0.5, 1.5, norm.gamma.shape))
        norm.beta.assign(0.1 * random.standard_normal(norm.beta.shape))
        norm.call = calibrate(norm)
    parts.outputs()
    for norm in norms:
        del norm.call


def _spread(parts: _Parts, *, has_void: bool, random: np.random.Generator) -> None:
    outputs = parts.outputs()
    for key, layer in parts.predictors().items():
        predictor, found = _PREDICTORS[key], outputs[key].numpy()
        mean, std = found.mean(axis=(0, 1, 2)), np.maximum(found.std(axis=(0, 1, 2)), 1e-6)
        scale = predictor.std / std
        target = predictor.mean + predictor.mean_std * random.standard_normal(mean.shape)
        if key == "semantic_logits" and has_void:
            target[0] = -50.0
        layer.kernel.assign(layer.kernel * scale)
        layer.bias.assign((layer.bias - mean) * scale + target)


def _panoptic_arrays(panoptic: np.ndarray, info: Any) -> Dict[str, np.ndarray]:
    """Of a map of training id x divisor + instance."""
    is_coco = info.ignore_label == 0
    ids: Sequence[int] = coco_constants.get_id_mapping_inverse() if is_coco else _CITYSCAPES
    values, index = np.unique(panoptic, return_inverse=True)
    index = index.reshape(panoptic.shape)
    training_ids = [int(value) // info.panoptic_label_divisor for value in values]
    known = [i != info.ignore_label for i in training_ids]
    categories = [ids[i] if is_known else 0 for i, is_known in zip(training_ids, known)]
    print(f"{sum(known)} segments, {100 * np.mean(~np.array(known)[index]):.1f} % void")
    segments = np.cumsum(known) * np.array(known)
    return {
        "panoptic_category": np.array(categories, np.int32)[index],
        "panoptic_instance": segments.astype(np.int32)[index],
    }


def _save(model: DeepLab, output_dir: str) -> Mapping[str, Tuple[int, ...]]:
    step = tf.Variable(0, dtype=tf.int64)
    checkpoint = tf.train.Checkpoint(global_step=step, **model.checkpoint_items)
    path = tf.train.CheckpointManager(checkpoint, output_dir, max_to_keep=1).save()
    return {
        name.replace(_VALUE, ""): tuple(shape)
        for name, shape in tf.train.list_variables(path)
        if name.endswith(_VALUE)
    }


if __name__ == "__main__":
    main()

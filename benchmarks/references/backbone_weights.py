"""Weight files of other libraries' backbones, and what the libraries compute with them.

python benchmarks/references/backbone_weights.py --source=torchvision --model=resnet50 \\
    --image=photo.jpg --output_dir=dump

Sources and the environments they run in (NumPy and Pillow in all):
  torchvision: PyTorch and torchvision; writes `model.pth`.
  timm: PyTorch, timm and safetensors; writes `model.safetensors` and `model.pth`.
  huggingface: PyTorch and transformers; writes `model.safetensors` of the bare model and
    `pytorch_model.bin` of the classifier, whose names have a prefix, as published files do.
  keras: TensorFlow 2.15; writes `model.h5`, `model_notop.h5` and `model.weights.h5`.
  official: TensorFlow 2.15 and tf-models-official; writes `ckpt-0`, with the items `model` and
    `backbone`, and `checkpoint`.
Measured with PyTorch 2.14, torchvision 0.29, timm 1.0.31, transformers 5.24, TensorFlow 2.15.1.

The weights are random: the library's own initialisation, then norms whose statistics are those of
the photograph times random factors and whose affine part is random, so that nothing degenerates.
Beside the weights stand `names.txt` (name and shape) and `reference.npz`: `image` (uint8 RGB
[H, W, 3]), `normalization_mean`, `normalization_std` (of pixels 0..255, in the order
`channel_order`), `norm_epsilon`, `C2`..`C5` (float32 [h, w, C] at strides 4 to 32: what the last
block of the stride gives out, before convolutions that belong to the classifier) and `head` (after
these) where it differs from `C5`.

What the scripts of this kind share stands here, too.
"""

from __future__ import annotations

import argparse
import os
import re
from typing import Any, Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Tuple

import numpy as np
from PIL import Image

SEED = 20261125
SIZE = (256, 384)
_IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
_HALF = ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5))
_CAFFE = ((103.939, 116.779, 123.68), (1.0, 1.0, 1.0))

# The last norms of residuals: of torchvision and timm, of detectron2, of Hugging Face, of timm's
# Xception, of Keras. Residuals of a trained network are small beside what they are added to; where
# they are not, rounding errors double every few blocks.
_ENDS_RESIDUAL = r"(bn3|conv3\.norm|layer\.2\.normalization|stack\.conv3\.bn_pw|_block\d+_3_bn)$"
_RESIDUAL = 0.25

Names = Mapping[str, Tuple[int, ...]]


class _Result(NamedTuple):
    """What a source gives beside its weight files."""

    names: Names
    normalization: Tuple[Tuple[float, ...], Tuple[float, ...]]
    norm_epsilon: float
    features: List[np.ndarray]  # in order of depth, each [h, w, C]
    head: np.ndarray
    channel_order: str = "RGB"
    more: Mapping[str, np.ndarray] = {}


def main() -> None:
    """Writes the weights, the names and the reference."""
    parser = build_parser(__doc__)
    parser.add_argument("--source", required=True, choices=sorted(_SOURCES))
    arguments = parser.parse_args()
    size = arguments.size or SIZE
    image = read_image(arguments.image, size)
    os.makedirs(arguments.output_dir, exist_ok=True)
    result = _SOURCES[arguments.source](
        arguments.model, image, arguments.output_dir, arguments.seed
    )
    levels = _levels(result.features, size)
    if result.head.shape != levels["C5"].shape:
        levels["head"] = result.head
    mean, std = result.normalization
    write(
        arguments.output_dir,
        result.names,
        image=image,
        normalization_mean=np.array(mean, np.float32),
        normalization_std=np.array(std, np.float32),
        channel_order=np.array(result.channel_order),
        norm_epsilon=np.array(result.norm_epsilon, np.float64),
        **levels,
        **result.more,
    )


# What the scripts share.


def build_parser(description: Optional[str]) -> argparse.ArgumentParser:
    """The arguments that all scripts of this kind have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--image", required=True, help="A photograph.")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--size", type=_size, help="height,width of the image that the model gets")
    parser.add_argument(
        "--output_size", type=_size, help="height,width of the map, where a whole model makes one"
    )
    parser.add_argument("--seed", type=int, default=SEED)
    return parser


def add_options(parser: argparse.ArgumentParser) -> None:
    """What changes a configuration of detectron2's kind."""
    parser.add_argument("--options", nargs="*", default=[], help="Of the configuration: KEY VALUE.")


def read_image(path: str, size: Tuple[int, int]) -> np.ndarray:
    """uint8 RGB [height, width, 3], resized bilinearly."""
    height, width = size
    with Image.open(path) as file:
        return np.asarray(file.convert("RGB").resize((width, height), Image.Resampling.BILINEAR))


def write(output_dir: str, names: Names, **arrays: Any) -> None:
    """Writes `names.txt` and `reference.npz`; floats become float32, scalars stay."""
    with open(os.path.join(output_dir, "names.txt"), "w", encoding="utf-8") as file:
        for name, shape in names.items():
            file.write(f"{name} {'x'.join(map(str, shape)) or 'scalar'}\n")
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{name} is not finite: the random weights are no good.")
        if array.dtype == np.float64 and array.ndim:
            arrays[name] = array.astype(np.float32)
    np.savez_compressed(os.path.join(output_dir, "reference.npz"), **arrays)
    for name, array in arrays.items():
        spread = f" std {array.std():.4g}" if array.dtype.kind == "f" else ""
        print(f"{name} {array.dtype} {array.shape}{spread}")


def torch_names(state: Mapping[str, Any]) -> Names:
    """Names and shapes of a state dictionary."""
    return {name: tuple(value.shape) for name, value in state.items()}


def channels_last(x: Any) -> np.ndarray:
    """PyTorch's [1, C, h, w] or [C, h, w] -> [h, w, C]."""
    x = x[0] if x.ndim == 4 else x
    return np.ascontiguousarray(x.detach().numpy().transpose(1, 2, 0))


def randomise_torch(model: Any, run: Callable[[], Any]) -> None:
    """Draws the biases and all of the norms; the random state is PyTorch's.

    Args:
      model: in evaluation mode. Norms with running statistics get those of what reaches them, off
        by random factors, so that a deep network neither explodes nor dies.
      run: calls the model once.
    """
    import torch

    def calibrate(norm: Any, inputs: Tuple[Any, ...]) -> None:
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), unbiased=False)
        variance = variance.clamp(min=1e-2 * float(variance.mean()) + 1e-6)
        norm.running_mean.copy_(mean + variance.sqrt() * 0.1 * torch.randn_like(mean))
        norm.running_var.copy_(variance * _uniform(variance))

    def _uniform(x: Any) -> Any:
        return 0.5 + torch.rand_like(x)

    hooks = []
    with torch.no_grad():
        for name, module in model.named_modules():
            weight: Any = getattr(module, "weight", None)
            bias: Any = getattr(module, "bias", None)
            if torch.is_tensor(bias):
                bias.copy_(0.1 * torch.randn_like(bias))
            if torch.is_tensor(weight) and weight.ndim == 1:  # of a norm
                share = _RESIDUAL if re.search(_ENDS_RESIDUAL, name) else 1.0
                weight.copy_(share * _uniform(weight))
            if torch.is_tensor(getattr(module, "running_var", None)):
                hooks.append(module.register_forward_pre_hook(calibrate))
                if torch.is_tensor(module.num_batches_tracked):
                    module.num_batches_tracked.fill_(1000)
        run()
    for hook in hooks:
        hook.remove()


def _size(text: str) -> Tuple[int, int]:
    height, width = (int(part) for part in text.split(","))
    return height, width


def _levels(features: Iterable[np.ndarray], size: Tuple[int, int]) -> Dict[str, np.ndarray]:
    """The last feature at each of the strides 4 to 32, by level."""
    found: Dict[str, np.ndarray] = {}
    for feature in features:
        level = round(np.log2(size[0] / feature.shape[0]))
        if 2 <= level <= 5:
            found[f"C{level}"] = feature
    if len(found) != 4:
        raise ValueError(f"Expected features at strides 4, 8, 16 and 32, found {sorted(found)}.")
    return found


# Sources that run in PyTorch.


def _torch_input(image: np.ndarray, normalization: Any) -> Any:
    import torch

    mean, std = (np.array(values, np.float32) for values in normalization)
    normalised = (image.astype(np.float32) - mean) / std
    return torch.tensor(normalised.transpose(2, 0, 1)[np.newaxis])


def _norm_epsilon(model: Any) -> float:
    found = {module.eps for module in model.modules() if hasattr(module, "running_var")}
    if len(found) != 1:
        raise ValueError(f"Expected one epsilon for all norms, found {sorted(found)}.")
    return found.pop()


def _outputs_of(modules: Iterable[Any], run: Callable[[], Any]) -> List[np.ndarray]:
    """What modules give out while the model runs, in the order of the modules."""
    found: Dict[int, np.ndarray] = {}

    def keep(number: int) -> Callable[..., None]:
        def hook(_: Any, __: Any, output: Any) -> None:
            found[number] = channels_last(output)

        return hook

    hooks = [module.register_forward_hook(keep(i)) for i, module in enumerate(modules)]
    run()
    for hook in hooks:
        hook.remove()
    return [found[number] for number in sorted(found)]


def _torchvision(name: str, image: np.ndarray, output_dir: str, seed: int) -> _Result:
    import torch
    import torchvision

    torch.manual_seed(seed)
    model = torchvision.models.get_model(name, weights=None).eval()
    x = _torch_input(image, _IMAGENET)
    # Others than ResNets end in a convolution for the classifier.
    blocks = (
        [model.layer1, model.layer2, model.layer3, model.layer4]
        if hasattr(model, "layer4")
        else list(model.features)[:-1]
    )
    last = blocks[-1] if hasattr(model, "layer4") else model.features
    with torch.no_grad():
        randomise_torch(model, lambda: model(x))
        *features, head = _outputs_of([*blocks, last], lambda: model(x))
    state = model.state_dict()
    torch.save(state, os.path.join(output_dir, "model.pth"))
    return _Result(torch_names(state), _IMAGENET, _norm_epsilon(model), features, head)


def _timm(name: str, image: np.ndarray, output_dir: str, seed: int) -> _Result:
    import safetensors.torch
    import timm
    import torch

    torch.manual_seed(seed)
    model = timm.create_model(name, pretrained=False).eval()
    config = model.default_cfg
    mean, std = (tuple(255.0 * value for value in config[key]) for key in ("mean", "std"))
    normalization = (mean, std)
    x = _torch_input(image, normalization)
    with torch.no_grad():
        randomise_torch(model, lambda: model(x))
        head = channels_last(model.forward_features(x))
        if hasattr(model, "stages"):  # HRNet: the four branches, before the classifier's modules
            branches: List[Any] = []
            hook = model.stage4.register_forward_hook(lambda _, __, y: branches.extend(y))
            model(x)
            hook.remove()
            features = [channels_last(branch) for branch in branches]
        else:
            features = _outputs_of(_timm_blocks(model), lambda: model(x))
        own = _timm_own_levels(model, x)
    state = model.state_dict()
    torch.save(state, os.path.join(output_dir, "model.pth"))
    safetensors.torch.save_file(state, os.path.join(output_dir, "model.safetensors"))
    return _Result(
        torch_names(state), normalization, _norm_epsilon(model), features, head, more=own
    )


def _timm_blocks(model: Any) -> List[Any]:
    if hasattr(model, "layer4"):
        return [model.layer1, model.layer2, model.layer3, model.layer4]
    blocks = list(model.blocks)
    # MobileNetV3's last stage is a convolution for the classifier.
    is_convolution = type(blocks[-1][0]).__name__ == "ConvBnAct" if len(blocks) == 7 else False
    return blocks[:-1] if is_convolution and hasattr(model, "conv_head") else blocks


def _timm_own_levels(model: Any, x: Any) -> Dict[str, np.ndarray]:
    """What timm itself gives out as features: for Xception from inside the strided blocks."""
    if not hasattr(model, "forward_intermediates"):
        return {}
    features = model.forward_intermediates(x, intermediates_only=True)
    levels = _levels(map(channels_last, features), x.shape[-2:])
    return {f"timm_{level}": feature for level, feature in levels.items()}


def _huggingface(name: str, image: np.ndarray, output_dir: str, seed: int) -> _Result:
    import torch
    import transformers

    classes = {
        "resnet50": ("ResNet", {}, _IMAGENET),
        "mobilenet_v2": ("MobileNetV2", {}, _HALF),
        "efficientnet_b0": ("EfficientNet", _HF_EFFICIENTNET_B0, _IMAGENET),
    }
    if name not in classes:
        raise ValueError(f"Unknown model {name!r}; known: {', '.join(sorted(classes))}.")
    family, options, normalization = classes[name]
    torch.manual_seed(seed)
    config = getattr(transformers, f"{family}Config")(num_labels=1000, **options)
    classifier = getattr(transformers, f"{family}ForImageClassification")(config).eval()
    model = classifier.base_model
    x = _torch_input(image, normalization)
    with torch.no_grad():
        randomise_torch(classifier, lambda: classifier(x))
        output = model(x, output_hidden_states=True)
        # EfficientNet's list ends before its last convolution, MobileNetV2's and ResNet's too.
        features = [channels_last(state) for state in output.hidden_states]
        head = channels_last(output.last_hidden_state)
    model.save_pretrained(output_dir)
    state = classifier.state_dict()
    torch.save(state, os.path.join(output_dir, "pytorch_model.bin"))
    return _Result(torch_names(state), normalization, _norm_epsilon(model), features, head)


# Of google/efficientnet-b0; the class's own defaults are those of b7.
_HF_EFFICIENTNET_B0 = {
    "width_coefficient": 1.0,
    "depth_coefficient": 1.0,
    "hidden_dim": 1280,
    "dropout_rate": 0.2,
    "image_size": 224,
}


# Sources that run in TensorFlow.


def _randomise_keras(model: Any, run: Callable[[], Any], random: np.random.Generator) -> None:
    """As `randomise_torch`."""
    import tensorflow as tf

    def calibrate(norm: Any) -> Callable[..., Any]:
        call = norm.call

        def calibrated(inputs: Any, *arguments: Any, **keywords: Any) -> Any:
            mean, variance = (x.numpy() for x in tf.nn.moments(inputs, (0, 1, 2)))
            variance = np.maximum(variance, 1e-2 * variance.mean() + 1e-6)
            shift = np.sqrt(variance) * 0.1 * random.standard_normal(mean.shape)
            norm.moving_mean.assign(mean + shift)
            norm.moving_variance.assign(variance * random.uniform(0.5, 1.5, mean.shape))
            return call(inputs, *arguments, **keywords)

        return calibrated

    norms = [m for m in model.submodules if isinstance(m, tf.keras.layers.BatchNormalization)]
    for module in model.submodules:
        bias = getattr(module, "bias", None)
        if isinstance(bias, tf.Variable):
            bias.assign(0.1 * random.standard_normal(bias.shape))
    for norm in norms:
        share = _RESIDUAL if re.search(_ENDS_RESIDUAL, norm.name) else 1.0
        norm.gamma.assign(share * random.uniform(0.5, 1.5, norm.gamma.shape))
        norm.beta.assign(0.1 * random.standard_normal(norm.beta.shape))
        norm.call = calibrate(norm)
    run()
    for norm in norms:
        del norm.call


def _keras_epsilon(model: Any) -> float:
    import tensorflow as tf

    norms = [m for m in model.submodules if isinstance(m, tf.keras.layers.BatchNormalization)]
    (epsilon,) = {norm.epsilon for norm in norms}
    return epsilon


def _variable_names(model: Any) -> Names:
    return {variable.name: tuple(variable.shape) for variable in model.weights}


_KERAS_BLOCK_ENDS = r"""
    ^conv\d_block\d+_out$                        # ResNet
    | ^(expanded_conv|block_\d+)_(project_BN|add)$   # MobileNetV2
    | ^expanded_conv(_\d+)?/(project/BatchNorm|Add)$ # MobileNetV3
    | ^block\d\w_(project_bn|add)$               # EfficientNet
    | ^add(_\d+)?$ | ^block14_sepconv2_act$      # Xception
"""


def _keras(name: str, image: np.ndarray, output_dir: str, seed: int) -> _Result:
    import tensorflow as tf

    tf.keras.utils.set_random_seed(seed)
    build = getattr(tf.keras.applications, name)
    model = build(weights=None, input_shape=image.shape)
    mode = "caffe" if name.startswith("ResNet") else "tf"
    inputs, normalization, order = _keras_input(model, name, image, mode)
    _randomise_keras(model, lambda: model(inputs), np.random.default_rng(seed))
    ends = [x for x in model.layers if re.search(_KERAS_BLOCK_ENDS, x.name, re.VERBOSE)]
    # Those before the last are of squeeze and excitation.
    pools = [x for x in model.layers if isinstance(x, tf.keras.layers.GlobalAveragePooling2D)]
    taps = tf.keras.Model(model.inputs, [*(layer.output for layer in ends), pools[-1].input])
    *features, head = (x[0].numpy() for x in taps(inputs))
    headless = build(weights=None, input_shape=image.shape, include_top=False)
    headless.set_weights(model.get_weights()[: len(headless.weights)])
    for layer in headless.layers:
        if isinstance(layer, tf.keras.layers.Normalization):
            layer.finalize_state()
    _check_headless(headless, inputs, head)
    model.save_weights(os.path.join(output_dir, "model.h5"))
    headless.save_weights(os.path.join(output_dir, "model_notop.h5"))
    model.save_weights(os.path.join(output_dir, "model.weights.h5"))
    return _Result(
        _variable_names(model), normalization, _keras_epsilon(model), features, head, order
    )


def _check_headless(headless: Any, inputs: Any, expected: np.ndarray) -> None:
    found = headless(inputs)[0].numpy()
    if not np.allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max()):
        raise ValueError("The model without its top computes something else.")


def _keras_input(model: Any, name: str, image: np.ndarray, mode: str) -> Tuple[Any, Any, str]:
    """What the model gets, the normalisation in effect and the order of channels."""
    pixels = image.astype(np.float32)[np.newaxis]
    if name.startswith("EfficientNet"):
        # The model normalises. Published weights have the deviation where the variance belongs,
        # as the graph of `weights="imagenet"`, and only this, divides by its root once more.
        mean, std = (np.array(values) / 255.0 for values in _IMAGENET)
        norm = model.get_layer("normalization")
        norm.adapt_mean.assign(mean)
        norm.adapt_variance.assign(np.square(std))
        norm.finalize_state()
        return pixels, _IMAGENET, "RGB"
    if name.startswith("MobileNetV3"):
        return pixels, _HALF, "RGB"  # the model normalises
    if mode == "caffe":
        return pixels[..., ::-1] - np.array(_CAFFE[0], np.float32), _CAFFE, "BGR"
    return pixels / 127.5 - 1.0, _HALF, "RGB"


def _official(name: str, image: np.ndarray, output_dir: str, seed: int) -> _Result:
    import tensorflow as tf
    from official.core import exp_factory
    from official.vision import registry_imports  # noqa: F401  (registers the experiments)
    from official.vision.modeling import factory

    experiment, changes = _OFFICIAL[name]
    config = exp_factory.get_exp_config(experiment)
    config.task.model.override(changes)
    tf.keras.utils.set_random_seed(seed)
    specs = tf.keras.layers.InputSpec(shape=[None, None, None, 3])
    model = factory.build_classification_model(specs, config.task.model)
    mean, std = (np.array(values, np.float32) for values in _IMAGENET)
    x = tf.constant((image.astype(np.float32) - mean) / std)[tf.newaxis]
    model(x)
    _randomise_keras(model, lambda: model(x), np.random.default_rng(seed))
    outputs = model.backbone(x)
    features = [outputs[level][0].numpy() for level in "2345"]
    head = outputs[max(outputs)][0].numpy()
    checkpoint = tf.train.Checkpoint(
        global_step=tf.Variable(0, dtype=tf.int64), model=model, **model.checkpoint_items
    )
    manager = tf.train.CheckpointManager(checkpoint, output_dir, max_to_keep=None)
    manager.save(checkpoint_number=0)
    names = {
        name: tuple(shape) for name, shape in tf.train.list_variables(manager.latest_checkpoint)
    }
    epsilon = config.task.model.norm_activation.norm_epsilon
    return _Result(names, _IMAGENET, epsilon, features, head)


# Experiment, and what overrides its model.
_OFFICIAL: Dict[str, Tuple[str, Dict[str, Any]]] = {
    "resnet50": ("resnet_imagenet", {}),
    "mobilenetv2": ("mobilenet_imagenet", {}),
    "mobilenetv3_large": (
        "mobilenet_imagenet",
        {"backbone": {"mobilenet": {"model_id": "MobileNetV3Large"}}},
    ),
    "efficientnet_b0": (
        "image_classification",
        {
            "num_classes": 1001,
            "backbone": {"type": "efficientnet", "efficientnet": {"model_id": "b0"}},
            "norm_activation": {"activation": "swish"},
        },
    ),
}

_SOURCES: Dict[str, Callable[[str, np.ndarray, str, int], _Result]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "huggingface": _huggingface,
    "keras": _keras,
    "official": _official,
}


if __name__ == "__main__":
    main()

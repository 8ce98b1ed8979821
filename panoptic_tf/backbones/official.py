"""The backbones of `official.vision` behind our vocabulary of levels and our variable names."""

from __future__ import annotations

import contextlib
import re
from typing import Any, Dict, Iterator, Mapping, NamedTuple, Optional, Tuple

import tensorflow as tf

from panoptic_tf.backbones import factory


class _Family(NamedTuple):
    """What official.vision's configuration of a backbone is called and can do."""

    kind: str  # field of its `Backbone` configuration
    config_class: str
    output_strides: Tuple[int, ...] = (32,)
    activation: str = "relu"
    needs_input_size: bool = False


_MOBILENET = _Family("mobilenet", "MobileNet", (8, 16, 32))
_EFFICIENTNET = _Family("efficientnet", "EfficientNet", activation="swish")
_DILATED = _Family("dilated_resnet", "DilatedResNet", (8, 16))
_RESNET = _Family("resnet", "ResNet")
_SPINENET = _Family("spinenet", "SpineNet", needs_input_size=True)
_MOBILEDET = _Family("mobiledet", "MobileDet")

_BACKBONES: Dict[str, Tuple[_Family, Dict[str, Any]]] = {
    "mobilenetv1": (_MOBILENET, {"model_id": "MobileNetV1"}),
    "mobilenetv2": (_MOBILENET, {"model_id": "MobileNetV2"}),
    "mobilenetv3_large": (_MOBILENET, {"model_id": "MobileNetV3Large"}),
    "mobilenetv3_small": (_MOBILENET, {"model_id": "MobileNetV3Small"}),
    "mobilenetv3_edgetpu": (_MOBILENET, {"model_id": "MobileNetV3EdgeTPU"}),
    "mobiledet_cpu": (_MOBILEDET, {"model_id": "MobileDetCPU"}),
    **{f"efficientnet_b{i}": (_EFFICIENTNET, {"model_id": f"b{i}"}) for i in range(8)},
    **{f"official_resnet{d}": (_RESNET, {"model_id": d}) for d in (18, 34, 50, 101, 152)},
    **{f"dilated_resnet{d}": (_DILATED, {"model_id": d}) for d in (50, 101, 152)},
    **{
        f"spinenet_{size.lower()}": (_SPINENET, {"model_id": size, "min_level": 2, "max_level": 5})
        for size in ("49S", "49", "96", "143", "190")
    },
}


class OfficialBackbone(tf.keras.layers.Layer):
    """Wraps a functional backbone of official.vision; padding and names of layers are its own.

    Levels are '2' to '5' by depth. With an output stride of 16 or 8 official.vision gives out the
    last stage only, of those whose stride is cut: '4' (and '3' with 8) are then absent.

    Args:
      model: images to `{'2': ..., '3': ...}` by stride.
      output_stride: of the deepest level.
      **kwargs: of the Keras layer.

    Attributes:
      output_channels: channels by level.
      output_strides: stride by level.
    """

    def __init__(self, model: tf.keras.Model, *, output_stride: int, **kwargs: Any):
        super().__init__(**kwargs)
        levels = _levels(model.output, output_stride)
        # Leaves out what no level needs: the classifier's last convolutions.
        self.model = tf.keras.Model(model.inputs, levels, name="model")
        self.output_channels = {level: int(x.shape[-1]) for level, x in levels.items()}
        self.output_strides = {level: min(2 ** int(level), output_stride) for level in levels}

    @tf.autograph.experimental.do_not_convert
    def call(self, inputs: tf.Tensor, training: Optional[bool] = None) -> Dict[str, tf.Tensor]:
        """Normalised images [B, H, W, 3] -> {'2': [B, H/4, W/4, C], ..., '5'}."""
        return self.model(inputs, training=training)


def _levels(outputs: Mapping[str, Any], output_stride: int) -> Dict[str, Any]:
    """Renames outputs by stride to outputs by depth."""
    last = {8: "3", 16: "4", 32: "5"}[output_stride]
    levels = {k: v for k, v in outputs.items() if "2" <= k < last}
    return {**levels, "5": outputs[last]}


@contextlib.contextmanager
def stable_variable_names(prefix: str) -> Iterator[None]:
    """Names the variables made inside `<prefix>/<layer>/...`, whatever the process built before.

    Keras numbers unnamed layers through the whole process (`conv2d_17`); here each part of a name
    is numbered again from zero, in order of creation, below its parent.
    """
    numbered: Dict[Tuple[str, str], str] = {}
    counts: Dict[Tuple[str, str], int] = {}

    def stable_part(parent: str, part: str) -> str:
        if (parent, part) not in numbered:
            base = re.sub(r"_\d+$", "", part)
            count = counts.get((parent, base), 0)
            counts[parent, base] = count + 1
            numbered[parent, part] = f"{base}_{count}" if count else base
        return numbered[parent, part]

    def create(next_creator: Any, **kwargs: Any) -> tf.Variable:
        scope = tf.get_current_name_scope()
        path, raw = prefix, ""
        for part in filter(None, f"{scope}/{kwargs.get('name') or 'variable'}".split("/")):
            path, raw = f"{path}/{stable_part(raw, part)}", f"{raw}/{part}"
        # A slash at the end makes the name absolute: no scope is put before it.
        return next_creator(**{**kwargs, "name": path + "/"})

    with tf.variable_creator_scope(create):
        yield


def _check(name: str, family: _Family, settings: Mapping[str, Any]) -> None:
    norm, output_stride = settings["norm"], settings["output_stride"]
    if norm not in ("batch", "sync_batch"):
        raise ValueError(f"norm must be 'batch' or 'sync_batch' for {name!r}, got {norm!r}.")
    if output_stride not in family.output_strides:
        known = " or ".join(str(stride) for stride in family.output_strides)
        raise ValueError(f"output_stride must be {known} for {name!r}, got {output_stride}.")
    if settings["frozen_stages"] not in (0, 5):
        raise ValueError(
            f"frozen_stages must be 0 (none) or 5 (all) for {name!r}, got "
            f"{settings['frozen_stages']}."
        )
    if settings["multi_grid"] or settings["stride_in_1x1"]:
        raise ValueError(f"multi_grid and stride_in_1x1 belong to our ResNets, not to {name!r}.")
    if family.needs_input_size and not settings["input_size"]:
        raise ValueError(f"{name!r} needs input_size=(height, width) when it is built.")


@tf.autograph.experimental.do_not_convert
def _build_model(
    name: str, family: _Family, fields: Mapping[str, Any], settings: Mapping[str, Any]
) -> tf.keras.Model:
    # Slow to import, and not needed with our own backbones.
    from official.vision.configs import backbones as configs
    from official.vision.configs import common
    from official.vision.modeling import backbones as official_backbones

    try:
        config = getattr(configs, family.config_class)(**fields)
    except TypeError as error:
        raise ValueError(f"Backbone {name!r}: {error}.") from error
    size = settings["input_size"] if family.needs_input_size else (None, None)
    with stable_variable_names(settings["name"]):
        return official_backbones.factory.build_backbone(
            tf.keras.layers.InputSpec(shape=[None, *size, 3]),
            configs.Backbone(type=family.kind, **{family.kind: config}),
            common.NormActivation(
                activation=family.activation,
                use_sync_bn=settings["norm"] == "sync_batch",
                norm_momentum=settings["norm_momentum"],
                norm_epsilon=settings["norm_epsilon"],
            ),
        )


_SETTINGS = (
    *("norm", "norm_momentum", "norm_epsilon", "output_stride", "frozen_stages"),
    *("multi_grid", "stride_in_1x1", "input_size", "name"),
)


def _builder(backbone: str, family: _Family, fields: Mapping[str, Any]) -> factory.Builder:
    def build(**options: Any) -> OfficialBackbone:
        settings = {key: options.pop(key) for key in _SETTINGS}
        _check(backbone, family, settings)
        output_stride = settings["output_stride"]
        if len(family.output_strides) > 1:
            options["output_stride"] = None if output_stride == 32 else output_stride
        model = _build_model(backbone, family, {**fields, **options}, settings)
        layer = OfficialBackbone(model, output_stride=output_stride, name=settings["name"])
        layer.trainable = settings["frozen_stages"] == 0
        return layer

    return build


for _name, (_family, _fields) in _BACKBONES.items():
    factory.register_backbone(_name)(_builder(_name, _family, _fields))

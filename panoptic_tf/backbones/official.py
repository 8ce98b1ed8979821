"""The backbones of `official.vision` behind our vocabulary of levels and our variable names."""

from __future__ import annotations

import contextlib
import re
from typing import Any, Callable, Dict, Iterator, Mapping, NamedTuple, Optional, Tuple

import tensorflow as tf

from panoptic_tf.backbones import factory, rewiring

_PADDINGS = ("same", "symmetric")
_NORMS = ("batch", "frozen_batch", "sync_batch")
_LEVELS = ("2", "3", "4", "5")

# A model and the fields of its configuration to the stages' last tensors by level.
StageOutputs = Callable[[tf.keras.Model, Mapping[str, Any]], Dict[str, Any]]


def _outputs_by_stride(model: tf.keras.Model, fields: Mapping[str, Any]) -> Dict[str, Any]:
    del fields
    return {level: model.output[level] for level in _LEVELS if level in model.output}


def _mobilenet_outputs(model: tf.keras.Model, fields: Mapping[str, Any]) -> Dict[str, Any]:
    from official.vision.modeling.backbones import mobilenet

    specs = mobilenet.SUPPORTED_SPECS_MAP[fields["model_id"]]
    is_output = specs["block_spec_schema"].index("is_output")
    names = [
        f"block_group_{spec[0]}_{i}"
        for i, spec in enumerate(specs["block_specs"])
        if spec[is_output]
    ]
    return {level: model.get_layer(name).output for level, name in zip(_LEVELS, names)}


def _depthwise_outputs(model: tf.keras.Model, fields: Mapping[str, Any]) -> Dict[str, Any]:
    """What the depthwise convolutions of the stages' last blocks give; the last convolution's."""
    del fields
    (pooling,) = (x for x in model.layers if isinstance(x, tf.keras.layers.GlobalAveragePooling2D))
    levels = {level: model.output[f"{level}/depthwise"] for level in _LEVELS[:-1]}
    return {**levels, _LEVELS[-1]: pooling.input}


def _dilated_resnet_outputs(model: tf.keras.Model, fields: Mapping[str, Any]) -> Dict[str, Any]:
    del fields
    ends = [layer.output for layer in model.layers if layer.name.startswith("tf.identity")]
    return dict(zip(_LEVELS, [*ends[:3], ends[-1]]))  # The last stage may be repeated.


class _Family(NamedTuple):
    """What official.vision's configuration of a backbone is called and can do."""

    kind: str  # field of its `Backbone` configuration
    config_class: str
    output_strides: Tuple[int, ...] = (32,)
    takes_output_stride: bool = False
    stage_outputs: StageOutputs = _outputs_by_stride
    activation: str = "relu"
    needs_input_size: bool = False
    squeeze_gate: str = ""  # other than its own
    arguments: Tuple[str, ...] = ()  # options that are of its builder, not of its configuration


_MOBILENET = _Family("mobilenet", "MobileNet", (8, 16, 32), True, _mobilenet_outputs)
# Without `se_ratio` official.vision's has no squeeze-and-excitation. The published one has
# se_ratio=0.25 and se_inner_activation="swish".
_EFFICIENTNET = _Family(
    *("efficientnet", "EfficientNet", (8, 16, 32)),
    activation="swish",
    arguments=("se_inner_activation",),
)
_EFFICIENTNET_LITE = _EFFICIENTNET._replace(activation="relu6")
# deeplab2's: dilated as the strided network would have it.
_DEEPLAB2_MOBILENET = _Family(
    *("mobilenet", "MobileNet", (8, 16, 32)),
    stage_outputs=_depthwise_outputs,
    squeeze_gate="sigmoid",
)
_DILATED = _Family("dilated_resnet", "DilatedResNet", (8, 16), True, _dilated_resnet_outputs)
_RESNET = _Family("resnet", "ResNet")
_SPINENET = _Family("spinenet", "SpineNet", needs_input_size=True)
_MOBILEDET = _Family("mobiledet", "MobileDet")

_BACKBONES: Dict[str, Tuple[_Family, Dict[str, Any]]] = {
    "mobilenetv1": (_MOBILENET, {"model_id": "MobileNetV1"}),
    "mobilenetv2": (_MOBILENET, {"model_id": "MobileNetV2"}),
    "mobilenetv3_large": (_MOBILENET, {"model_id": "MobileNetV3Large"}),
    "mobilenetv3_small": (_MOBILENET, {"model_id": "MobileNetV3Small"}),
    "mobilenetv3_edgetpu": (_MOBILENET, {"model_id": "MobileNetV3EdgeTPU"}),
    **{
        f"deeplab2_mobilenetv3_{size.lower()}": (
            _DEEPLAB2_MOBILENET,
            {"model_id": f"MobileNetV3{size}", "output_intermediate_endpoints": True},
        )
        for size in ("Large", "Small")
    },
    "mobiledet_cpu": (_MOBILEDET, {"model_id": "MobileDetCPU"}),
    **{f"efficientnet_b{i}": (_EFFICIENTNET, {"model_id": f"b{i}"}) for i in range(8)},
    "efficientnet_lite0": (_EFFICIENTNET_LITE, {"model_id": "b0"}),
    **{f"official_resnet{d}": (_RESNET, {"model_id": d}) for d in (18, 34, 50, 101, 152)},
    **{f"dilated_resnet{d}": (_DILATED, {"model_id": d}) for d in (50, 101, 152)},
    **{
        f"spinenet_{size.lower()}": (_SPINENET, {"model_id": size, "min_level": 2, "max_level": 5})
        for size in ("49S", "49", "96", "143", "190")
    },
}


class _Untracked:
    """Holds a model where Keras does not look for weights and checkpoints do not look for paths."""

    def __init__(self, model: tf.keras.Model):
        self.model = model


class OfficialBackbone(tf.keras.layers.Layer):
    """Wraps a functional backbone of official.vision; the names of its layers are its own.

    Levels are '2' to '5' by depth: the last tensor of the stage that has stride 4, 8, 16 or 32 in
    the undilated network. With an output stride of 16 or 8 the deeper ones have that stride.

    Args:
      model: the functional model.
      levels: its tensors, by level.
      output_stride: of the deepest level.
      frozen_stages: 1 freezes the layers before the second that strides, 2 to 4 what that level
        needs, 5 everything.
      **kwargs: of the Keras layer.

    Attributes:
      model: images to levels, without the layers that no level needs: the classifier's last ones.
      output_channels: channels by level.
      output_strides: stride by level.
    """

    def __init__(
        self,
        model: tf.keras.Model,
        levels: Mapping[str, Any],
        *,
        output_stride: int,
        frozen_stages: int = 0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self._source = _Untracked(model)
        self.model = tf.keras.Model(model.inputs, dict(levels), name="model")
        self.output_channels = {level: int(x.shape[-1]) for level, x in levels.items()}
        self.output_strides = {level: min(2 ** int(level), output_stride) for level in levels}
        self._freeze(frozen_stages)

    @property
    def source_model(self) -> tf.keras.Model:
        """The functional model as official.vision built it, with the same layers.

        Its checkpoints name variables by their path from it. It is no part of this layer: of what
        `model` has not, neither the weights nor the checkpoints of this layer know.
        """
        return self._source.model

    def _freeze(self, frozen_stages: int) -> None:
        if not frozen_stages:
            return
        if frozen_stages == 5:
            self.trainable = False
            return
        frozen = rewiring.stem(self.model)
        if frozen_stages > 1:
            level = self.model.output[str(frozen_stages)]
            frozen = tf.keras.Model(self.model.inputs, level).layers
        for layer in frozen:
            layer.trainable = False

    @tf.autograph.experimental.do_not_convert
    def call(self, inputs: tf.Tensor, training: Optional[bool] = None) -> Dict[str, tf.Tensor]:
        """Normalised images [B, H, W, 3] -> {'2': [B, H/4, W/4, C], ..., '5'}."""
        return self.model(inputs, training=training)


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
    if norm not in _NORMS:
        raise ValueError(f"norm must be one of {', '.join(_NORMS)} for {name!r}, got {norm!r}.")
    if output_stride not in family.output_strides:
        known = " or ".join(str(stride) for stride in family.output_strides)
        raise ValueError(f"output_stride must be {known} for {name!r}, got {output_stride}.")
    if not 0 <= settings["frozen_stages"] <= 5:
        raise ValueError(f"frozen_stages must be 0 to 5, got {settings['frozen_stages']}.")
    if settings["padding"] not in _PADDINGS:
        raise ValueError(
            f"padding must be one of {', '.join(_PADDINGS)}, got {settings['padding']!r}."
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
            **settings["arguments"],
        )


_SETTINGS = (
    *("norm", "norm_momentum", "norm_epsilon", "output_stride", "frozen_stages"),
    *("multi_grid", "stride_in_1x1", "input_size", "name"),
)


def _builder(backbone: str, family: _Family, fields: Mapping[str, Any]) -> factory.Builder:
    def build(*, padding: str = "same", **options: Any) -> OfficialBackbone:
        settings = {"padding": padding, **{key: options.pop(key) for key in _SETTINGS}}
        names = [name for name in family.arguments if name in options]
        settings["arguments"] = {name: options.pop(name) for name in names}
        _check(backbone, family, settings)
        output_stride = settings["output_stride"]
        if family.takes_output_stride:
            options["output_stride"] = None if output_stride == 32 else output_stride
        all_fields = {**fields, **options}
        model = _build_model(backbone, family, all_fields, settings)
        if output_stride < 32 and not family.takes_output_stride:
            rewiring.dilate(model, output_stride)
        if family.squeeze_gate:
            rewiring.gate_squeezes(model, family.squeeze_gate)
        if padding == "symmetric":
            rewiring.pad_symmetrically(model)
        if settings["norm"] == "frozen_batch":
            rewiring.freeze_norms(model)
        return OfficialBackbone(
            model,
            family.stage_outputs(model, all_fields),
            output_stride=output_stride,
            frozen_stages=settings["frozen_stages"],
            name=settings["name"],
        )

    return build


for _name, (_family, _fields) in _BACKBONES.items():
    factory.register_backbone(_name)(_builder(_name, _family, _fields))

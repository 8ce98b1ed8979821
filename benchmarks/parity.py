"""Whole models of others beside ours with the same random weights: every intermediate, the map.

PYTHONPATH=PanopticFCN other/bin/python benchmarks/references/panoptic_fcn_weights.py --model=R50 \\
    --image=photo.jpg --output_dir=runs/parity/panoptic_fcn_R50
python benchmarks/parity.py --dumps=runs/parity/*

The scripts `*_weights.py` of benchmarks/references build a model by its source's own code, save it
in the source's own format and run it on a photograph; each says what it needs. Here the file is
imported by the command, the same photograph is run, and what differs is printed as a table:
relative L2 of every intermediate, the share of pixels of the panoptic map that agree, and the
segments that have no equal. Ends with 1 where an intermediate is off by more than 1e-4, or fewer
than 99.9 % of the pixels agree.
"""

from __future__ import annotations

import glob
import os
import sys
import tempfile
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Tuple

import numpy as np
import tensorflow as tf
from absl import app, flags
from official.core import config_definitions as cfg
from official.core import exp_factory

from panoptic_tf import (
    checkpoints,
    systems,  # noqa: F401  (registers the experiments)
)
from panoptic_tf.inputs import normalize
from panoptic_tf.layers.roi_align import MultiLevelROIAlign
from panoptic_tf.structures import Prediction
from panoptic_tf.systems.model import PanopticModel
from panoptic_tf.training import importing, runner

_DUMPS = flags.DEFINE_list("dumps", None, "Folders or patterns of folders.", required=True)
_WORST = 1e-4
_AGREEING = 99.9

Arrays = Mapping[str, np.ndarray]
_FILES = ("model.pkl", "model.pth")


class _Comparison(NamedTuple):
    """One model beside its source.

    Attributes:
      errors: relative L2 by intermediate.
      agreeing: percent of the pixels of the panoptic map.
      segments: of the source, of ours, and how many of them agree on half of their pixels.
    """

    errors: Dict[str, float]
    agreeing: float
    segments: Tuple[int, int, int]


def main(argv) -> None:
    """Runs the benchmark."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    failed = []
    print("| model | worst intermediate | relative L2 | pixels | theirs, ours, equal segments |")
    print("|---|---|---|---|---|")
    for folder in sorted(path for pattern in _DUMPS.value for path in glob.glob(pattern)):
        for name in _FILES:
            path = os.path.join(folder, name)
            if os.path.exists(path):
                found = _compare(folder, path)
                worst = max(found.errors, key=found.errors.get)
                print(
                    f"| {os.path.basename(folder)}, {name} | {worst} of {len(found.errors)} | "
                    f"{found.errors[worst]:.1e} | {_described(found)} |",
                    flush=True,
                )
                if not (found.errors[worst] <= _WORST and found.agreeing >= _AGREEING):
                    failed.append(path)
                    print(found.errors, file=sys.stderr)
    if failed:
        sys.exit(f"off: {', '.join(failed)}")


def _described(found: _Comparison) -> str:
    """Of the map, where the model makes one."""
    segments = ", ".join(map(str, found.segments))
    return f"{found.agreeing:.3f} % | {segments}" if any(found.segments) else "- | -"


def _compare(folder: str, path: str) -> _Comparison:
    with np.load(os.path.join(folder, "reference.npz")) as file:
        reference = dict(file)
    _, description = checkpoints.describe(path)
    params = _params(description, reference["network_size"].tolist(), _map_size(reference))
    with tempfile.TemporaryDirectory() as work:
        imported = os.path.join(work, "imported")
        importing.import_checkpoint(params, source=path, output_dir=imported)
        task = runner.build_task(params)
        model = runner.load_model(params, task, checkpoint_path=imported)
    image = reference["image"].astype(np.float32)
    frame = tuple(params.task.model.input_size)
    inputs = _inputs(image, frame, _map_size(reference), params.task.normalization)
    intermediates = _INTERMEDIATES[type(task).__name__](model, inputs, reference)
    errors = {
        name: float(np.linalg.norm(value - reference[name]) / np.linalg.norm(reference[name]))
        for name, value in intermediates.items()
    }
    prediction = {key: x[0].numpy() for key, x in model(inputs, training=False).items()}
    return _Comparison(errors, *_compare_maps(prediction, reference, task.dataset_info))


def _map_size(reference: Arrays) -> Tuple[int, int]:
    """Of the image that the network's was scaled from; the same where it was not."""
    return reference.get("panoptic_category", reference["image"]).shape[:2]


def _params(description: Any, frame: List[int], map_size: Tuple[int, int]) -> cfg.ExperimentConfig:
    """The experiment that the weights fit, in the frame that the source has padded to."""
    experiment = description.experiments[0]
    params = importing.configure(
        exp_factory.get_exp_config(experiment), experiment, description.settings
    )
    model = {"input_size": frame, "train_size": frame, "output_size": list(map_size)}
    return params.replace(task={"model": model})


def _inputs(
    image: np.ndarray, frame: Tuple[int, int], map_size: Tuple[int, int], normalization: Any
) -> Dict[str, tf.Tensor]:
    """One image in the network's frame, and of which size it was."""
    height, width = image.shape[:2]
    padding = [[0, frame[0] - height], [0, frame[1] - width], [0, 0]]
    scale = [height / map_size[0], width / map_size[1]]
    info = tf.constant([map_size, frame, scale, [0.0, 0.0]], tf.float32)
    normalized = normalize.normalize_image(
        tf.pad(tf.constant(image), padding),
        info,
        mean=normalization.mean,
        std=normalization.std,
        channel_order=normalization.channel_order,
    )
    return {"image": normalized[tf.newaxis], "image_info": info[tf.newaxis]}


# Intermediates


def _without_batch(tensors: Mapping[str, tf.Tensor]) -> Dict[str, np.ndarray]:
    return {name: x[0].numpy() for name, x in tensors.items()}


def _backbone(model: PanopticModel, inputs: Mapping[str, tf.Tensor]) -> Dict[str, tf.Tensor]:
    return model.parts["backbone"](inputs["image"], training=False)


def _panoptic_deeplab(
    model: PanopticModel, inputs: Mapping[str, tf.Tensor], reference: Arrays
) -> Dict[str, np.ndarray]:
    features = _backbone(model, inputs)
    semantic = model.parts["semantic"](features, training=False)
    instance = model.parts["instance"](features, training=False)
    found = {
        **{f"C{level}": x for level, x in features.items()},
        "semantic_logits": semantic["semantic_logits"],
        "center": instance["center_heatmap"],
        "offset": instance["offsets"],
    }
    return {name: x for name, x in _without_batch(found).items() if name in reference}


def _panoptic_fpn(
    model: PanopticModel, inputs: Mapping[str, tf.Tensor], reference: Dict[str, np.ndarray]
) -> Dict[str, np.ndarray]:
    parts = model.parts
    features = _backbone(model, inputs)
    pyramid = parts["fpn"](features, training=False)
    found = {f"C{level}": x for level, x in features.items()}
    found.update({f"P{level}": x for level, x in pyramid.items()})
    if "semantic" in parts:
        semantic = {level: x for level, x in pyramid.items() if level != "6"}
        found["semantic_logits"] = parts["semantic"](semantic, training=False)
    logits, deltas = parts["rpn"](pyramid, training=False)
    for level, x in pyramid.items():
        height, width = x.shape[1:3]
        found[f"rpn_logits_{level}"] = tf.reshape(logits[level], [1, height, width, -1])
        xy = tf.gather(deltas[level], [1, 0, 3, 2], axis=-1)
        found[f"rpn_deltas_{level}"] = tf.reshape(xy, [1, height, width, -1, 4])
    boxes = tf.constant(reference["proposals"][np.newaxis][..., [1, 0, 3, 2]])
    found.update(_regions(parts, pyramid, boxes))
    # Of the masks ours computes one class for each region.
    masks = reference["mask_logits"]
    rows = np.arange(len(masks))
    reference["mask_logits"] = masks[rows, :, :, rows % masks.shape[-1]]
    return _without_batch(found)


def _regions(
    parts: Mapping[str, Any], pyramid: Mapping[str, tf.Tensor], boxes: tf.Tensor
) -> Dict[str, tf.Tensor]:
    """Both heads on fixed proposals; masks of class i % T for the i-th."""
    levels = {level: x for level, x in pyramid.items() if level != "6"}
    pooled = MultiLevelROIAlign(output_size=7, sampling_ratio=0)(levels, boxes)
    logits, deltas = parts["box"](pooled)
    pooled = MultiLevelROIAlign(output_size=14, sampling_ratio=0)(levels, boxes)
    classes = tf.range(boxes.shape[1])[tf.newaxis] % (logits.shape[-1] - 1)
    return {
        "box_logits": logits,
        "box_deltas": tf.gather(deltas, [1, 0, 3, 2], axis=-1),
        "mask_logits": parts["mask"](pooled, classes),
    }


def _panoptic_fcn(
    model: PanopticModel, inputs: Mapping[str, tf.Tensor], reference: Arrays
) -> Dict[str, np.ndarray]:
    parts = model.parts
    features = _backbone(model, inputs)
    pyramid = parts["fpn"](features, training=False)
    found = {f"C{level}": x for level, x in features.items()}
    found.update({f"P{level}": x for level, x in pyramid.items()})
    levels = {level: x for level, x in pyramid.items() if level != "2"}
    for name, by_level in parts["position_head"](levels, training=False).items():
        found.update({f"{name}_{level}": x for level, x in by_level.items()})
    kernels = parts["kernel_head"](levels, training=False)
    found.update({f"kernels_{level}": x for level, x in kernels.items()})
    encoded = parts["semantic_fpn"]({level: pyramid[level] for level in "2345"}, training=False)
    found["encoded"] = parts["feature_encoder"](encoded, training=False)
    return {name: x for name, x in _without_batch(found).items() if name in reference}


_INTERMEDIATES: Dict[str, Callable[..., Dict[str, np.ndarray]]] = {
    "PanopticDeepLabTask": _panoptic_deeplab,
    "PanopticFPNTask": _panoptic_fpn,
    "PanopticFCNTask": _panoptic_fcn,
}


# The map


def _compare_maps(
    prediction: Arrays, reference: Arrays, dataset_info: Any
) -> Tuple[float, Tuple[int, int, int]]:
    """Percent of pixels of the same category and segment, and counts of segments."""
    if Prediction.CATEGORY_MASK not in prediction or "panoptic_category" not in reference:
        return 100.0, (0, 0, 0)
    height, width = reference["panoptic_category"].shape
    ids = np.array([0, *(category.dataset_id for category in dataset_info.categories)])
    category = ids[prediction[Prediction.CATEGORY_MASK][:height, :width]]
    theirs = _segments(reference["panoptic_category"], reference["panoptic_instance"])
    instance = prediction[Prediction.INSTANCE_MASK][:height, :width]
    ours = _segments(category, instance)
    equal = _matched(theirs, ours)
    pixels = np.zeros((height, width), bool)
    for a, b in equal:
        pixels |= (theirs == a) & (ours == b)
    pixels |= (theirs == 0) & (ours == 0)
    counts = (len(np.unique(theirs[theirs > 0])), len(np.unique(ours[ours > 0])), len(equal))
    return 100.0 * float(pixels.mean()), counts


def _segments(category: np.ndarray, instance: np.ndarray) -> np.ndarray:
    """One positive number for each segment, 0 for void; the category is part of the number."""
    return np.where(category > 0, category.astype(np.int64) * 100_000 + instance, 0)


def _matched(theirs: np.ndarray, ours: np.ndarray) -> List[Tuple[int, int]]:
    """Pairs of one category that share more than half of the union of their pixels."""
    pairs = []
    for a in np.unique(theirs[theirs > 0]):
        inside = ours[theirs == a]
        values, counts = np.unique(inside[inside > 0], return_counts=True)
        for b, shared in zip(values, counts):
            union = (theirs == a).sum() + (ours == b).sum() - shared
            if a // 100_000 == b // 100_000 and 2 * shared > union:
                pairs.append((a, b))
    return pairs


if __name__ == "__main__":
    app.run(main)

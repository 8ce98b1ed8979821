"""Imported weights through the commands of a user: SavedModel and TFLite beside the Keras model.

python benchmarks/imported_exports.py --source=runs/parity/detectron2_panoptic_fpn/model.pkl \\
    --image=photo.jpg --size=256,384

`import-checkpoint`, `export-saved-model` and `export-tflite` run as a user runs them; the
photograph, resized to the network's frame, goes through `Predictor` of both and through the
imported Keras model. Printed are the seconds and the peak memory of the import, and the percentage
of pixels that have the same category and segment. Ends with 1 where the SavedModel differs at all
or TFLite on more than 0.5 % of the pixels.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from typing import Dict, List, Tuple

import numpy as np
import tensorflow as tf
from absl import app, flags
from official.core import exp_factory
from official.modeling import hyperparams
from PIL import Image

from panoptic_tf import (
    Predictor,
    systems,  # noqa: F401  (registers the experiments)
)
from panoptic_tf.inputs import geometry, normalize
from panoptic_tf.structures import Prediction
from panoptic_tf.training import runner

_SOURCE = flags.DEFINE_string("source", None, "A whole model's file.", required=True)
_IMAGE = flags.DEFINE_string("image", None, "A photograph.", required=True)
_SIZE = flags.DEFINE_list("size", ["256", "384"], "Height and width of the network's frame.")
_AGREEING = 99.5


def main(argv) -> None:
    """Runs the benchmark."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    with tempfile.TemporaryDirectory() as work:
        found = _compare(work)
    if found["saved_model"] < 100.0 or found["tflite"] < _AGREEING:
        sys.exit(1)


def _compare(work: str) -> Dict[str, float]:
    imported = os.path.join(work, "imported")
    start = time.monotonic()
    output = _run("import-checkpoint", f"--source={_SOURCE.value}", f"--output_dir={imported}")
    seconds = time.monotonic() - start
    gigabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    (experiment,) = re.findall(r"--experiment=(\S+) --model_dir", output)
    print(f"{_SOURCE.value}: {experiment}, imported in {seconds:.1f} s with {gigabytes:.2f} GiB")
    common = [
        f"--experiment={experiment}",
        f"--checkpoint_path={imported}",
        f"--input_image_size={','.join(_SIZE.value)}",
    ]
    exported, tflite = os.path.join(work, "exported"), os.path.join(work, "model.tflite")
    _run("export-saved-model", *common, f"--export_dir={exported}")
    _run("export-tflite", *common, f"--tflite_path={tflite}")
    height, width = (int(length) for length in _SIZE.value)
    image = np.array(Image.open(_IMAGE.value).convert("RGB").resize((width, height)))
    expected = _keras(experiment, imported, image)
    found = {}
    for name, path in (("saved_model", exported), ("tflite", tflite)):
        result = Predictor(path)(image)
        found[name] = _agreement((result.category_mask, result.instance_mask), expected)
        segments = len(np.unique(_ids(*expected)))
        print(f"{name}: {found[name]:.3f} % of the pixels agree ({segments} segments and void)")
    return found


def _run(command: str, *arguments: str) -> str:
    process = subprocess.run(
        [sys.executable, "-m", "panoptic_tf.experiments.cli", command, *arguments],
        capture_output=True,
        text=True,
    )
    if process.returncode:
        raise RuntimeError(f"{command} failed:\n{process.stderr[-2000:]}")
    return process.stdout


def _keras(experiment: str, imported: str, image: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    params = hyperparams.override_params_dict(
        exp_factory.get_exp_config(experiment), os.path.join(imported, "params.yaml"), True
    )
    size = image.shape[:2]
    params = params.replace(task={"model": {"input_size": list(size)}})
    task = runner.build_task(params)
    model = runner.load_model(params, task, checkpoint_path=imported)
    pixels, info = geometry.fit_and_pad(tf.constant(image), size)
    normalization = params.task.normalization
    normalized = normalize.normalize_image(
        pixels,
        info,
        mean=normalization.mean,
        std=normalization.std,
        channel_order=normalization.channel_order,
    )
    inputs = {"image": normalized[tf.newaxis], "image_info": info[tf.newaxis]}
    predicted = tf.function(lambda: model(inputs, training=False))()
    masks: List[np.ndarray] = [
        predicted[key][0, : size[0], : size[1]].numpy()
        for key in (Prediction.CATEGORY_MASK, Prediction.INSTANCE_MASK)
    ]
    return masks[0], masks[1]


def _ids(category: np.ndarray, instance: np.ndarray) -> np.ndarray:
    return category.astype(np.int64) * 100_000 + instance


def _agreement(
    found: Tuple[np.ndarray, np.ndarray], expected: Tuple[np.ndarray, np.ndarray]
) -> float:
    """Percent of pixels; a segment's number may be another, its pixels may not."""
    ours, theirs = _ids(*found), _ids(*expected)
    same = np.zeros(ours.shape, bool)
    for segment in np.unique(theirs):
        inside = theirs == segment
        values, counts = np.unique(ours[inside], return_counts=True)
        best = values[counts.argmax()]
        if best // 100_000 == segment // 100_000:
            same |= inside & (ours == best)
    return 100.0 * float(same.mean())


if __name__ == "__main__":
    app.run(main)

"""One batch through everything, to see before a long training what it would do."""

from __future__ import annotations

import dataclasses
import os
import re
import resource
import time
from typing import Any, Dict, List, Tuple

import numpy as np
import tensorflow as tf
from absl import logging
from official.core import config_definitions as cfg
from official.core import train_utils

from panoptic_tf.ops import forms
from panoptic_tf.structures import Prediction, Tensors
from panoptic_tf.systems.config import Normalization
from panoptic_tf.systems.task import PanopticTask
from panoptic_tf.training import run_folder, runner
from panoptic_tf.visualization import images, panel

FOLDER = "dry_run"
"""Of the pictures, in the folder of the run."""

_NUM_PICTURES = 8
_PICTURE = re.compile(r"\d+\.png")
_LEAST_SIDE = 384  # pixels, so that names can be read


@dataclasses.dataclass(frozen=True)
class DryRun:
    """What a batch of training and one of evaluation have shown.

    Attributes:
      shapes: `float32 [2, 64, 64, 3]` by name of a tensor of the batch, of the first replica.
      losses: of the second step, by name.
      num_parameters: of the training network; and how many of them are trained.
      seconds: of `building` the network, `compiling` with the first step, a `step` of training,
        `evaluating` a batch, which includes compiling.
      peak_bytes: the most memory that was taken, of a GPU or else of this process.
      pictures: paths of what the network sees: image, and its targets decoded.
    """

    shapes: Dict[str, str]
    losses: Dict[str, float]
    num_parameters: Tuple[int, int]
    seconds: Dict[str, float]
    peak_bytes: int
    pictures: List[str]

    def lines(self) -> List[str]:
        """For people."""
        width = max(map(len, self.shapes))
        all_parameters, trained = self.num_parameters
        losses = ", ".join(f"{name} {value:.4g}" for name, value in self.losses.items())
        seconds = ", ".join(f"{name} {value:.2f} s" for name, value in self.seconds.items())
        return [
            "a batch of training:",
            *(f"  {name:{width}}  {shape}" for name, shape in self.shapes.items()),
            f"parameters: {all_parameters:,}, of which {trained:,} are trained",
            f"losses: {losses}",
            f"time: {seconds}",
            f"peak memory: {self.peak_bytes / 2**30:.2f} GiB",
            f"pictures of the images and their targets: {os.path.dirname(self.pictures[0])}",
        ]


def dry_run(params: cfg.ExperimentConfig, *, mode: str, model_dir: str) -> DryRun:
    """Reads a batch, trains two steps on such, evaluates one; leaves pictures, no checkpoint.

    Args:
      params: the experiment; it starts from its `task.init_checkpoint`.
      mode: as in `runner.train`; of a mode without evaluation nothing is evaluated.
      model_dir: gets the folder `FOLDER`.

    Raises:
      ValueError: see `runner.train`; or the mode trains nothing, or takes several processes.
    """
    if "train" not in mode:
        raise ValueError(f"a dry run is of training, got mode {mode!r}.")
    strategy = runner.start(params, mode, model_dir)
    task = runner.build_task_for(strategy, params, mode, model_dir)
    params = runner.without_xla(params)
    seconds: Dict[str, float] = {}
    with runner.naming_bad_records(params, task, mode), strategy.scope():
        start = time.monotonic()
        trainer = train_utils.create_trainer(params, task, train=True, evaluate="eval" in mode)
        trainer.initialize()
        seconds["building"] = time.monotonic() - start
        batch = next(iter(trainer.train_dataset))
        batch = tf.nest.map_structure(lambda v: strategy.experimental_local_results(v)[0], batch)
        # Before the steps: what a wrong batch looks like is to be seen where they fail.
        pictures = _write_pictures(params, batch, os.path.join(model_dir, FOLDER))
        for name in ("compiling", "step"):
            start = time.monotonic()
            logs = trainer.train(tf.constant(1))
            losses = {k: float(v) for k, v in logs.items() if "loss" in k}
            seconds[name] = time.monotonic() - start
        if "eval" in mode:
            seconds["evaluating"] = _evaluate(trainer)
    return DryRun(
        shapes={k: f"{v.dtype.name} {list(v.shape)}" for part in batch for k, v in part.items()},
        losses=losses,
        num_parameters=_count_parameters(trainer.model.training_network),
        seconds=seconds,
        peak_bytes=_peak_bytes(),
        pictures=pictures,
    )


def _evaluate(trainer: Any) -> float:
    """Seconds of one step; what is said of a network that has learnt nothing is left out."""
    start, verbosity = time.monotonic(), logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        trainer.evaluate(tf.constant(1))
    finally:
        logging.set_verbosity(verbosity)
    return time.monotonic() - start


def _count_parameters(network: tf.keras.Model) -> Tuple[int, int]:
    """Of all weights, and of those that are trained."""
    lists = (network.weights, network.trainable_weights)
    return tuple(sum(int(np.prod(w.shape)) for w in weights) for weights in lists)


def _peak_bytes() -> int:
    gpus = tf.config.list_logical_devices("GPU")
    if gpus:
        name = gpus[0].name.partition("device:")[2]
        return tf.config.experimental.get_memory_info(name)["peak"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _write_pictures(
    params: cfg.ExperimentConfig, batch: Tuple[Tensors, Tensors], folder: str
) -> List[str]:
    """Writes a picture of the first images: the image, and over it what its targets say."""
    features, labels = batch
    size = list(features["image"].shape[1:3])
    task = runner.build_task(
        params.replace(task={"model": {"input_size": size, "output_size": size}})
    )
    pixels = denormalize(features["image"].numpy(), params.task.normalization)[:_NUM_PICTURES]
    masks = _decode_targets(task, {**features, **labels}, size)
    info = task.dataset_info
    tf.io.gfile.makedirs(folder)
    for name in tf.io.gfile.listdir(folder):
        if _PICTURE.fullmatch(name):  # Of an earlier dry run, which may have had more.
            tf.io.gfile.remove(os.path.join(folder, name))
    paths = []
    for number, image in enumerate(pixels):
        drawn = panel.draw_panel(
            image,
            {key: mask[number] for key, mask in masks.items()},
            colors=info.colors,
            names=info.names,
            tile_size=max(_LEAST_SIDE, *size),
        )
        paths.append(os.path.join(folder, f"{number}.png"))
        run_folder.write_bytes(paths[-1], images.encode_png(drawn))
    return paths


def _decode_targets(task: PanopticTask, targets: Tensors, size: List[int]) -> Dict[str, np.ndarray]:
    """The panoptic maps that a network gets, if it predicts its targets: int32 [B, H, W]."""
    count = len(targets["image_info"])
    frame = tf.constant([size, size, [1, 1], [0, 0]], tf.float32)  # The frame is the image.
    with tf.device("CPU:0"), forms.use(forms.Form.CPU):
        on_cpu = {key: tf.identity(value) for key, value in targets.items()}
        found = task.ideal_prediction(on_cpu, tf.tile(frame[tf.newaxis], [count, 1, 1]))
    categories = found[Prediction.CATEGORY_MASK].numpy()
    instances = found.get(Prediction.INSTANCE_MASK)
    return {
        Prediction.CATEGORY_MASK: categories,
        Prediction.INSTANCE_MASK: (
            np.zeros_like(categories) if instances is None else instances.numpy()
        ),
    }


def denormalize(pixels: np.ndarray, normalization: Normalization) -> np.ndarray:
    """The opposite of `inputs.normalize.normalize_image`; padding comes out as the mean.

    Args:
      pixels: float32 [..., H, W, 3].
      normalization: what it was made with.

    Returns:
      uint8 [..., H, W, 3], RGB.
    """
    values = pixels * np.float32(normalization.std) + np.float32(normalization.mean)
    if normalization.channel_order == "BGR":
        values = values[..., ::-1]
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)

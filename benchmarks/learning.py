"""Ours and its reference trained on the same images, from the same weights: what both have learnt.

python benchmarks/learning.py --system=mask_transformer --reference_python=other/bin/python \\
    --output_dir=runs/learning

For every seed both start from the same weights and read one folder of batches, augmented by our
pipeline. Optimiser, clipping and schedule are equal: AdamW, a warm-up, then one rate. The weights
that the reference ends with are brought into our network, which computes the same with them, and
one evaluator scores both. Ours is scored after as many steps as the reference makes, and again
after as much CPU time as these took there. CPU time is that of the steps: tracing and what a
library does at its first step count, reading a batch does not. Memory is the most that the process
holds in these steps; ours has scored nothing until then. What is drawn in a step (the points
of Mask2Former's losses, the regions of Panoptic FPN) is drawn by each side.

The references are described in references/*_learning.py. curves.png in the output folder shows the
losses of all systems that were run into it; --plot only draws it again.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import statistics
import subprocess
import time
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Tuple

import common
import numpy as np
import tensorflow as tf
import workloads
from absl import app, flags
from matplotlib import figure
from matplotlib.backends import backend_agg
from official.core import exp_factory, task_factory
from references import measuring
from tqdm import tqdm

from panoptic_tf import checkpoints, systems  # noqa: F401  (registers the experiments)
from panoptic_tf.datasets import files, shapes_records
from panoptic_tf.structures import PanopticSample, Tensors
from panoptic_tf.systems import optimization
from panoptic_tf.systems.model import PanopticModel
from panoptic_tf.training import machine

_SYSTEM = flags.DEFINE_string("system", "mask_transformer", "A key of SYSTEMS.")
_PYTHON = flags.DEFINE_string(
    "reference_python", None, "Python of an environment with the reference; --plot needs none."
)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", "runs/learning", "Folder of everything.")
_STEPS = flags.DEFINE_integer("steps", 300, "Of the reference.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Number of runs.")
_LEARNING_RATE = flags.DEFINE_float("learning_rate", 1e-3, "After the warm-up.")
_WARMUP_STEPS = flags.DEFINE_integer("warmup_steps", 50, "Of the rate, from 0.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Images of a step.")
_THREADS = flags.DEFINE_integer("threads", 1, "Threads of an operation.")
_PLOT = flags.DEFINE_bool("plot", False, "Only draw the curves of earlier runs.")

_WINDOW = 20  # steps that a point of a curve is the mean of
_MOST_TIMES = 3  # as many steps as the reference
_WEIGHT_DECAY = 0.05


class _System(NamedTuple):
    """What is trained.

    Attributes:
      script: of the reference, in references/.
      options: of it.
      task: what the task of the experiment for shapes is overridden with; the network is the one
        of the script.
      clip_norm: of all gradients together.
      draws: whether the script draws the weights that both sides start from.
    """

    script: str
    options: Tuple[str, ...]
    task: Mapping[str, Any]
    clip_norm: float
    draws: bool = False


_RESNET: Dict[str, Any] = {
    "name": "resnet",
    "norm": "batch",
    "options": {
        "block": "bottleneck",
        "num_blocks": [3, 4, 6, 3],
        "widths": [8, 16, 32, 64],
        "stem": "basic",
        "stem_width": 16,
    },
}
_DEEP_RESNET = {
    **_RESNET,
    "multi_grid": [1, 2, 4],
    "options": {**_RESNET["options"], "stem": "deep"},
}
_BRANCH = {"aspp_channels": 64, "decoder_channels": 64, "low_level_channels": [32, 16]}

SYSTEMS = {
    "mask_transformer": _System(
        script="transformers_learning.py",
        options=(),
        task={
            "model": {
                "backbone": {
                    "name": "resnet",
                    "norm": "batch",
                    "options": {
                        "block": "bottleneck",
                        "num_blocks": [1, 1, 2, 1],
                        "widths": [16, 16, 24, 32],
                        "stem": "basic",
                        "stem_width": 16,
                    },
                },
                "semantic_branch": False,
                "pixel_decoder": {"num_layers": 2},
                "decoder": {
                    "num_queries": 32,
                    "num_layers": 3,
                    "num_heads": 4,
                    "levels": ["5", "4", "3"],
                },
                "postprocessor": {"score_threshold": 0.8, "overlap_threshold": 0.8},
            },
            "losses": {"class_weight": 2.0, "num_points": 512},
        },
        clip_norm=0.01,
        draws=True,
    ),
    "panoptic_deeplab": _System(
        script="detectron2_learning.py",
        options=("--system=panoptic_deeplab",),
        task={
            "model": {
                "backbone": _DEEP_RESNET,
                "aspp_dilation_rates": [1, 2, 3],
                "aspp_pool_size": [8, 8],
                "use_separable_conv": True,
                "semantic": {**_BRANCH, "head_channels": 64},
                "instance": {**_BRANCH, "decoder_channels": 32, "head_channels": 32},
            },
            "losses": {"offset_weight": 0.1, "top_k_fraction": 1.0, "rank_over": "batch"},
        },
        clip_norm=5.0,
    ),
    "panoptic_fpn": _System(
        script="detectron2_learning.py",
        options=("--system=panoptic_fpn",),
        task={
            "model": {
                "backbone": {**_RESNET, "stride_in_1x1": True},
                "roi": {"sampling_ratio": 0},
                "semantic": {"thing_classes": "other"},
            },
        },
        clip_norm=5.0,
    ),
    "panoptic_fcn": _System(
        script="detectron2_learning.py",
        options=("--system=panoptic_fcn",),
        task={
            "model": {
                "backbone": {**_RESNET, "stride_in_1x1": True},
                "fpn": {"norm": "none"},
                "encoder": {"norm": "none"},
                "min_level": 3,
                "sampler": {"num_positives": 1},  # The coarsest level is one cell.
                "selector": {"smoothing_sizes": [3, 3, 3, 3, 3]},
            },
            "targets": {
                "min_scales": [1, 32, 64, 96, 160],
                "max_scales": [48, 80, 128, 192, 2048],
            },
        },
        clip_norm=5.0,
    ),
}


def main(argv: List[str]) -> None:
    """Runs the benchmark."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    if _PLOT.value:
        plot_curves(_OUTPUT_DIR.value)
        return
    if not _PYTHON.value:
        raise app.UsageError("--reference_python is missing.")
    tf.config.threading.set_intra_op_parallelism_threads(_THREADS.value)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    records = shapes_records.write_records(os.path.join(_OUTPUT_DIR.value, "data"))
    results = [_run(seed, records) for seed in range(_SEEDS.value)]
    names = list(results[0])
    print(
        f"{_SYSTEM.value}, {_STEPS.value} steps of {_BATCH_SIZE.value} images, "
        f"{_THREADS.value} thread(s)"
    )
    print("| seed | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for seed, result in enumerate(results):
        print(f"| {seed} | " + " | ".join(f"{result[name]:.2f}" for name in names) + " |")
    if len(results) > 1:
        columns = ([result[name] for result in results] for name in names)
        cells = (f"{statistics.mean(c):.2f} +- {statistics.stdev(c):.2f}" for c in columns)
        print("| mean and deviation | " + " | ".join(cells) + " |")
    plot_curves(_OUTPUT_DIR.value)


def plot_curves(folder: str) -> str:
    """Draws the losses of every system in a folder; returns the path of the picture.

    A line is the mean of the seeds over windows of `_WINDOW` steps, its band their range.
    """
    runs = {
        name: sorted(glob.glob(os.path.join(folder, name, "seed_*", "losses.json")))
        for name in SYSTEMS
    }
    runs = {name: paths for name, paths in runs.items() if paths}
    picture = figure.Figure(figsize=(4 * len(runs), 3))
    axes = picture.subplots(1, len(runs), squeeze=False)
    for axis, (name, paths) in zip(axes[0], runs.items()):
        losses = [files.read_json(path, expected="the losses of a run") for path in paths]
        for side, color in (("reference", "tab:orange"), ("ours", "tab:blue")):
            lengths = [len(run[side]) // _WINDOW * _WINDOW for run in losses]
            means = np.array(
                [np.reshape(run[side][: min(lengths)], [-1, _WINDOW]).mean(1) for run in losses]
            )
            steps = _WINDOW * (np.arange(means.shape[1]) + 0.5)
            axis.plot(steps, means.mean(0), color=color, label=side)
            axis.fill_between(steps, means.min(0), means.max(0), color=color, alpha=0.25, lw=0)
        axis.set(title=name, xlabel="step", yscale="log")
        axis.minorticks_off()
        low, high = axis.get_ylim()
        axis.set_yticks(np.round(np.geomspace(low * 1.05, high / 1.05, 4), 1))
        axis.yaxis.set_major_formatter("{x:g}")
    axes[0, 0].set_ylabel("loss")
    axes[0, 0].legend()
    picture.tight_layout()
    path = os.path.join(folder, "curves.png")
    backend_agg.FigureCanvasAgg(picture).print_figure(path, dpi=100)
    return path


def _run(seed: int, records: shapes_records.ShapesRecords) -> Dict[str, float]:
    system = SYSTEMS[_SYSTEM.value]
    folder = os.path.join(_OUTPUT_DIR.value, _SYSTEM.value, f"seed_{seed}")
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(os.path.join(folder, "batches"))
    tf.keras.utils.set_random_seed(seed)
    task = task_factory.get_task(_params(system, records, seed).task)
    task.form = machine.cpu_form()
    _write_batches(task, folder)
    ours = _Ours(task, folder, clip_norm=system.clip_norm)
    if system.draws:
        _reference(system, folder, "--draw", f"--seed={seed}")
        start = os.path.join(folder, "start", "model.safetensors")
    else:
        start = os.path.join(folder, "start.npz")
        np.savez(start, **workloads.keep_weights(ours.model))
    theirs = _reference(
        system,
        folder,
        f"--seed={seed}",
        f"--steps={_STEPS.value}",
        f"--learning_rate={_LEARNING_RATE.value}",
        f"--warmup_steps={_WARMUP_STEPS.value}",
        f"--weight_decay={_WEIGHT_DECAY}",
        f"--clip_norm={system.clip_norm}",
    )
    _load(ours.model, start)
    measuring.forget_peak()
    ours.train(lambda: ours.num_steps == _STEPS.value)
    found = {"MB of the reference": theirs["memory"]["training"], "MB": measuring.peak_megabytes()}
    found["PQ"] = ours.score()
    found["first loss of the reference"] = theirs["losses"][0]
    found["first loss"] = ours.losses[0]
    found["last losses of the reference"] = statistics.mean(theirs["losses"][-20:])
    found["last losses"] = statistics.mean(ours.losses[-20:])
    found["CPU-s of the reference"] = theirs["seconds"]["training"]
    found["CPU-s"] = ours.seconds
    ours.train(lambda: ours.seconds >= theirs["seconds"]["training"])
    found["steps in its CPU time"] = ours.num_steps
    found["PQ in its CPU time"] = ours.score()
    _load(ours.model, start.replace("start", "end"))
    found = {"PQ of the reference": ours.score(), **found}
    with open(os.path.join(folder, "losses.json"), "w", encoding="utf-8") as file:
        json.dump({"ours": ours.losses, "reference": theirs["losses"]}, file)
    shutil.rmtree(os.path.join(folder, "batches"))
    print(f"seed {seed}: {found}", flush=True)
    return found


def _params(system: _System, records: shapes_records.ShapesRecords, seed: int) -> Any:
    params = exp_factory.get_exp_config(common.experiment_name(_SYSTEM.value, "shapes"))
    size = {"global_batch_size": _BATCH_SIZE.value}
    params.override({"task": system.task})
    params.override(
        {
            "task": {
                "train_data": {"input_path": records.train, "seed": seed, **size},
                "validation_data": {"input_path": records.val, **size},
            }
        }
    )
    return params


def _write_batches(task: Any, folder: str) -> None:
    """Writes `image`, `features/...`, `labels/...` and the masks that they were made of."""
    build_generator = task.build_target_generator
    generator = build_generator()

    def generate(sample: PanopticSample) -> Tuple[Tensors, Tensors]:
        features, labels = generator(sample)
        truth = {
            "truth/category_mask": sample.category_mask,
            "truth/instance_mask": tf.where(sample.crowd_mask, 0, sample.instance_mask),
        }
        return features, {**labels, **truth}

    task.build_target_generator = lambda: generate
    count = _MOST_TIMES * _STEPS.value
    batches = task.build_inputs(task.task_config.train_data)
    batches = batches.filter(_has_things_everywhere).take(count).as_numpy_iterator()
    for number, (features, labels) in enumerate(tqdm(batches, total=count, desc="batches")):
        image = features.pop("image").astype(np.float16)
        truth = {key: labels.pop(key) for key in list(labels) if key.startswith("truth/")}
        np.savez_compressed(
            os.path.join(folder, "batches", f"{number:06d}.npz"),
            image=image,
            **{f"features/{key}": value for key, value in features.items()},
            **{f"labels/{key}": value for key, value in labels.items()},
            **truth,
        )
    task.build_target_generator = build_generator


def _has_things_everywhere(_: Tensors, labels: Tensors) -> tf.Tensor:
    """The authors' Panoptic FCN cannot train on an image without things."""
    ids = labels["truth/instance_mask"]  # [B, H, W]
    return tf.reduce_all(tf.reduce_max(ids, axis=[1, 2]) > 0)


def _reference(system: _System, folder: str, *flags_of_it: str) -> Dict[str, Any]:
    script = os.path.join(os.path.dirname(__file__), "references", system.script)
    command = [_PYTHON.value, script, f"--folder={folder}", f"--threads={_THREADS.value}"]
    command += [*system.options, *flags_of_it]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    lines = done.stdout.splitlines()
    return json.loads(lines[-1]) if "--draw" not in flags_of_it else {}


def _load(model: PanopticModel, path: str) -> None:
    if path.endswith(".npz"):
        with np.load(path) as file:
            workloads.load_weights(model, dict(file))
    else:
        checkpoints.load_weights(path, model.weights, modules="all", network=model)


class _Ours:
    """Our training on the batches of a folder.

    Attributes:
      model: that is trained.
      losses: of every step.
      seconds: of CPU.
    """

    def __init__(self, task: Any, folder: str, *, clip_norm: float):
        self.losses: List[float] = []
        self.seconds = 0.0
        self._task = task
        self._folder = os.path.join(folder, "batches")
        self.model = task.build_model()
        config = optimization.trainer_config(
            train_steps=_STEPS.value,
            optimizer="adamw",
            optimizer_options=optimization.adamw_options(
                weight_decay=_WEIGHT_DECAY, clip_norm=clip_norm, epsilon=1e-8
            ),
            schedule="constant",
            schedule_options={"learning_rate": _LEARNING_RATE.value},
            warmup_steps=_WARMUP_STEPS.value,
        )
        optimizer = task.create_optimizer(config.optimizer_config)
        optimization.create_variables(optimizer, self.model.trainable_variables)
        self._step = tf.function(
            lambda *batch: task.train_step(batch, self.model, optimizer)[task.loss],
            autograph=False,
        )
        self._predict = tf.function(
            lambda *batch: task.validation_step(batch, self.model),
            autograph=False,
            reduce_retracing=True,
        )

    @property
    def num_steps(self) -> int:
        """Steps that were made."""
        return len(self.losses)

    def train(self, is_done: Callable[[], bool]) -> None:
        """Makes steps until it is done or there is no batch left."""
        for name in sorted(os.listdir(self._folder))[self.num_steps :]:
            if is_done():
                return
            batch = _read(os.path.join(self._folder, name))
            start = time.process_time()
            self.losses.append(float(self._step(*tf.nest.map_structure(tf.constant, batch))))
            self.seconds += time.process_time() - start

    def score(self) -> float:
        """PQ on the validation images."""
        state = None
        for batch in self._task.build_inputs(self._task.task_config.validation_data):
            outputs = self._predict(*batch)
            # Of the one replica that there is.
            of_replicas = tf.nest.map_structure(lambda value: (value,), outputs)
            state = self._task.aggregate_logs(state, of_replicas)
        return self._task.reduce_aggregated_logs(state)["PQ"]


def _read(path: str) -> Tuple[Dict[str, np.ndarray], Dict[str, np.ndarray]]:
    """Features and labels of a batch."""
    features: Dict[str, np.ndarray] = {}
    labels: Dict[str, np.ndarray] = {}
    with np.load(path) as file:
        features["image"] = file["image"].astype(np.float32)
        for key in file.files:
            kind, _, name = key.partition("/")
            if kind in ("features", "labels"):
                (features if kind == "features" else labels)[name] = file[key]
    return features, labels


if __name__ == "__main__":
    app.run(main)

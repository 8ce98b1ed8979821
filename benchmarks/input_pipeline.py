"""CPU-seconds of the input pipeline at 512x512, for 100 images; beside a reference.

python benchmarks/input_pipeline.py --repetitions=3
python benchmarks/input_pipeline.py --repetitions=3 --rounds=3 --reference_command='...'

The command is in `references/model_garden_parsers.py`.

Both sides get the same annotated JPEGs (`input_pipeline_workload`), write records of their own and
run in turn, in processes of their own. A reference command prints JSON that ends its output:
`{"seconds": {"<system>/same": ..., "<system>/all": ..., ...}, "counts": {"images": ...}}`.

same: read, decode, jitter of scale, crop, flip, normalisation, the system's targets: what the Model
    Garden's parsers do, with the scales of their configs.
all: with colour jitter. all, overlapping: with the records' own masks of instances, too.
decode, geometry, photometric, targets: what each stage adds to those before it; geometry is with
    normalisation and with looking categories up.
clock: `all` in seconds on the clock, by the number of threads of tf.data (`--scaling`).
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

import input_pipeline_workload
import speed
import tensorflow as tf
from absl import app, flags
from official.core import exp_factory, task_factory

from panoptic_tf import systems  # noqa: F401  (registers the experiments)
from panoptic_tf.datasets import record
from panoptic_tf.inputs import pipeline
from panoptic_tf.structures import PanopticSample, Tensors

_SYSTEMS = {
    "panoptic_deeplab": ("panoptic_deeplab_resnet50_coco", (0.5, 1.5)),
    "panoptic_fpn": ("panoptic_fpn_resnet50_coco", (0.8, 1.25)),
    "panoptic_fcn": ("panoptic_fcn_resnet50_coco", (0.8, 1.25)),
}
_WITH_INSTANCES = ("panoptic_fpn", "panoptic_fcn")
_PARTS = (
    "same",
    "all",
    "all, overlapping",
    "decode",
    "geometry",
    "photometric",
    "targets",
    "clock, 1 thread",
    "clock, 2 threads",
)
_COLOURS = {"brightness": 0.125, "contrast": 0.5, "saturation": 0.5, "hue": 0.05}
_UNIT = 100  # images that seconds are of
_BATCH = 4
_WARM_UP = 8  # batches

_SIZE = flags.DEFINE_integer("size", 512, "Side of the network's frame.")
_IMAGES = flags.DEFINE_integer("images", 16, "Images of the workload.")
_RECORDS = flags.DEFINE_string(
    "records", None, "Pattern of records of COCO categories whose images to take; drawn ones else."
)
_SYSTEM = flags.DEFINE_multi_enum("system", list(_SYSTEMS), list(_SYSTEMS), "Systems to measure.")
_SCALING = flags.DEFINE_boolean("scaling", False, "Measure the clock with one and two threads.")


def main(argv: List[str]) -> None:
    """Runs the benchmark."""
    rows = {
        f"{system[9:]}, {part}": [f"{system}/{part}"] for system in _SYSTEM.value for part in _PARTS
    }
    speed.run(
        argv,
        title=f"input pipeline, {_SIZE.value}x{_SIZE.value}, {_UNIT} images",
        build=_build,
        measure=measure,
        rows=rows,
    )


def measure(workload: speed.Workload) -> Dict[str, Any]:
    """Ours, in this process.

    Args:
      workload: see `input_pipeline_workload.build`.

    Returns:
      `seconds` and `counts`, as a reference command prints them.
    """
    images = input_pipeline_workload.load(workload)
    seconds: Dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "train-00000-of-00001.tfrecord")
        input_pipeline_workload.write_records(images, path)
        for system in _SYSTEM.value:
            found = _measure_system(system, path)
            seconds.update({f"{system}/{part}": value for part, value in found.items()})
    return {"seconds": seconds, "counts": {"images": len(images)}}


def _build() -> speed.Workload:
    if _RECORDS.value:
        return input_pipeline_workload.build_from_records(_RECORDS.value)
    return input_pipeline_workload.build(_IMAGES.value)


def _measure_system(system: str, path: str) -> Dict[str, float]:
    """Seconds of the parts, in turns: each repetition measures every part once."""
    datasets = {
        "same": _dataset(system, path),
        "all": _dataset(system, path, colours=_COLOURS),
        "moved": _dataset(system, path, target_generator=_keep_masks),
        "decode": _decode(path),
    }
    if system in _WITH_INSTANCES:
        overlapping = _dataset(system, path, colours=_COLOURS, with_instances=True)
        datasets["all, overlapping"] = overlapping
    clocks = {part: time.process_time for part in datasets}
    if _SCALING.value:
        for part, threads in (("clock, 1 thread", 1), ("clock, 2 threads", 2)):
            datasets[part] = _with_threads(datasets["all"], threads)
            clocks[part] = time.perf_counter
    found: Dict[str, List[float]] = {part: [] for part in datasets}
    for _ in range(flags.FLAGS.repetitions):
        for part, dataset in datasets.items():
            batch = 1 if part == "decode" else _BATCH
            found[part].append(_seconds(dataset, clocks[part], batch=batch))
    medians = {part: statistics.median(values) for part, values in found.items()}
    moved = medians.pop("moved")
    return {
        **medians,
        "geometry": moved - medians["decode"],
        "photometric": medians["all"] - medians["same"],
        "targets": medians["same"] - moved,
    }


def _dataset(
    system: str,
    path: str,
    *,
    colours: Optional[Mapping[str, float]] = None,
    target_generator: Optional[pipeline.TargetGenerator] = None,
    with_instances: bool = False,
) -> tf.data.Dataset:
    experiment, scales = _SYSTEMS[system]
    config = exp_factory.get_exp_config(experiment).task
    config.model.train_size = config.model.input_size = [_SIZE.value] * 2
    task = task_factory.get_task(config)
    return pipeline.build_training_dataset(
        input_path=path,
        thing_ids=task.dataset_info.thing_ids,
        network_size=(_SIZE.value, _SIZE.value),
        normalization=pipeline.Normalization(**config.normalization.as_dict()),
        augmentation=pipeline.Augmentation(
            scale_min=scales[0], scale_max=scales[1], flip_horizontally=True, **(colours or {})
        ),
        target_generator=target_generator or task.build_target_generator(),
        batch_size=_BATCH,
        shuffle_buffer_size=16,
        seed=0,
        with_instances=with_instances,
    )


def _decode(path: str) -> tf.data.Dataset:
    def decode(serialized: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
        example = record.decode_example(serialized)
        return tf.io.decode_image(example["image_bytes"], channels=3), example["id_map"]

    records = tf.data.TFRecordDataset(path).shuffle(16, seed=0).repeat()
    return records.map(decode, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def _keep_masks(sample: PanopticSample) -> Tuple[Tensors, Tensors]:
    """Targets that are what geometry made; without them nothing of it would be computed."""
    masks = (sample.category_mask, sample.instance_mask, sample.crowd_mask)
    return {}, {str(i): mask for i, mask in enumerate(masks)}


def _with_threads(dataset: tf.data.Dataset, threads: int) -> tf.data.Dataset:
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    return dataset.with_options(options)


def _seconds(dataset: tf.data.Dataset, clock: Callable[[], float], *, batch: int) -> float:
    """Of `_UNIT` images in the middle of a pass, by a clock; an element has `batch` of them."""
    iterator = iter(dataset)
    for _ in range(_WARM_UP * _BATCH // batch):
        next(iterator)
    start = clock()
    for _ in range(_UNIT // batch):
        next(iterator)
    return clock() - start


if __name__ == "__main__":
    app.run(main)

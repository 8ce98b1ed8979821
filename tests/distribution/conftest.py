"""Records of a few images and weights to start from, the same for every process."""

import pathlib
from unittest import mock

import pytest
import shallow_network
import tensorflow as tf
from jobs import override
from official.core import exp_factory, task_factory
from small_systems import step_in_graph

from panoptic_tf import systems  # noqa: F401  (registers tasks and experiments)
from panoptic_tf.datasets import converter, shapes_writer
from panoptic_tf.systems.panoptic_deeplab import network

NUM_IMAGES = {"train": 10, "val": 7}  # workers get 4 and 3 to evaluate
NUM_STEPS = 40


@pytest.fixture(scope="session")
def shapes_records(tmp_path_factory) -> pathlib.Path:
    """Folder of `train-*` and `val-*`."""
    folder = tmp_path_factory.mktemp("distribution")
    for seed, (split, count) in enumerate(NUM_IMAGES.items()):
        source = str(folder / split)
        json_path = shapes_writer.write_split(
            source, seed=seed, num_images=count, size=64, show_progress=False
        )
        converter.convert_dataset(
            "coco_panoptic",
            panoptic_json=json_path,
            panoptic_dir=f"{source}/panoptic",
            image_dir=f"{source}/images",
            output_dir=str(folder / "records"),
            split=split,
            num_shards=2,
            num_processes=1,
        )
    return folder / "records"


@pytest.fixture(scope="session")
def records(shapes_records) -> pathlib.Path:
    """The same with `initial`: weights that know a little, so that PQ is not 0."""
    records = shapes_records
    tf.keras.utils.set_random_seed(2)
    params = exp_factory.get_exp_config("panoptic_deeplab_shapes")
    params.override(override(records, train_steps=1, interval=1))
    task = task_factory.get_task(params.task)
    with mock.patch.object(network, "build_networks", shallow_network.build_networks):
        model = task.build_model()
    optimizer = tf.keras.optimizers.legacy.Adam(1e-2)
    step = step_in_graph(task, model, optimizer)
    for inputs in task.build_inputs(params.task.train_data).take(NUM_STEPS):
        step(*inputs)
    tf.train.Checkpoint(model=model).write(str(records / "initial"))
    return records

"""Data in which objects are all that is labelled: the model must not see objects everywhere."""

import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from small_systems import ROWS, row_task, step_in_graph

from panoptic_tf.datasets import converter, segments, shapes_writer
from panoptic_tf.structures import GroundTruth, Prediction

NUM_STEPS = 300


def write_things_only(folder):
    """Shapes without anything but things, as annotation tools export them."""
    json_path = shapes_writer.write_split(
        str(folder), seed=1, num_images=12, size=64, show_progress=False
    )
    with open(json_path) as file:
        content = json.load(file)
    content["categories"] = [c for c in content["categories"] if c["isthing"]]
    thing_ids = {category["id"] for category in content["categories"]}
    for annotation in content["annotations"]:
        things = [s for s in annotation["segments_info"] if s["category_id"] in thing_ids]
        path = folder / "panoptic" / annotation["file_name"]
        ids = segments.rgb_to_id(np.asarray(Image.open(path)))
        ids[~np.isin(ids, [s["id"] for s in things])] = 0
        Image.fromarray(segments.id_to_rgb(ids)).save(path)
        annotation["segments_info"] = things
    with open(json_path, "w") as file:
        json.dump(content, file)
    return json_path


def convert(folder, **options):
    converter.convert_dataset(
        "coco_panoptic",
        panoptic_json=str(folder / "panoptic.json"),
        panoptic_dir=str(folder / "panoptic"),
        image_dir=str(folder / "images"),
        num_shards=1,
        num_processes=1,
        **options,
    )


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Records of such data, converted as a user does."""
    folder = tmp_path_factory.mktemp("things")
    write_things_only(folder)
    convert(folder, output_dir=str(folder / "records"))
    return folder / "records"


def test_training_on_things_and_void_is_warned_of(records, caplog):
    output_dir = str(records.parent / "void")
    convert(records.parent, output_dir=output_dir, unlabelled_policy="void")
    for folder, warned in ((records, False), (records.parent / "void", True)):
        caplog.clear()
        task = build_task(ROWS[0], folder)
        task.check_inputs(task.task_config.train_data)
        texts = [text for text in caplog.messages if "are void" in text]
        assert bool(texts) == warned
        assert all("--unlabelled=background" in text for text in texts)


def build_task(row, records, **model):
    data = {"input_path": str(records / "train-*"), "global_batch_size": 4}
    return row_task(
        row,
        {
            "dataset_info": str(records / "dataset_info.json"),
            "model": {**model, "backbone": {"norm": "batch"}},
            "train_data": {**data, "seed": 5},
            "validation_data": data,
        },
    )


def train(task, model, num_steps):
    optimizer = tf.keras.optimizers.legacy.Adam(1e-2)
    step = step_in_graph(task, model, optimizer)
    for inputs in task.build_inputs(task.task_config.train_data).take(num_steps):
        step(*inputs)


@pytest.mark.slow
def test_another_system_trains_on_them(records):
    task = build_task(ROWS[1], records)
    assert [c.name for c in task.dataset_info.categories if not c.is_thing] == ["background"]
    model = task.build_model()
    (inputs,) = task.build_inputs(task.task_config.train_data).take(1)
    losses = task.train_step(inputs, model, tf.keras.optimizers.legacy.Adam(1e-2))
    assert np.isfinite(losses[task.loss])


@pytest.mark.slow
def test_unlabelled_pixels_are_not_predicted_as_things(records):
    tf.keras.utils.set_random_seed(4)
    (row,) = [row for row in ROWS if row.system == "panoptic_deeplab"]
    task = build_task(row, records, norm="batch", aspp_dropout=0.0)
    model = task.build_model()
    train(task, model, NUM_STEPS)
    true_things = predicted_things = background = covered = 0
    for features, truth in task.build_inputs(task.task_config.validation_data):
        prediction = model(features, training=False)
        is_labelled = np.isin(truth[GroundTruth.CATEGORY_MASK], task.dataset_info.thing_ids)
        is_thing = np.isin(prediction[Prediction.CATEGORY_MASK], task.dataset_info.thing_ids)
        background += np.sum(~is_labelled)
        covered += np.sum(is_thing & ~is_labelled)
        for true, predicted in zip(
            truth[GroundTruth.INSTANCE_MASK], prediction[Prediction.INSTANCE_MASK]
        ):
            true_things += len(np.unique(true[true > 0]))
            predicted_things += len(np.unique(predicted[predicted > 0]))
    assert true_things == 39 and background > 0.85 * 12 * 64 * 64
    # Where they are void, things cover every one of them: 1.0.
    assert covered < 0.25 * background, covered / background
    assert 0.5 * true_things < predicted_things < 1.5 * true_things, predicted_things

"""The switch `with_instances`, from the config through the input pipeline to average precision."""

import io
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from small_systems import ROWS, row_task

from panoptic_tf.datasets import coco_format, record, rle
from panoptic_tf.structures import GroundTruth, Prediction
from panoptic_tf.systems import config


@pytest.fixture
def task():
    return row_task(ROWS[0])


@pytest.fixture
def input_path(task, tmp_path):
    """Two images with one thing; the second's instance is larger than its segment."""
    category = task.dataset_info.categories[task.dataset_info.thing_ids[0] - 1]
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((40, 64, 3), np.uint8)).save(buffer, format="PNG")
    rows = np.zeros((40, 64), np.int32)
    rows[10:20, 10:30] = 1
    whole = np.zeros((40, 64), np.uint8)
    whole[10:40, 10:60] = 1
    own = record.Instance(rle.encode_rle(whole), category.id)
    with tf.io.TFRecordWriter(str(tmp_path / "val.tfrecord")) as writer:
        for image_id, instances in ((1, None), (2, [own])):
            writer.write(
                record.encode_example(
                    image_bytes=buffer.getvalue(),
                    image_id=image_id,
                    file_name=f"{image_id}.png",
                    rows=rows,
                    segment_table=[coco_format.Segment(id=9, category_id=category.dataset_id)],
                    contiguous_ids=task.dataset_info.contiguous_ids(),
                    instances=instances,
                )
            )
    return str(tmp_path / "val.tfrecord")


def evaluate(task, input_path, with_instances):
    """The metrics of a prediction that is the annotation of the panoptic map."""
    data = config.DataConfig(
        input_path=input_path, global_batch_size=2, with_instances=with_instances
    )
    (_, labels), *_ = task.build_inputs(data)
    present = tf.ones([2, 1], tf.int32)
    prediction = {
        Prediction.CATEGORY_MASK: labels[GroundTruth.CATEGORY_MASK],
        Prediction.INSTANCE_MASK: labels[GroundTruth.INSTANCE_MASK],
        Prediction.SEGMENT_CATEGORY: present * task.dataset_info.thing_ids[0],
        Prediction.SEGMENT_INSTANCE: present,
        Prediction.SEGMENT_SCORE: tf.cast(present, tf.float32),
        Prediction.IMAGE_SIZE: labels[GroundTruth.IMAGE_SIZE],
    }
    outputs = {"prediction": prediction, "ground_truth": labels}
    # As the trainer hands them over: a tuple with one tensor for each replica.
    outputs = tf.nest.map_structure(lambda value: (value,), outputs)
    return task.aggregate_logs(None, outputs).finish().result()


def test_they_are_the_ground_truth_of_average_precision(task, input_path):
    panoptic, own = (evaluate(task, input_path, flag) for flag in (False, True))
    assert panoptic["PQ"] == own["PQ"] == 100
    assert panoptic["AP"] == pytest.approx(100)
    assert own["AP"] == pytest.approx(100 * 51 / 101)  # one of two is found


def test_training_hands_them_to_the_targets(task, input_path, monkeypatch):
    seen = {}

    def generate(sample):
        seen["instances"] = sample.instances
        return {}, {"id": tf.strings.to_number(sample.image_id), "seed": sample.seed}

    monkeypatch.setattr(task, "build_target_generator", lambda: generate)
    for with_instances in (False, True):
        data = config.DataConfig(
            input_path=input_path,
            global_batch_size=2,
            is_training=True,
            with_instances=with_instances,
        )
        task.build_inputs(data)
        assert (seen["instances"] is not None) == with_instances
    size = tuple(task.task_config.model.train_size)
    assert seen["instances"].masks.shape[1:] == size


def test_it_is_off_by_default():
    assert not config.DataConfig().with_instances
    assert json.loads(json.dumps(config.DataConfig().as_dict()))["with_instances"] is False

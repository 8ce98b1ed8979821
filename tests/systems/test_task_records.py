"""What is refused of a data config before a model is built, and what counts decide."""

import logging

import numpy as np
import pytest
from small_systems import write_records

from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.systems import config, task_records
from panoptic_tf.systems.class_weights import ClassWeights


def data_config(**values):
    data = config.DataConfig(is_training=True)
    data.override(values)
    return data


def check(values, info=None):
    task_records.check(data_config(**values), info or DatasetInfo.load("shapes"), "shapes")


@pytest.mark.parametrize(
    ("augmentation", "words"),
    [
        ({"copy_paste": {"probability": 1.5}}, "copy_paste.probability must be in 0..1, got 1.5"),
        ({"copy_paste": {"max_instances": 0}}, "copy_paste.max_instances must be in 1..255"),
        ({"policy": "other"}, "policy must be core or addons, got 'other'"),
    ],
)
def test_messages_have_the_full_name_of_the_setting(augmentation, words):
    with pytest.raises(ValueError, match=f"^task.train_data.augmentation.{words}"):
        check({"augmentation": augmentation})


def test_pasting_without_things_is_refused():
    info = DatasetInfo.from_coco([{"id": 1, "name": "sky", "isthing": 0}], name="stuff")
    values = {"augmentation": {"copy_paste": {"probability": 0.5}}}
    words = "^task.train_data.augmentation.copy_paste pastes things, and no category"
    with pytest.raises(ValueError, match=words):
        check(values, info)


def test_a_threshold_below_every_share_repeats_nothing(tmp_path, caplog):
    info = DatasetInfo.load("shapes")
    weights = ClassWeights(config.ClassWeights(), info)
    pattern = write_records(tmp_path)
    with caplog.at_level(logging.INFO, logger="absl"):
        values = {"input_path": pattern, "repeat_factor_threshold": 0.01}
        assert task_records.learn_counts(data_config(**values), info, weights) is None
    assert "no category is in fewer than 0.01 of the training images" in caplog.text
    assert "counted the categories of 4 records" in caplog.text
    values["repeat_factor_threshold"] = 1.0
    factors = task_records.learn_counts(data_config(**values), info, weights)
    assert factors.shape == (info.num_categories + 1,) and np.max(factors) > 1

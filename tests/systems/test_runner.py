"""What cannot go together is refused before anything is written."""

import pytest
from official.core import exp_factory

from panoptic_tf import systems  # noqa: F401  (registers the experiments)
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.systems import runner


def shapes_experiment():
    return exp_factory.get_exp_config("panoptic_deeplab_shapes")


def test_float16_with_averaged_weights_is_refused(tmp_path):
    params = shapes_experiment()
    params.runtime.mixed_precision_dtype = "float16"
    with pytest.raises(ValueError, match="float16.*ema"):
        runner.train(params, mode="train", model_dir=str(tmp_path / "model"))
    assert not (tmp_path / "model").exists()


def test_best_checkpoint_of_averaged_weights_is_refused(tmp_path):
    params = shapes_experiment()
    params.trainer.best_checkpoint_export_subdir = "best"
    with pytest.raises(ValueError, match="best_checkpoint_export_subdir"):
        runner.train(params, mode="train_and_eval", model_dir=str(tmp_path / "model"))


def test_nothing_to_evaluate_is_an_error_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint.*nowhere"):
        runner.train(shapes_experiment(), mode="eval", model_dir=str(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()


def test_records_of_other_categories_are_refused(tmp_path):
    DatasetInfo.load("cityscapes_panoptic").save(str(tmp_path / "dataset_info.json"))
    params = shapes_experiment()
    task = runner.build_task(params)
    params.task.train_data.input_path = str(tmp_path / "train-*")
    with pytest.raises(ValueError, match="Set task.dataset_info to .*dataset_info.json"):
        task.build_inputs(params.task.train_data)

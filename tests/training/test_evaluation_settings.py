"""What an evaluation measures: values are checked before anything slow, and arrive."""

import numpy as np
import pytest
from official.core import exp_factory

import panoptic_tf.systems  # noqa: F401
from panoptic_tf.metrics import segments
from panoptic_tf.training import run_checks, runner


def experiment(**values):
    params = exp_factory.get_exp_config("panoptic_deeplab_shapes")
    params.override({"task": {"evaluation": values}})
    return params


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("boundary_ratio", -0.1, r"must be within 0\.\.1, .*got -0\.1"),
        ("boundary_ratio", 2.0, r"must be within 0\.\.1, .*got 2\.0"),
        ("crowd_rule", "first", "must be one of .*'all', 'last'.*got 'first'"),
        ("max_pixels", 0, "must be at least 1, got 0"),
    ],
)
def test_values_out_of_range_are_refused(name, value, message):
    with pytest.raises(ValueError, match=f"^task.evaluation.{name} {message}"):
        run_checks.check_evaluation(experiment(**{name: value}))


@pytest.mark.parametrize(
    "name, value",
    [
        ("repeat_factor_threshold", 0.1),
        ("augmentation.copy_paste.probability", 0.5),
        ("augmentation.scale_max", 3.0),
    ],
)
def test_settings_of_training_images_are_refused(name, value):
    for data, is_refused in (("validation_data", True), ("train_data", False)):
        params = experiment()
        settings = value
        for key in reversed(name.split(".")):
            settings = {key: settings}
        params.override({"task": {data: settings}})
        if not is_refused:
            run_checks.check_run(params, "train", "", None)
            continue
        with pytest.raises(
            ValueError, match=f"^task.{data}.{name} is {value}, but it has no effect"
        ):
            run_checks.check_evaluation(params)


def test_boundaries_are_measured_where_they_have_a_width():
    mask = np.array([[1, 1, 2], [1, 1, 2]])
    labels = segments.label_masks(mask, mask)
    for ratio, expected in ((0.0, None), (0.02, 100.0)):
        evaluator = runner.build_task(experiment(boundary_ratio=ratio)).build_evaluator()
        evaluator.update_labels("0", labels, labels)
        assert evaluator.result()["PQ_boundary"] == expected

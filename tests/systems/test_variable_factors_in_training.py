"""Factors by variable in the training of a system."""

import numpy as np
import pytest
import tensorflow as tf
from official.core import exp_factory
from small_systems import ROWS, draw_sample, make_batch, row_task, write_records

from panoptic_tf.systems import optimization, variable_factors
from panoptic_tf.systems.variable_factors import VariableFactors
from panoptic_tf.training import runner


@pytest.mark.slow
def test_a_system_learns_by_the_factors():
    """The step of SGD is proportional to the rate: a tenth of that of the rest, or none."""
    row = next(row for row in ROWS if row.system == "panoptic_fpn")
    factors = {"backbone": 0.1, "semantic": 0.0}
    rows = [VariableFactors(pattern=f"^{k}/", learning_rate=v) for k, v in factors.items()]

    task = row_task(row, row.without_norm)
    batch = make_batch(task, [draw_sample(0)])
    model = task.build_model()
    start = model.get_weights()

    def changes_of_a_step(by_variable):
        model.set_weights(start)
        tf.keras.utils.set_random_seed(1)
        trainer = optimization.trainer_config(
            train_steps=1,
            optimizer="sgd",
            optimizer_options={},
            schedule="constant",
            schedule_options={"learning_rate": 0.01},
            by_variable=by_variable,
        )
        optimizer = task.create_optimizer(trainer.optimizer_config)
        before = [v.numpy() for v in model.trainable_variables]
        task.train_step(batch, model, optimizer)
        return {
            variable_factors.name_of(v): v.numpy() - weight
            for v, weight in zip(model.trainable_variables, before)
        }

    found, plain = changes_of_a_step(rows), changes_of_a_step(())
    assert {name.split("/")[0] for name in plain} > set(factors)
    for name, change in found.items():
        factor = factors.get(name.split("/")[0], 1.0)
        np.testing.assert_allclose(change, factor * plain[name], rtol=1e-2, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_a_run_is_refused_before_it_starts(tmp_path):
    params = exp_factory.get_exp_config(ROWS[0].experiment)
    params.override({"task": ROWS[0].overrides})
    data = {"input_path": write_records(tmp_path), "global_batch_size": 1}
    params.override({"task": {"train_data": data}})
    rows = [{"pattern": "^bakbone/", "learning_rate": 0.1}]
    params.override({"trainer": {"optimizer_config": {"by_variable": rows}}})
    with pytest.raises(ValueError, match=r"pattern '\^bakbone/' matches none"):
        runner.train(params, mode="train", model_dir=str(tmp_path / "model"))
    assert tf.train.latest_checkpoint(str(tmp_path / "model")) is None

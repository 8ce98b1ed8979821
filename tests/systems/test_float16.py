"""float16, which is for GPUs, as far as a CPU can compute it."""

import numpy as np
import pytest
import shallow_network
import tensorflow as tf
from official.core import config_definitions as cfg
from official.core import train_utils
from official.modeling.optimization import ExponentialMovingAverage
from small_systems import (
    ROWS,
    draw_sample,
    get_params,
    make_batch,
    row_task,
    step_in_graph,
    write_records,
)

from panoptic_tf.systems.optimization import LossScaledMovingAverage
from panoptic_tf.training import runner

LossScaleOptimizer = tf.keras.mixed_precision.LossScaleOptimizer

# Convolutions in float16 have no gradient on a CPU where they are dilated.
_ON_CPU = {
    "panoptic_deeplab": {
        "model": {
            "aspp_dilation_rates": [1, 1, 1],
            "backbone": {"output_stride": 32, "multi_grid": None},
        }
    }
}


def take_steps(row, count, dtype, *overrides, loss_scale=None, in_graph=False):
    """Losses, model and optimiser after some steps on two images with the row's averages."""
    runtime = cfg.RuntimeConfig(mixed_precision_dtype=dtype, loss_scale=loss_scale)
    runner.set_precision(runtime)
    tf.keras.utils.set_random_seed(1)
    task = row_task(row, _ON_CPU.get(row.system, {}), *overrides)
    model = task.build_model()
    optimizer = task.create_optimizer(get_params(row.experiment).trainer.optimizer_config, runtime)
    optimizer.shadow_copy(model)
    batch = make_batch(task, [draw_sample(seed) for seed in range(2)])

    def step(*batch):
        return task.train_step(batch, model, optimizer)

    if in_graph:
        step = step_in_graph(task, model, optimizer)
    return [float(step(*batch)[task.loss]) for _ in range(count)], model, optimizer


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS[-1:], ids=lambda row: row.system)  # Of all layers.
def test_the_loss_is_scaled_and_falls(row):
    losses, model, optimizer = take_steps(row, 30, "float16", in_graph=True)
    assert isinstance(optimizer, LossScaledMovingAverage)
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.98 * losses[0], losses
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


@pytest.mark.slow
def test_losses_and_averages_follow_those_of_float32(row):
    expected, model, optimizer = take_steps(row, 3, "float32", row.without_norm)
    averages = [optimizer.get_slot(w, "average").numpy() for w in model.weights]
    # No step is skipped at a small scale that is fixed.
    losses, model, optimizer = take_steps(row, 3, "float16", row.without_norm, loss_scale=256.0)
    assert max(abs(a / b - 1) for a, b in zip(losses, expected)) < 1e-2, (losses, expected)
    for weight, average in zip(model.weights, averages):
        difference = np.abs(optimizer.get_slot(weight, "average") - average).mean()
        assert difference < 3e-2 * np.abs(average).mean() + 1e-4, weight.name


def build_averages(weight, **scaling):
    """Adam with loss scaling and averages of one weight, and a step with given gradients."""
    inner = tf.keras.optimizers.legacy.Adam(0.1)
    optimizer = LossScaledMovingAverage(LossScaleOptimizer(inner, **scaling), average_decay=0.5)
    module = tf.Module()
    module.trainable_variables_ = [weight]
    optimizer.shadow_copy(module)
    average = optimizer.get_slot(weight, "average")

    def step(gradient):
        scaled = optimizer.get_scaled_loss(gradient)
        optimizer.apply_gradients(zip(optimizer.get_unscaled_gradients([scaled]), [weight]))

    return optimizer, average, step


def values(*variables):
    return [float(tf.convert_to_tensor(variable)) for variable in variables]


def test_a_step_that_overflows_changes_neither_weight_nor_average():
    weight = tf.Variable(1.0)
    optimizer, average, step = build_averages(weight, initial_scale=2.0, dynamic_growth_steps=2)
    step = tf.function(step, autograph=False)
    scales, before = [], values(weight, average)
    for gradient in (1.0, np.inf, np.inf, np.nan, 1.0, 1.0, np.inf, 1.0):
        step(tf.constant(gradient))
        after = values(weight, average)
        is_changed = [a != b for a, b in zip(after, before)]
        assert is_changed == [bool(np.isfinite(gradient))] * 2, (gradient, scales)
        scales.append(float(optimizer._optimizer.loss_scale))
        before = after
    # It does not fall below 1; the step that raises it counts.
    assert scales == [2.0, 1.0, 1.0, 1.0, 1.0, 2.0, 1.0, 1.0]
    assert int(optimizer.iterations) == 8


def test_two_replicas_skip_a_step_together(mirrored):
    with mirrored.scope():
        weight = tf.Variable(1.0)
        optimizer, average, step = build_averages(weight)
        optimizer._create_all_weights([weight])

    def step_of_replica(gradients):
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        step(tf.gather(gradients, replica))

    run = tf.function(
        lambda gradients: mirrored.run(step_of_replica, args=(gradients,)), autograph=False
    )
    for gradients in ([1.0, 2.0], [1.0, np.inf], [np.nan, 1.0], [2.0, 3.0]):
        before = values(weight, average)
        run(tf.constant(gradients))
        is_changed = [a != b for a, b in zip(values(weight, average), before)]
        assert is_changed == [bool(np.isfinite(gradients).all())] * 2, gradients
    for variable in (weight, average):
        first, second = (float(copy) for copy in mirrored.experimental_local_results(variable))
        assert first == second
    assert float(optimizer._optimizer.loss_scale) == 2.0**13


def test_averages_of_float16_are_of_its_own_kind():
    config = get_params(ROWS[0].experiment).trainer.optimizer_config
    task = row_task(ROWS[0])

    def build(dtype):
        return task.create_optimizer(config, cfg.RuntimeConfig(mixed_precision_dtype=dtype))

    assert type(build("float32")) is type(build("bfloat16")) is ExponentialMovingAverage
    optimizer = build("float16")
    assert isinstance(optimizer, LossScaledMovingAverage)
    assert optimizer._average_decay == config.ema.average_decay == 0.999
    assert float(optimizer.learning_rate(10**6)) == float(build("float32").learning_rate(10**6))
    config.ema = None
    assert isinstance(build("float16"), LossScaleOptimizer)


def read_loss_scaling(model_dir, name):
    path = f"optimizer/ema_base_optimizer/loss_scale/{name}/.ATTRIBUTES/VARIABLE_VALUE"
    return tf.train.load_variable(model_dir, path)


@pytest.mark.slow
def test_a_training_goes_on_and_is_evaluated_with_its_averages(
    tmp_path, monkeypatch, shallow_deeplab
):
    model_dir = str(tmp_path / "model")
    # No gradient overflows at a scale of 2**15.
    losses = {"semantic_weight": 0.1, "center_weight": 1.0, "offset_weight": 1e-3}
    params = get_params("panoptic_deeplab_shapes", shallow_network.OVERRIDES, {"losses": losses})
    data = {"input_path": write_records(tmp_path), "global_batch_size": 2}
    params.override({"task": {"train_data": data, "validation_data": data}})
    params.runtime.override({"mixed_precision_dtype": "float16", "loss_scale": "dynamic"})
    params.trainer.override({"steps_per_loop": 2, "summary_interval": 2, "checkpoint_interval": 2})
    for steps in (2, 4):
        params.trainer.train_steps = steps
        runner.train(params, mode="train", model_dir=model_dir)
        # One more good step for each that is not skipped.
        assert read_loss_scaling(model_dir, "good_steps") == steps
    assert read_loss_scaling(model_dir, "current_loss_scale") == 2.0**15

    task = runner.build_task(params)
    with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        trainer = train_utils.create_trainer(params, task, train=False, evaluate=False)
        trainer.checkpoint.restore(tf.train.latest_checkpoint(model_dir)).expect_partial()
    averages = [trainer.optimizer.get_slot(w, "average").numpy() for w in trainer.model.weights]
    assert any((a != w).any() for a, w in zip(averages, trainer.model.get_weights()))

    def assert_has_averages(model):
        for weight, average in zip(model.get_weights(), averages):
            np.testing.assert_allclose(weight, average, rtol=1e-5, atol=1e-6)

    assert_has_averages(runner.load_model(params, task, checkpoint_path=model_dir))

    models, evaluated = [], []
    build_model, aggregate_logs = task.build_model, task.aggregate_logs

    def keep_model():
        models.append(build_model())
        return models[-1]

    def look(*arguments, **kwargs):
        assert_has_averages(models[-1])
        evaluated.append(arguments)
        return aggregate_logs(*arguments, **kwargs)

    monkeypatch.setattr(task, "build_model", keep_model)
    monkeypatch.setattr(task, "aggregate_logs", look)
    runner.evaluate(params, task, checkpoint_path=model_dir)
    assert evaluated

"""Optimisers of tensorflow-addons: by config, through the trainer; and a training with both."""

import math

import numpy as np
import pytest
import shallow_network
import tensorflow as tf
from official.core import config_definitions as cfg
from official.core import exp_factory
from official.modeling import optimization as official_optimization
from official.modeling import performance
from small_systems import write_records

from panoptic_tf import addons, systems  # noqa: F401  (registers the experiments)
from panoptic_tf.systems import optimization
from panoptic_tf.training import runner

LOOKAHEADS = [("Lookahead", inner) for inner in ("Adam", "SGD", "RectifiedAdam", "NovoGrad")]
CASES = [(name, None) for name in addons.OPTIMIZERS if name != "Lookahead"] + LOOKAHEADS


@pytest.fixture
def installed():
    try:
        return addons.require("this test")
    except ImportError as error:
        pytest.skip(f"needs the extra: {error}")


def optimizer_config(name, inner=None, ema=None, **fields):
    fields = {**fields, **({"inner": inner} if inner else {})}
    trainer = optimization.trainer_config(
        train_steps=100,
        optimizer=f"addons/{name}",
        optimizer_options=fields,
        schedule="constant",
        schedule_options={"learning_rate": 0.05},
        ema=ema,
    )
    return trainer.optimizer_config


def build(config):
    factory = official_optimization.OptimizerFactory(config)
    return factory.build_optimizer(factory.build_learning_rate())


class Problem:
    """Least squares in a variable of two columns and one of a row, from the same start."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.inputs = tf.constant(rng.normal(size=(16, 4)), tf.float32)
        self.wanted = tf.constant(rng.normal(size=(16, 2)), tf.float32)
        self.variables = [
            tf.Variable(rng.normal(size=(4, 2)), dtype=tf.float32, name="kernel"),
            tf.Variable(tf.zeros([2]), name="bias"),
        ]

    def loss(self):
        kernel, bias = self.variables
        return tf.reduce_mean((self.inputs @ kernel + bias - self.wanted) ** 2)

    def train(self, optimizer, steps):
        for _ in range(steps):
            with tf.GradientTape() as tape:
                loss = self.loss()
            gradients = tape.gradient(loss, self.variables)
            optimizer.apply_gradients(list(zip(gradients, self.variables)))
        return float(self.loss())


@pytest.mark.parametrize("name, inner", CASES)
def test_steps_lower_a_loss(installed, name, inner):
    problem = Problem()
    before = float(problem.loss())
    optimizer = build(optimizer_config(name, inner))
    assert isinstance(optimizer, tf.keras.optimizers.legacy.Optimizer)
    assert problem.train(optimizer, 20) < 0.98 * before
    assert int(optimizer.iterations) == 20


def test_options_and_clipping_reach_the_optimiser(installed):
    config = optimizer_config(
        "RectifiedAdam", options={"weight_decay": 0.01, "beta_1": 0.8}, global_clipnorm=2.0
    )
    settings = build(config).get_config()
    assert (settings["weight_decay"], settings["beta_1"]) == (0.01, 0.8)
    assert settings["global_clipnorm"] == 2.0


def test_lookahead_steps_back(installed):
    """Every sync_period steps the weights are halfway between where they were and came to."""
    problem, plain = Problem(), Problem()
    start = problem.variables[0].numpy()
    optimizer = build(optimizer_config("Lookahead", "SGD", options={"sync_period": 3}))
    problem.train(optimizer, 3)
    plain.train(tf.keras.optimizers.legacy.SGD(0.05), 3)
    expected = (start + plain.variables[0].numpy()) / 2
    np.testing.assert_allclose(problem.variables[0], expected, rtol=1e-5)


@pytest.mark.parametrize("name, inner", [("RectifiedAdam", None), ("Lookahead", "LAMB")])
def test_with_loss_scaling(installed, name, inner):
    problem = Problem()
    before = float(problem.loss())
    optimizer = performance.configure_optimizer(
        build(optimizer_config(name, inner)), use_float16=True, loss_scale="dynamic"
    )
    for _ in range(10):
        with tf.GradientTape() as tape:
            scaled = optimizer.get_scaled_loss(problem.loss())
        gradients = optimizer.get_unscaled_gradients(tape.gradient(scaled, problem.variables))
        optimizer.apply_gradients(list(zip(gradients, problem.variables)))
    assert float(problem.loss()) < before


@pytest.mark.parametrize("ema", [None, {"average_decay": 0.5}])
@pytest.mark.parametrize("name, inner", [("RectifiedAdam", None), ("Lookahead", "AdaBelief")])
def test_a_checkpoint_goes_on_as_if_nothing_had_been(installed, tmp_path, name, inner, ema):
    config = optimizer_config(name, inner, ema)

    def start():
        problem, optimizer = Problem(), build(config)
        if ema:
            module = tf.Module()
            module.trainable_variables_ = problem.variables
            optimizer.shadow_copy(module)
        checkpoint = tf.train.Checkpoint(variables=problem.variables, optimizer=optimizer)
        return problem, optimizer, checkpoint

    whole, uninterrupted, _ = start()
    expected = whole.train(uninterrupted, 11)
    first, optimizer, checkpoint = start()
    first.train(optimizer, 7)
    path = checkpoint.write(str(tmp_path / "ckpt"))
    second, optimizer, checkpoint = start()
    checkpoint.read(path).expect_partial()
    assert second.train(optimizer, 4) == pytest.approx(expected, rel=1e-5)
    if ema:
        one, other = uninterrupted._average_weights, optimizer._average_weights
        for average, same in zip(one, other):
            np.testing.assert_allclose(average, same, rtol=1e-5)


def test_a_config_comes_back_from_its_file():
    params = exp_factory.get_exp_config("panoptic_deeplab_shapes")
    fields = {"inner": "LAMB", "inner_options": {"weight_decay": 0.1}}
    settings = {"type": "addons/Lookahead", "addons": fields}
    params.override({"trainer": {"optimizer_config": {"optimizer": settings}}})
    read = exp_factory.get_exp_config("panoptic_deeplab_shapes")
    read.override(params.as_dict())
    assert read.as_dict() == params.as_dict()
    assert read.trainer.optimizer_config.optimizer.get().inner_options.weight_decay == 0.1


@pytest.mark.parametrize("kind", ["addons", "addons/Foo"])
def test_unknown_types_are_named(kind):
    params = exp_factory.get_exp_config("panoptic_deeplab_shapes")
    params.override({"trainer": {"optimizer_config": {"optimizer": {"type": kind}}}})
    with pytest.raises(ValueError, match=rf"optimizer\.type must .*addons/.*got '{kind}'"):
        params.trainer.optimizer_config.optimizer.get()


def test_other_optimisers_stay_as_they_are():
    settings = {"type": "sgd", "sgd": {"momentum": 0.9}}
    ours = optimization.OptimizationConfig({"optimizer": settings})
    theirs = cfg.OptimizationConfig({"optimizer": settings})
    assert ours.as_dict() == {**theirs.as_dict(), "by_variable": []}
    assert ours.optimizer.get().momentum == 0.9


@pytest.mark.parametrize(
    "inner, message", [("Lookahead", "Lookahead around Lookahead"), ("Foo", "inner must be one of")]
)
def test_what_lookahead_cannot_go_around(installed, inner, message):
    with pytest.raises(ValueError, match=message):
        addons.build_optimizer("Lookahead", learning_rate=0.1, inner=inner)


@pytest.mark.slow
def test_trains(installed, tmp_path, shallow_deeplab):
    model_dir = str(tmp_path / "model")
    params = exp_factory.get_exp_config("panoptic_deeplab_shapes")
    params.override(
        {
            "runtime": {"mixed_precision_dtype": "float32"},
            "task": {
                **shallow_network.OVERRIDES,
                "train_data": {
                    "input_path": write_records(tmp_path),
                    "global_batch_size": 2,
                    "augmentation": {"policy": "addons", "addons": {"rotation": 30.0}},
                },
            },
            "trainer": {
                "train_steps": 2,
                "steps_per_loop": 2,
                "summary_interval": 2,
                "checkpoint_interval": 2,
                "optimizer_config": {"optimizer": {"type": "addons/RectifiedAdam"}},
            },
        }
    )
    runner.train(params, mode="train", model_dir=model_dir)
    latest = tf.train.latest_checkpoint(model_dir)
    assert latest.endswith("ckpt-2")
    names = [name for name, _ in tf.train.list_variables(latest)]
    assert any("optimizer" in name and "/m/" in name for name in names)
    for name in names:
        value = tf.train.load_variable(latest, name)
        if getattr(value, "dtype", None) == np.float32:
            assert math.isfinite(float(np.abs(value).max(initial=0)))

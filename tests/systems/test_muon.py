"""Muon: its iteration, which variables take it; its steps are in test_variable_factors."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from muon_reference import orthogonalize
from official.modeling import optimization as official_optimization

from panoptic_tf.systems import muon, optimization


def build(**options):
    trainer = optimization.trainer_config(
        train_steps=100,
        optimizer="muon",
        optimizer_options=options,
        schedule="constant",
        schedule_options={"learning_rate": 0.05},
    )
    factory = official_optimization.OptimizerFactory(trainer.optimizer_config)
    return factory.build_optimizer(factory.build_learning_rate())


def variable(name, shape):
    values = np.random.default_rng(0).normal(size=shape)
    return tf.Variable(values, dtype=tf.float32, name=name)


@given(
    rows=st.integers(2, 40),
    columns=st.integers(2, 40),
    smallest=st.floats(0.02, 1.0),
    scale=st.floats(1e-8, 1e8),
    seed=st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_singular_values_come_near_1(rows, columns, smallest, scale, seed):
    rng = np.random.default_rng(seed)
    left, values, right = np.linalg.svd(rng.normal(size=(rows, columns)), full_matrices=False)
    values = rng.uniform(smallest, 1.0, size=values.shape)
    matrix = (left * values) @ right
    found = muon.orthogonalize(tf.constant(scale * matrix, tf.float32)).numpy()
    np.testing.assert_allclose(found, orthogonalize(matrix), atol=2e-4)
    singular_values = np.linalg.svd(found, compute_uv=False)
    assert singular_values.min() > 0.68 and singular_values.max() < 1.21


@pytest.mark.parametrize("shape", [(3, 5), (5, 3)])
def test_nothing_to_follow_is_no_step(shape):
    np.testing.assert_array_equal(muon.orthogonalize(tf.zeros(shape)), np.zeros(shape))


def test_what_takes_it():
    optimizer = build(exclude_from_muon=["^backbone/stem/", "predictor"])
    taken = {
        "backbone/res2/conv/kernel": (3, 3, 4, 8),
        "decoder/query/kernel": (4, 4),
    }
    others = {
        "backbone/stem/conv/kernel": (3, 3, 3, 4),  # Excluded.
        "class_predictor/kernel": (4, 5),
        "decoder/depthwise/kernel": (3, 3, 4, 1),  # One column: each channel has its own kernel.
        "decoder/depthwise_kernel": (3, 3, 4, 2),
        "decoder/query_positions": (4, 4),
        "decoder/norm/gamma": (4,),
        "decoder/bias": (4,),
    }
    for shapes, expected in ((taken, True), (others, False)):
        for name, shape in shapes.items():
            assert optimizer.takes(variable(name, shape)) == expected, name


def test_momentum_without_nesterov():
    kernel = variable("kernel", (2, 2, 3, 4))
    expected = kernel.numpy().reshape(12, 4)
    optimizer = build(nesterov=False, momentum=0.5, ns_steps=3, gradient_clip_norm=0.0)
    total = 0.0
    for seed in range(3):
        gradient = np.random.default_rng(seed).normal(size=kernel.shape).astype(np.float32)
        optimizer.apply_gradients([(tf.constant(gradient), kernel)])
        total = 0.5 * total + gradient.reshape(12, 4)
        expected = expected - 0.05 * 0.2 * np.sqrt(12) * orthogonalize(total, 3)
    np.testing.assert_allclose(kernel.numpy().reshape(12, 4), expected, rtol=1e-4, atol=1e-5)


def test_a_kernel_keeps_one_moment():
    kernel, bias = variable("kernel", (3, 4)), variable("bias", (4,))
    optimizer = build()
    optimizer._create_all_weights([kernel, bias])
    names = sorted(weight.name for weight in optimizer.weights[1:])
    assert names == ["bias/m:0", "bias/v:0", "kernel/momentum:0"]


def test_config_builds_the_same():
    optimizer = build(rms_rate=0.4, exclude_from_muon=["a"], beta_2=0.9, weight_decay_rate=0.1)
    again = muon.Muon.from_config(optimizer.get_config())
    assert again.get_config() == optimizer.get_config()
    assert (again.rms_rate, again.exclude_from_muon) == (0.4, ("a",))


def test_patterns_are_regular_expressions():
    with pytest.raises(ValueError, match=r"exclude_from_muon .* got '\(predictor'"):
        build(exclude_from_muon=["stem", "(predictor"])

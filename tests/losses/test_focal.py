import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.losses.focal import sigmoid_focal_loss


def expected_loss(x, t, alpha, gamma):
    """By the article's terms, float64."""
    p = 1.0 / (1.0 + np.exp(-x))
    entropy = -t * np.log(p) - (1 - t) * np.log(1 - p)
    p_t = p * t + (1 - p) * (1 - t)
    return (alpha * t + (1 - alpha) * (1 - t)) * (1 - p_t) ** gamma * entropy


def draw(seed=0, size=(4, 5)):
    rng = np.random.default_rng(seed)
    targets = rng.choice([0.0, 1.0, rng.random()], size)
    return rng.normal(0, 3, size), targets


def loss_and_gradient(logits, targets, **options):
    variable = tf.Variable(np.float32(logits))
    with tf.GradientTape() as tape:
        loss = sigmoid_focal_loss(variable, tf.constant(np.float32(targets)), **options)
    return loss.numpy(), tape.gradient(loss, variable).numpy()


def test_recorded(golden):
    case = golden("pfcn_focal_loss")
    options = {"alpha": float(case["alpha"]), "gamma": float(case["gamma"])}
    loss, gradient = loss_and_gradient(case["logits"], case["targets"], **options)
    np.testing.assert_allclose(loss, case["loss_thing_none"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(loss.sum(), case["loss_thing_sum"], rtol=1e-5)
    np.testing.assert_allclose(gradient, case["grad_thing"], rtol=1e-4, atol=1e-6)
    mean = loss.mean(axis=(2, 3))
    np.testing.assert_allclose(mean, case["loss_stuff_none"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(mean.sum(), case["loss_stuff_sum"], rtol=1e-5)
    np.testing.assert_allclose(gradient / 120, case["grad_stuff"], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.0])
def test_value_and_slope(alpha, gamma):
    x, t = draw()
    loss, gradient = loss_and_gradient(x, t, alpha=alpha, gamma=gamma)
    np.testing.assert_allclose(loss, expected_loss(x, t, alpha, gamma), rtol=1e-4, atol=1e-6)
    step = 1e-5
    slope = expected_loss(x + step, t, alpha, gamma) - expected_loss(x - step, t, alpha, gamma)
    np.testing.assert_allclose(gradient, slope / (2 * step), rtol=1e-4, atol=1e-6)


def test_drawn():
    # p = 1/2 everywhere, so 1 - p_t = 1/2 and CE = log 2 whatever the target: log 2 / 4 times the
    # weight, 3/4 on background, 1/4 on an object, 1/2 half way.
    loss, _ = loss_and_gradient(np.zeros(3), np.array([0.0, 1.0, 0.5]))
    np.testing.assert_allclose(loss, np.log(2) / 4 * np.array([0.75, 0.25, 0.5]), rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_certain_logits(gamma):
    x = np.array([-1e4, -90.0, 90.0, 1e4])
    for target in (0.0, 0.3, 1.0):
        loss, gradient = loss_and_gradient(x, np.full(4, target), gamma=gamma)
        assert np.isfinite(loss).all() and np.isfinite(gradient).all()
        assert (loss > -1e-6).all()
    loss, gradient = loss_and_gradient(x[:2], np.zeros(2), gamma=gamma)
    np.testing.assert_allclose(loss, 0.0, atol=1e-6)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-6)

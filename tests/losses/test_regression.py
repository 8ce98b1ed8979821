import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.losses.reduction import reduce_loss
from panoptic_tf.losses.regression import WeightedAbsoluteError, WeightedMeanSquaredError

ERRORS = {
    WeightedMeanSquaredError: lambda p, t: (p - t) ** 2,
    WeightedAbsoluteError: lambda p, t: abs(p - t),
}


def draw(seed, channels):
    rng = np.random.default_rng(seed)
    predictions, targets = rng.normal(size=(2, 3, 4, 5, channels)).astype(np.float32)
    weights = rng.choice([0.0, 1.0, 0.5], (3, 4, 5, 1)).astype(np.float32)
    return predictions, targets, weights


@pytest.mark.parametrize("layer", sorted(ERRORS, key=str))
@pytest.mark.parametrize("channels", [1, 2])
def test_against_loops(layer, channels):
    predictions, targets, weights = draw(0, channels)
    total, count = layer()(predictions, targets, weights)
    for i in range(3):
        expected, pixels = 0.0, 0.0
        for y, x in np.ndindex(4, 5):
            w = float(weights[i, y, x, 0])
            pixels += w
            for c in range(channels):
                p, t = float(predictions[i, y, x, c]), float(targets[i, y, x, c])
                expected += w * ERRORS[layer](p, t)
        np.testing.assert_allclose(total[i], expected, rtol=1e-5)
        np.testing.assert_allclose(count[i], pixels, rtol=1e-6)


@pytest.mark.parametrize("layer", sorted(ERRORS, key=str))
def test_no_weight_no_loss_and_no_nan(layer):
    predictions, targets, weights = draw(1, 2)
    variable = tf.Variable(predictions)
    with tf.GradientTape() as tape:
        loss = reduce_loss(*layer()(variable, targets, weights * 0))
    assert loss == 0.0
    np.testing.assert_array_equal(tape.gradient(loss, variable), np.zeros_like(predictions))


def test_half_precision_predictions():
    predictions, targets, weights = draw(2, 1)
    half = tf.cast(predictions, tf.bfloat16)
    total, count = WeightedAbsoluteError()(half, targets, weights)
    assert total.dtype == tf.float32 and count.dtype == tf.float32

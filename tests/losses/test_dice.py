import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.losses.dice import weighted_dice_gradients, weighted_dice_loss


def expected_loss(logits, targets, weights):
    """By loops, float64: [B, P]."""
    loss = np.zeros(weights.shape[:2])
    for b, i, j in np.ndindex(weights.shape):
        p = 1.0 / (1.0 + np.exp(-np.float64(logits[b, i, j])))
        t = np.float64(targets[b, i])
        area = max((p**2).sum() + (t**2).sum(), 1e-8)
        loss[b, i] += weights[b, i, j] * (1 - 2 * (p * t).sum() / area)
    return loss


def draw(seed=0, k=3, cells=12):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (2, 4, k, cells)).astype(np.float32)
    targets = rng.choice([0.0, 0.25, 0.5, 1.0], (2, 4, cells)).astype(np.float32)
    return logits, targets, rng.random((2, 4, k)).astype(np.float32)


def loss_and_gradients(logits, targets, weights, upstream=1.0):
    """Loss and gradients, which `weighted_dice_gradients` finds too."""
    variables = [tf.Variable(logits), tf.Variable(weights)]
    with tf.GradientTape() as tape:
        loss = weighted_dice_loss(variables[0], tf.constant(targets), variables[1])
        total = tf.reduce_sum(loss * upstream)
    gradients = [g.numpy() for g in tape.gradient(total, variables)]
    upstream = np.broadcast_to(np.float32(upstream), loss.shape)
    by_hand = weighted_dice_gradients(logits, targets, weights, upstream)
    for found, expected in zip(by_hand, gradients):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    return loss.numpy(), *gradients


def test_recorded_things(golden):
    case = golden("pfcn_weighted_dice")
    k = int(case["weighted_num"])
    raw = tf.Variable(case["weighted_val"])  # [2, 4, k], before they are divided by their sum
    logits = tf.Variable(case["thing_pred"].reshape(2, 4, k, 120))
    targets = case["target"].reshape(2, 4, 120)
    counted = case["index_mask"].reshape(2, 4)
    with tf.GradientTape() as tape:
        weights = raw / tf.maximum(tf.reduce_sum(raw, axis=-1, keepdims=True), 1e-8)
        loss = tf.reduce_sum(counted * weighted_dice_loss(logits, targets, weights))
    of_logits, of_raw = tape.gradient(loss, [logits, raw])
    np.testing.assert_allclose(loss, case["loss_thing"], rtol=1e-5)
    expected = case["grad_thing_pred"].reshape(2, 4, k, 120)
    np.testing.assert_allclose(of_logits, expected, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(of_raw, case["grad_weighted_val"], rtol=1e-4, atol=1e-6)


def test_recorded_stuff(golden):
    case = golden("pfcn_weighted_dice")
    counted = case["index_mask"].reshape(2, 4).astype(np.float32)
    logits, targets = case["stuff_pred"].reshape(2, 4, 1, 120), case["target"].reshape(2, 4, 120)
    ones = np.ones((2, 4, 1), np.float32)
    loss, gradient, _ = loss_and_gradients(logits, targets, ones, counted)
    np.testing.assert_allclose((loss * counted).sum(), case["loss_stuff"], rtol=1e-5)
    expected = case["grad_stuff_pred"].reshape(logits.shape)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("k", [1, 2, 7])
def test_value_and_slope(k):
    logits, targets, weights = draw(k=k)
    loss, of_logits, of_weights = loss_and_gradients(logits, targets, weights)
    np.testing.assert_allclose(loss, expected_loss(logits, targets, weights), rtol=1e-5)
    step = 1e-4
    for index in ((0, 0, 0, 3), (1, 2, k - 1, 7)):
        shift = np.zeros(logits.shape)
        shift[index] = step
        slope = expected_loss(logits + shift, targets, weights).sum()
        slope -= expected_loss(logits - shift, targets, weights).sum()
        np.testing.assert_allclose(of_logits[index], slope / (2 * step), rtol=1e-3, atol=1e-6)
    alone = [expected_loss(logits[:, :, [j]], targets, np.ones((2, 4, 1))) for j in range(k)]
    np.testing.assert_allclose(of_weights, np.stack(alone, axis=-1), rtol=1e-5)


def test_drawn():
    # p = 1/2 on four cells and two of them in the target: 1 - 2 * 1 / (1 + 2) = 1/3. A second mask
    # is certain and right; at equal weights they cost 1/6.
    targets = np.array([[[1.0, 1.0, 0.0, 0.0]]], np.float32)
    logits = np.zeros((1, 1, 2, 4), np.float32)
    logits[0, 0, 1] = [99.0, 99.0, -99.0, -99.0]
    loss, *_ = loss_and_gradients(logits, targets, np.full((1, 1, 2), 0.5, np.float32))
    np.testing.assert_allclose(loss, [[1 / 6]], rtol=1e-6)


def test_nothing_there_and_nothing_predicted():
    logits, targets, weights = draw()
    loss, *gradients = loss_and_gradients(logits * 0 - 1e4, targets * 0, weights)
    np.testing.assert_allclose(loss, weights.sum(-1), rtol=1e-6)
    assert all(np.isfinite(g).all() for g in gradients)


def test_no_objects():
    logits, targets, weights = draw()
    loss, *gradients = loss_and_gradients(logits[:, :0], targets[:, :0], weights[:, :0])
    assert loss.shape == (2, 0) and all(g.size == 0 for g in gradients)


def test_unknown_number_of_objects():
    function = tf.function(
        weighted_dice_loss,
        input_signature=[
            tf.TensorSpec([None, None, 3, 12]),
            tf.TensorSpec([None, None, 12]),
            tf.TensorSpec([None, None, 3]),
        ],
    )
    arrays = draw(4)
    np.testing.assert_allclose(function(*arrays), expected_loss(*arrays), rtol=1e-5)

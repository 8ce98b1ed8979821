import numpy as np
import pytest
import tensorflow as tf

from layers import recorded_weights
from panoptic_tf.layers import fpn, resize, semantic_fpn


def _levels(sizes, channels=4):
    return {
        str(level): tf.random.stateless_normal([1, *size, channels], seed=(0, level))
        for level, size in sizes.items()
    }


def test_top_down_sum_doubles_cells():
    # Identity convolutions: P3 = C3, P2 = C2 + C3 with each cell repeated 2x2.
    layer = fpn.FPN(1, min_level=2, max_level=3, kernel_initializer=_identity)
    c3 = tf.reshape([1.0, 2.0], [1, 1, 2, 1])
    outputs = layer({"2": tf.zeros([1, 2, 4, 1]), "3": c3})
    np.testing.assert_array_equal(outputs["3"][0, :, :, 0], [[1, 2]])
    np.testing.assert_array_equal(outputs["2"][0, :, :, 0], [[1, 1, 2, 2]] * 2)


def _identity(shape, dtype=None):
    kernel = np.zeros(shape, np.float32)
    kernel[shape[0] // 2, shape[1] // 2] = np.eye(*shape[2:])
    return tf.constant(kernel, dtype)


def test_extra_levels():
    sizes = {2: (32, 24), 3: (16, 12), 4: (8, 6), 5: (4, 3)}
    pooled = fpn.FPN(8, extra_levels="max_pool")(_levels(sizes))
    assert list(pooled) == ["2", "3", "4", "5", "6"]
    np.testing.assert_array_equal(pooled["6"], pooled["5"][:, ::2, ::2])

    layer = fpn.FPN(8, extra_levels="convolutions")
    outputs = layer(_levels(sizes))
    assert [outputs[k].shape[1:3] for k in "567"] == [(4, 3), (2, 2), (1, 1)]
    # P6 has no ReLU; P7 comes from ReLU(P6).
    assert np.min(outputs["6"]) < 0
    expected = layer.extras[1](tf.nn.relu(layer.extras[0](outputs["5"])))
    np.testing.assert_allclose(outputs["7"], expected, atol=1e-6)


def test_odd_sizes_and_names(mixed_bfloat16):
    names = []
    for _ in range(2):
        inputs = {str(k): tf.keras.Input([*s, 4]) for k, s in {2: (5, 7), 3: (3, 4)}.items()}
        outputs = fpn.FPN(8, max_level=3, name="fpn")(inputs)
        assert outputs["2"].shape == (None, 5, 7, 8) and outputs["2"].dtype == tf.bfloat16
        model = tf.keras.Model(inputs, outputs)
        names.append([v.name for v in model.trainable_variables])
    assert names[0] == names[1]
    assert set(names[0]) == {
        f"fpn/{part}_{level}/conv/{kind}:0"
        for part in ("lateral", "output")
        for level in (2, 3)
        for kind in ("kernel", "bias")
    }


def test_gradients_in_mixed_precision(mixed_bfloat16):
    layer = fpn.FPN(8, extra_levels="convolutions")
    sizes = {2: (9, 6), 3: (5, 3), 4: (3, 2), 5: (2, 1)}
    with tf.GradientTape() as tape:
        outputs = layer(_levels(sizes), training=True)
        loss = tf.add_n(
            [tf.reduce_sum(tf.square(tf.cast(x, tf.float32))) for x in outputs.values()]
        )
    assert all(g is not None for g in tape.gradient(loss, layer.trainable_variables))


def test_bad_pyramids_are_refused():
    with pytest.raises(ValueError, match="needs level.s. 4, 5"):
        fpn.FPN(8)(_levels({2: (8, 8), 3: (4, 4)}))
    with pytest.raises(ValueError, match="levels that halve.*output_stride 32"):
        fpn.FPN(8, max_level=3)(_levels({2: (8, 8), 3: (8, 8)}))
    with pytest.raises(ValueError, match="extra_levels"):
        fpn.FPN(8, extra_levels="p6p7")


def test_semantic_branch_equals_the_recorded_one(golden):
    case = golden("sem_seg_fpn_head")
    features = {str(k): recorded_weights.nhwc(case[f"p{k}"]) for k in (2, 3, 4, 5)}
    layer = semantic_fpn.SemanticFPN(64, num_classes=6, name="semantic_fpn")
    layer(features)
    modules = {
        f"level_{k}_{i}": f"p{k}.{2 * i}" for k in (2, 3, 4, 5) for i in range(max(1, k - 2))
    }
    recorded_weights.assign(layer, recorded_weights.weights_of(case), modules)
    logits = layer(features)
    np.testing.assert_allclose(
        logits, recorded_weights.nhwc(case["logits_s4"]), rtol=1e-5, atol=1e-5
    )
    logits = resize.resize_bilinear(logits, case["logits"].shape[-2:])
    scale = np.abs(case["logits"]).max()
    assert np.abs(logits - recorded_weights.nhwc(case["logits"])).max() < 1e-5 * scale
    labels = case["labels"]
    valid = labels != 255
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(np.where(valid, labels, 0), logits)
    loss = case["loss_weight"] * losses.numpy()[valid].mean()
    np.testing.assert_allclose(loss, case["loss_sem_seg"], rtol=1e-5)


def test_semantic_branch_without_predictor_on_odd_sizes(mixed_bfloat16):
    sizes = {2: (9, 6), 3: (5, 3), 4: (3, 2), 5: (2, 1)}
    y = semantic_fpn.SemanticFPN(32)(_levels(sizes))
    assert y.shape == (1, 9, 6, 32) and y.dtype == tf.bfloat16
    logits = semantic_fpn.SemanticFPN(32, num_classes=3)(_levels(sizes))
    assert logits.shape == (1, 9, 6, 3) and logits.dtype == tf.float32

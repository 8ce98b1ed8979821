import numpy as np
import pytest
import tensorflow as tf

from layers import recorded_weights
from panoptic_tf.layers import aspp

_MODULES = {"pool": "convs.4.1", "project": "project"}
for _i in range(4):
    _MODULES[f"branch_{_i}"] = f"convs.{_i}"
    for _part in ("depthwise", "pointwise"):
        _MODULES[f"branch_{_i}/{_part}"] = f"convs.{_i}.{_part}"


@pytest.mark.parametrize(
    "block, separable, pool_size", [("aspp", True, None), ("aspp_pool", False, (4, 5))]
)
def test_aspp_equals_the_recorded_one(golden, block, separable, pool_size):
    blocks = golden("blocks")
    x = recorded_weights.nhwc(blocks[f"{block}/x"])
    layer = aspp.ASPP(
        8, dilation_rates=(2, 4, 6), use_separable_conv=separable, pool_size=pool_size, name=block
    )
    layer(x)
    recorded_weights.assign(layer, recorded_weights.weights_of(blocks, block + "/"), _MODULES)
    expected = recorded_weights.nhwc(blocks[f"{block}/y"])
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_pooling_window_must_fit():
    layer = aspp.ASPP(8, pool_size=(4, 4))
    with pytest.raises(ValueError, match=r"pool_size \(4, 4\) does not fit.*\(3, 5\)"):
        layer(tf.zeros([1, 3, 5, 8]))


def test_every_variable_has_a_gradient(mixed_bfloat16):
    layer = aspp.ASPP(8, use_separable_conv=True, pool_norm="batch", dropout_rate=0.0)
    x = tf.random.stateless_normal([2, 4, 4, 8], seed=(0, 1))
    with tf.GradientTape() as tape:
        y = layer(x, training=True)
        loss = tf.reduce_sum(tf.square(tf.cast(y, tf.float32)))
    assert y.dtype == tf.bfloat16
    assert all(g is not None for g in tape.gradient(loss, layer.trainable_variables))


def test_names_do_not_depend_on_what_was_built_before():
    names = []
    for _ in range(2):
        inputs = tf.keras.Input([8, 8, 4])
        model = tf.keras.Model(inputs, aspp.ASPP(8, name="aspp")(inputs))
        names.append(sorted(v.name for v in model.trainable_variables))
    assert names[0] == names[1]
    assert names[0][:3] == [
        "aspp/branch_0/conv/kernel:0",
        "aspp/branch_0/norm/beta:0",
        "aspp/branch_0/norm/gamma:0",
    ]
    assert "aspp/pool/conv/bias:0" in names[0]

import builtin_tflite
import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.backbones import factory
from panoptic_tf.ops import forms

# With fewer channels, gradients of oneDNN in TensorFlow 2.15 corrupt memory on one CPU.
_TINY = {"num_blocks": (1, 2, 1, 1), "widths": (16, 16, 16, 16), "stem_width": 16}


def build(name="resnet", **options):
    backbone = factory.build_backbone(name, **options)
    backbone(tf.keras.Input([32, 32, 3]))
    return backbone


def shapes(backbone):
    return {v.name.split(":")[0]: tuple(v.shape) for v in backbone.variables}


@pytest.mark.parametrize("version, per_tap", [(1, 2), (2, 3)])
@pytest.mark.parametrize("stages", [(3, 4, 5), (5,)])
def test_only_offsets_are_added(version, per_tap, stages):
    plain = shapes(build(**_TINY))
    deformable = shapes(build(deformable_stages=stages, deformable_version=version, **_TINY))
    channels = 9 * per_tap  # of the offset convolution
    expected = {}
    for name, shape in plain.items():
        if name.endswith("conv2/conv/kernel") and int(name[len("backbone/res")]) in stages:
            offset = name[: -len("kernel")] + "offset/"
            expected[offset + "kernel"] = (3, 3, shape[2], channels)
            expected[offset + "bias"] = (channels,)
    assert len(expected) == {(3, 4, 5): 8, (5,): 2}[stages]
    assert deformable == {**plain, **expected}


@pytest.mark.slow
def test_parameters_of_a_deformable_resnet101():
    backbone = build("resnet101", deformable_stages=[3, 4, 5])
    # The 3x3 of 4 blocks of 128 channels, 23 of 256, 3 of 512: 3 * 3 * C * 27 + 27 each.
    offsets = sum(count * (9 * width * 27 + 27) for count, width in ((4, 128), (23, 256), (3, 512)))
    total = sum(int(np.prod(v.shape)) for v in backbone.trainable_variables)
    assert total == 42_500_160 + offsets


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
@pytest.mark.parametrize("options", [{}, {"output_stride": 8, "norm": "frozen_batch"}])
def test_version_1_starts_as_the_ordinary_network(block, options):
    options = {"block": block, **_TINY, **options}
    backbones = [
        build(**options),
        build(deformable_stages=(2, 3, 5), deformable_version=1, **options),
    ]
    values = {v.name: v for v in backbones[0].variables}
    for variable in backbones[1].variables:
        if "offset" not in variable.name:
            variable.assign(values[variable.name])
    x = tf.random.stateless_normal([1, 32, 41, 3], seed=(0, 1))
    plain, deformable = (backbone(x) for backbone in backbones)
    for level in "2345":
        np.testing.assert_allclose(deformable[level], plain[level], atol=1e-4)


def randomize_offsets(backbone):
    rng = np.random.default_rng(0)
    for variable in backbone.variables:
        if "offset" in variable.name:
            variable.assign(rng.normal(0.0, 0.2, variable.shape))


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_every_trainable_variable_has_a_gradient(block):
    backbone = build(block=block, deformable_stages=[3, 4, 5], **_TINY)
    randomize_offsets(backbone)
    x = tf.random.stateless_normal([2, 32, 32, 3], seed=(0, 1))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(backbone(x, training=True)["5"]))
    for variable, gradient in zip(
        backbone.trainable_variables, tape.gradient(loss, backbone.trainable_variables)
    ):
        assert gradient is not None and np.isfinite(gradient).all(), variable.name


@pytest.mark.slow
def test_converts_with_builtin_operators_only():
    backbone = build(deformable_stages=(3, 5), **_TINY)
    randomize_offsets(backbone)

    @tf.function(input_signature=[tf.TensorSpec([1, 64, 64, 3])])
    def function(x):
        with forms.use(forms.Form.TFLITE):
            return backbone(x, training=False)["5"]

    x = np.random.default_rng(0).normal(size=[1, 64, 64, 3]).astype(np.float32)
    (result,) = builtin_tflite.runner(function.get_concrete_function(), backbone)(x=x).values()
    np.testing.assert_allclose(result, backbone(x)["5"], atol=1e-4)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"deformable_stages": (1, 2)}, r"among 2, 3, 4, 5 .* got \(1, 2\) and 2"),
        ({"deformable_version": 3}, "deformable_version 1 or 2"),
        ({"deformable_stages": (5,), "groups": 32}, "got groups 32 with deformable_stages"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        factory.build_backbone("resnet50", **options)

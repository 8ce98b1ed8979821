import numpy as np
import pytest
import tensorflow as tf
from layers import recorded_weights

from panoptic_tf.backbones import factory, resnet

_NORM = {"norm": "batch", "norm_momentum": 0.9, "norm_epsilon": 1e-5}
_TINY = {"num_blocks": (1, 1, 1, 3), "widths": (4, 4, 8, 8), "stem_width": 4}


@pytest.mark.parametrize("name, in_1x1", [("bottleneck_msra", True), ("bottleneck_3x3", False)])
def test_bottleneck_equals_the_recorded_one(golden, name, in_1x1):
    layer = resnet.BottleneckBlock(
        4, strides=2, has_projection=True, stride_in_1x1=in_1x1, norm_options=_NORM, name=name
    )
    _compare(golden("blocks"), name, layer)


@pytest.mark.parametrize(
    "name, kind, width", [("basic_stem", "basic", 8), ("deeplab_stem", "deep", 4)]
)
def test_stem_equals_the_recorded_one(golden, name, kind, width):
    _compare(golden("blocks"), name, resnet.Stem(kind, width=width, norm_options=_NORM, name=name))


def _compare(blocks, name, layer):
    x = recorded_weights.nhwc(blocks[f"{name}/x"])
    layer(x)
    recorded_weights.assign(layer, recorded_weights.weights_of(blocks, name + "/"), {})
    expected = recorded_weights.nhwc(blocks[f"{name}/y"])
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-5)


def _parameters(name):
    backbone = factory.build_backbone(name)
    inputs = tf.keras.Input([32, 32, 3])
    backbone(inputs)
    return sum(int(np.prod(v.shape)) for v in backbone.trainable_variables)


def test_parameters_of_resnet52():
    assert _parameters("resnet52") == 23_631_808


@pytest.mark.slow
def test_parameters_of_the_family():
    # The known sizes of the ImageNet classifiers without their last layer.
    assert _parameters("resnet18") == 11_176_512
    assert _parameters("resnet34") == 21_284_672
    assert _parameters("resnet50") == 23_508_032
    assert _parameters("resnet101") == 42_500_160
    assert _parameters("resnet152") == 58_143_808
    assert _parameters("resnext50") == 22_979_904
    assert _parameters("resnext101") == 86_742_336
    assert _parameters("resnext101_64x4d") == 81_406_272
    assert _parameters("resnext152") == 120_323_392


def test_groups_widen_the_bottleneck():
    # ResNeXt-50 32x4d: 32 groups of 4 channels in stage 2, 32 groups of 32 in stage 5.
    backbone = factory.build_backbone("resnext50", num_blocks=(1, 1, 1, 1))
    outputs = backbone(tf.zeros([1, 32, 32, 3]))
    shapes = {v.name: tuple(v.shape) for v in backbone.variables if "kernel" in v.name}
    assert shapes["backbone/res2_0/conv1/conv/kernel:0"] == (1, 1, 64, 128)
    assert shapes["backbone/res2_0/conv2/conv/kernel:0"] == (3, 3, 4, 128)
    assert shapes["backbone/res5_0/conv2/conv/kernel:0"] == (3, 3, 32, 1024)
    assert shapes["backbone/res5_0/conv3/conv/kernel:0"] == (1, 1, 1024, 2048)
    assert [outputs[k].shape[-1] for k in "2345"] == [256, 512, 1024, 2048]
    wide = {"groups": 2, "width_per_group": 8, **_TINY, "widths": (8, 8, 16, 16)}
    backbone = factory.build_backbone("resnet", **wide)
    assert [stage[0].convs[1].conv.filters for stage in backbone.stages] == [2, 2, 4, 4]


@pytest.mark.parametrize(
    "output_stride, sizes", [(32, (12, 6, 3, 2)), (16, (12, 6, 3, 3)), (8, (12, 6, 6, 6))]
)
def test_output_strides(output_stride, sizes):
    backbone = factory.build_backbone("resnet", output_stride=output_stride, **_TINY)
    outputs = backbone(tf.zeros([1, 48, 41, 3]))
    assert [outputs[k].shape[1] for k in "2345"] == list(sizes)
    assert {k: v.shape[-1] for k, v in outputs.items()} == backbone.output_channels
    assert backbone.output_channels == {"2": 16, "3": 16, "4": 32, "5": 32}
    assert backbone.output_strides["5"] == output_stride
    assert outputs["2"].shape[2] == 11  # ceil(41 / 4)


def test_multi_grid_multiplies_the_dilation():
    backbone = factory.build_backbone("resnet", output_stride=16, multi_grid=(1, 2, 4), **_TINY)
    dilations = [block.convs[1].conv.dilation_rate for block in backbone.stages[3]]
    assert dilations == [2, 4, 8]
    assert backbone.stages[2][0].convs[1].conv.dilation_rate == 1


@pytest.mark.parametrize("frozen_stages, frozen", [(0, set()), (2, {"stem", "res2_0"})])
def test_frozen_stages(frozen_stages, frozen):
    backbone = factory.build_backbone("resnet", frozen_stages=frozen_stages, **_TINY)
    x = tf.random.stateless_normal([2, 32, 32, 3], seed=(0, 1))
    backbone(x)
    before = {v.name: v.numpy() for v in backbone.variables}
    backbone(x, training=True)
    parts = {v.name.split("/")[1] for v in backbone.variables}
    trained = {v.name.split("/")[1] for v in backbone.trainable_variables}
    moved = {
        v.name.split("/")[1] for v in backbone.variables if (before[v.name] != v).numpy().any()
    }
    assert parts - trained == frozen
    assert moved == trained  # running statistics stand still in frozen stages


def test_a_stem_without_pooling_leaves_the_stride_to_stage_2():
    backbone = factory.build_backbone("resnet", has_pooling=False, **_TINY)
    features = backbone(tf.zeros([1, 65, 97, 3]))
    assert {k: tuple(x.shape[1:3]) for k, x in features.items()} == {
        **{"2": (17, 25), "3": (9, 13)},
        **{"4": (5, 7), "5": (3, 4)},
    }
    assert backbone.stages[0][0].convs[1]._conv_options["strides"] == 2


def test_dilated_it_may_be_the_strided_network_at_every_cell():
    options = {**_TINY, "widths": (4, 4, 8, 16), "dilates_first_blocks": False}
    strided = factory.build_backbone("resnet", **options)
    dilated = factory.build_backbone("resnet", output_stride=16, **options)
    image = tf.random.stateless_normal([1, 65, 65, 3], seed=(0, 1))
    expected = strided(image)["5"]
    dilated(image)
    for variable, value in zip(dilated.weights, strided.weights):
        variable.assign(value)
    found = dilated(image)["5"]
    np.testing.assert_allclose(found[:, ::2, ::2], expected, atol=1e-5)


def test_names_are_stable_and_unique():
    names = []
    for _ in range(2):
        inputs = tf.keras.Input([32, 32, 3])
        backbone = factory.build_backbone("resnet", block="basic", stem="deep", **_TINY)
        model = tf.keras.Model(inputs, backbone(inputs))
        names.append([v.name for v in model.variables])
    assert names[0] == names[1] and len(set(names[0])) == len(names[0])
    assert {name.rsplit("/", 2)[0] for name in names[0]} == {
        *(f"backbone/stem/conv{i}" for i in (1, 2, 3)),
        *(f"backbone/res{s}_0/conv{i}" for s in (2, 3, 4, 5) for i in (1, 2)),
        *(f"backbone/res5_{b}/conv{i}" for b in (1, 2) for i in (1, 2)),
        *(f"backbone/res{s}_0/shortcut" for s in (2, 3, 4)),
        "backbone/res5_0/shortcut",
    }


@pytest.mark.parametrize("norm", ["batch", "frozen_batch", "group"])
def test_every_trainable_variable_has_a_gradient(norm, mixed_bfloat16):
    options = {**_TINY, "widths": (32, 32, 32, 32), "stem_width": 32}
    backbone = factory.build_backbone("resnet", block="basic", norm=norm, **options)
    x = tf.random.stateless_normal([2, 32, 32, 3], seed=(0, 1))
    with tf.GradientTape() as tape:
        outputs = backbone(x, training=True)
        loss = tf.reduce_sum(tf.square(tf.cast(outputs["5"], tf.float32)))
    assert outputs["5"].dtype == tf.bfloat16
    assert all(g is not None for g in tape.gradient(loss, backbone.trainable_variables))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"output_stride": 4}, "output_stride must be 8, 16 or 32, got 4"),
        ({"multi_grid": (1, 2)}, "multi_grid must hold one dilation"),
        ({"frozen_stages": 6}, "frozen_stages must be 0 to 5, got 6"),
        ({"depth": 50}, "no option depth"),
        ({"stem": "patchify"}, "stem must be"),
        ({"block": "next"}, "block must be one of basic, bottleneck"),
        ({"widths": (8, 8)}, "four positive numbers"),
        ({"groups": 2, "block": "basic"}, "groups belong to bottleneck blocks"),
        ({"width_per_group": 3, "widths": (8, 8, 8, 8)}, "multiples of 64"),
        ({"norm": "bn"}, "norm must be one of"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        factory.build_backbone("resnet50", **options)

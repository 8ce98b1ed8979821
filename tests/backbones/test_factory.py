import functools

import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.backbones import factory


def _run(backbone, size=64):
    inputs = tf.keras.Input([size, size, 3])
    model = tf.keras.Model(inputs, backbone(inputs))
    return model, model(np.zeros([1, size, size, 3], np.float32))


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match="Unknown backbone 'resnet51'; known: .*resnet52"):
        factory.build_backbone("resnet51")


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="'resnet50' is registered already"):
        factory.register_backbone("resnet50")


def test_official_names_are_stable_whatever_was_built_before():
    names = []
    for _ in range(2):
        tf.keras.layers.Conv2D(1, 1)  # takes a number of Keras's process-wide count
        backbone = factory.build_backbone("mobilenetv3_small", output_stride=16)
        model, outputs = _run(backbone)
        names.append([v.name for v in model.variables])
    assert names[0] == names[1] and len(set(names[0])) == len(names[0])
    assert names[0][0] == "backbone/conv2dbn_block/conv2d/kernel:0"
    # With output stride 16 the last two stages are at 1/16.
    assert {k: v.shape[1:] for k, v in outputs.items()} == {
        "2": (16, 16, 16),
        "3": (8, 8, 24),
        "4": (4, 4, 48),
        "5": (4, 4, 96),
    }
    assert backbone.output_strides == {"2": 4, "3": 8, "4": 16, "5": 16}
    assert backbone.output_channels == {"2": 16, "3": 24, "4": 48, "5": 96}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, options, strides",
    [
        ("mobilenetv1", {}, [4, 8, 16, 32]),
        ("mobilenetv2", {}, [4, 8, 16, 32]),
        ("mobilenetv1", {"output_stride": 16}, [4, 8, 16, 16]),
        ("mobilenetv2", {"output_stride": 8}, [4, 8, 8, 8]),
        ("mobilenetv3_large", {}, [4, 8, 16, 32]),
        ("mobilenetv3_edgetpu", {}, [4, 8, 16, 32]),
        ("mobiledet_cpu", {}, [4, 8, 16, 32]),
        ("efficientnet_b0", {"norm": "sync_batch"}, [4, 8, 16, 32]),
        ("efficientnet_b0", {"output_stride": 8, "se_ratio": 0.25}, [4, 8, 8, 8]),
        ("efficientnet_lite0", {"output_stride": 16}, [4, 8, 16, 16]),
        ("official_resnet18", {}, [4, 8, 16, 32]),
        ("official_resnet18", {"padding": "symmetric"}, [4, 8, 16, 32]),
        ("dilated_resnet50", {"output_stride": 16}, [4, 8, 16, 16]),
        ("dilated_resnet50", {"output_stride": 8, "last_stage_repeats": 2}, [4, 8, 8, 8]),
        ("spinenet_49s", {"input_size": (64, 64)}, [4, 8, 16, 32]),
    ],
)
def test_official_families_run_and_train(name, options, strides):
    backbone = factory.build_backbone(name, **options)
    _, outputs = _run(backbone)
    levels = sorted(outputs)
    assert levels[-1] == "5"
    assert [64 // outputs[k].shape[1] for k in levels] == strides
    assert [backbone.output_strides[k] for k in levels] == strides
    assert [backbone.output_channels[k] for k in levels] == [outputs[k].shape[-1] for k in levels]
    names = [v.name for v in backbone.variables]
    assert len(set(names)) == len(names) and all(n.startswith("backbone/") for n in names)
    x = tf.random.stateless_normal([2, 64, 64, 3], seed=(0, 1))
    with tf.GradientTape() as tape:
        outputs = backbone(x, training=True)
        loss = tf.add_n([tf.reduce_sum(tf.square(y)) for y in outputs.values()])
    variables = backbone.trainable_variables
    gradients = tape.gradient(loss, variables)
    assert [v.name for v, g in zip(variables, gradients) if g is None] == []


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("mobilenetv2", {"norm": "group"}, "norm must be one of batch, frozen_batch"),
        ("official_resnet50", {"output_stride": 16}, "output_stride must be 32 for"),
        ("mobilenetv2", {"frozen_stages": 6}, "frozen_stages must be 0 to 5, got 6"),
        ("mobilenetv2", {"padding": "valid"}, "padding must be one of same, symmetric"),
        ("mobilenetv2", {"se_inner_activation": "swish"}, "'mobilenetv2'.*se_inner_activation"),
        ("mobilenetv2", {"multi_grid": (1, 2, 4)}, "belong to our ResNets"),
        ("spinenet_49", {}, "needs input_size"),
        ("mobilenetv2", {"depth": 3}, "'mobilenetv2'.*depth"),
    ],
)
def test_what_official_backbones_cannot_do_is_said(name, options, message):
    with pytest.raises(ValueError, match=message):
        factory.build_backbone(name, **options)


_SMALL = {"filter_size_scale": 0.25}  # of MobileNets
_MOBILENETS = [pytest.param("mobilenetv2", marks=pytest.mark.slow), "mobilenetv3_small"]


@functools.cache
def _small(name):
    """A backbone that tests leave as it is."""
    return factory.build_backbone(name, **_SMALL)


def _parameters(model):
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


@pytest.mark.slow
def test_parameters_of_official_families():
    # Without the classifier's last layer: timm 1.0.31, `create_model(name, num_classes=0)` of
    # mobilenetv2_100, mobilenetv3_large_100, mobilenetv3_small_100, efficientnet_b0 and
    # tf_efficientnet_lite0.
    se = {"se_ratio": 0.25}
    for name, options, parameters in (
        ("mobilenetv2", {}, 2_223_872),
        ("mobilenetv3_large", {}, 4_202_032),
        ("mobilenetv3_small", {}, 1_517_856),
        ("efficientnet_b0", se, 4_007_548),
        ("efficientnet_lite0", {}, 3_371_008),
    ):
        assert _parameters(factory.build_backbone(name, **options).source_model) == parameters


@pytest.mark.parametrize("name", _MOBILENETS)
def test_levels_before_the_cut_are_those_of_the_strided_network(name):
    strided = _small(name)
    dilated = factory.build_backbone(name, output_stride=16, **_SMALL)
    dilated.set_weights(strided.get_weights())
    x = tf.random.stateless_normal([1, 65, 97, 3], seed=(0, 1))
    expected, outputs = strided(x), dilated(x)
    for level in "234":
        np.testing.assert_allclose(outputs[level], expected[level], rtol=1e-5, atol=1e-5)
    assert outputs["5"].shape[1:] == (5, 7, expected["5"].shape[-1])


@pytest.mark.parametrize("output_stride", [pytest.param(16, marks=pytest.mark.slow), 8])
def test_dilated_efficientnet_is_strided_read_at_more_cells(output_stride):
    options = {"padding": "symmetric", "stochastic_depth_drop_rate": 0.0}
    strided = factory.build_backbone("efficientnet_lite0", **options)
    dilated = factory.build_backbone("efficientnet_lite0", output_stride=output_stride, **options)
    dilated.set_weights(strided.get_weights())
    assert [v.name for v in dilated.variables] == [v.name for v in strided.variables]
    x = tf.random.stateless_normal([1, 64, 96, 3], seed=(0, 1))
    expected, outputs = strided(x), dilated(x)
    for level, stride in zip("2345", (4, 8, 16, 32)):
        step = max(1, stride // output_stride)
        scale = float(tf.reduce_max(tf.abs(expected[level])))
        np.testing.assert_allclose(
            outputs[level][:, ::step, ::step] / scale, expected[level] / scale, atol=1e-4
        )


@pytest.mark.parametrize("name", _MOBILENETS)
def test_symmetric_padding_is_same_padding_at_odd_sizes(name):
    same = _small(name)
    symmetric = factory.build_backbone(name, padding="symmetric", **_SMALL)
    symmetric.set_weights(same.get_weights())
    assert [v.name for v in symmetric.variables] == [v.name for v in same.variables]
    for size, is_equal in (((65, 97), True), ((64, 96), False)):
        x = tf.random.stateless_normal([1, *size, 3], seed=(0, 1))
        expected, outputs = same(x), symmetric(x)
        for level in "2345":
            assert outputs[level].shape == expected[level].shape
            scale = float(tf.reduce_max(tf.abs(expected[level])))
            assert np.allclose(outputs[level], expected[level], atol=1e-4 * scale) == is_equal


def _train_once(backbone):
    """Names of the variables that one step of gradient descent changes."""
    x = tf.random.stateless_normal([2, 64, 64, 3], seed=(0, 1))
    before = {v.name: v.numpy() for v in backbone.variables}
    with tf.GradientTape() as tape:
        outputs = backbone(x, training=True)
        loss = tf.add_n([tf.reduce_mean(tf.square(y - 1.0)) for y in outputs.values()])
    variables = backbone.trainable_variables
    for variable, gradient in zip(variables, tape.gradient(loss, variables)):
        variable.assign_sub(0.1 * gradient)
    return {v.name for v in backbone.variables if (before[v.name] != v).numpy().any()}


def _keys(backbone, folder):
    path = tf.train.Checkpoint(backbone=backbone).write(str(folder / "checkpoint"))
    return dict(tf.train.list_variables(path))


def test_frozen_norms_of_official_backbones(tmp_path):
    plain = _small("mobilenetv3_small")
    frozen = factory.build_backbone("mobilenetv3_small", norm="frozen_batch", **_SMALL)
    assert sorted(v.name for v in frozen.variables) == sorted(v.name for v in plain.variables)
    assert _keys(frozen, tmp_path) == _keys(plain, tmp_path)
    norms = ("/gamma:0", "/beta:0", "/moving_mean:0", "/moving_variance:0")
    moved = _train_once(frozen)
    assert moved and not any(name.endswith(norms) for name in moved)
    assert moved <= {v.name for v in frozen.trainable_variables}
    x = tf.random.stateless_normal([2, 64, 64, 3], seed=(0, 1))
    np.testing.assert_allclose(frozen(x, training=True)["5"], frozen(x, training=False)["5"])


# Of the 11 blocks, 1, 3, 8 and 11 lead to levels 2 to 5, none to the stem.
@pytest.mark.parametrize("frozen_stages, blocks", [(1, 0), (3, 3), (5, 11)])
def test_frozen_stages_of_official_backbones(frozen_stages, blocks, tmp_path):
    options = {"frozen_stages": frozen_stages, "output_stride": 16, **_SMALL}
    backbone = factory.build_backbone("mobilenetv3_small", **options)
    assert _keys(backbone, tmp_path) == _keys(_small("mobilenetv3_small"), tmp_path)
    block = "backbone/inverted_bottleneck_block"
    names = [block if i == 0 else f"{block}_{i}" for i in range(blocks)]
    frozen = tuple(f"{name}/" for name in ("backbone/conv2dbn_block", *names))
    moved = _train_once(backbone)
    everything = {v.name for v in backbone.variables}
    assert not any(name.startswith(frozen) for name in moved)
    statistics = {name for name in everything if "/moving_" in name}
    trained = {v.name for v in backbone.trainable_variables}
    assert trained == {n for n in everything - statistics if not n.startswith(frozen)}
    assert {n for n in statistics if not n.startswith(frozen)} <= moved


def test_the_source_model_reads_checkpoints_of_official_vision(tmp_path):
    from official.vision.modeling.backbones import mobilenet

    @tf.autograph.experimental.do_not_convert  # ten times faster
    def build():
        return mobilenet.MobileNet("MobileNetV3Small", filter_size_scale=0.25)

    source = build()
    path = tf.train.Checkpoint(backbone=source).write(str(tmp_path / "official"))
    options = {"output_stride": 16, "padding": "symmetric", "norm": "frozen_batch"}
    options["norm_epsilon"] = 1e-3
    backbone = factory.build_backbone("mobilenetv3_small", **options, **_SMALL)
    reader = tf.train.Checkpoint(backbone=backbone.source_model)
    reader.read(path).assert_existing_objects_matched().assert_consumed()
    x = tf.random.stateless_normal([1, 65, 97, 3], seed=(0, 1))
    outputs, expected = backbone(x), source(x)
    for level in "23":  # before the cut; at an odd size both pad alike
        np.testing.assert_allclose(outputs[level], expected[level], rtol=1e-4, atol=1e-5)
    # The last two convolutions are the classifier's, and no part of the backbone.
    assert len(backbone.source_model.variables) > len(backbone.variables)
    assert not {id(m) for m in backbone.submodules} & {id(backbone.source_model)}
    assert len(backbone.variables) == len(_keys(backbone, tmp_path)) - 1  # and the object graph


@pytest.mark.slow
def test_wide_resnets():
    # The known sizes of the ImageNet classifiers without their last layer.
    for name, parameters in (("wide_resnet50", 66_834_240), ("wide_resnet101", 124_837_696)):
        backbone = factory.build_backbone(name)
        backbone(tf.keras.Input([32, 32, 3]))
        assert _parameters(backbone) == parameters
        assert list(backbone.output_channels.values()) == [256, 512, 1024, 2048]

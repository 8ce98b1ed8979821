"""Checkpoints of TensorFlow's panoptic models: their names, translated, are our variables."""

import library_backbones
import numpy as np
import pytest
import tensorflow as tf
from official.core import exp_factory
from official.vision.modeling import backbones as official_backbones

from panoptic_tf import checkpoints, systems  # noqa: F401  (registers the experiments)
from panoptic_tf.backbones import factory
from panoptic_tf.checkpoints import names
from panoptic_tf.checkpoints.matching import compare
from panoptic_tf.checkpoints.readers.arrays import CheckpointError
from panoptic_tf.checkpoints.sources import deeplab2, model_garden  # noqa: F401  (registers them)
from panoptic_tf.training import importing, runner

# deeplab2: shapes from its architecture, not from our variables.


def _conv_norm(prefix, shape, *, conv="_conv/kernel"):
    channels = shape[2] if "depthwise" in conv else shape[3]
    leaves = ("gamma", "beta", "moving_mean", "moving_variance")
    norm = {f"{prefix}/_batch_norm/{leaf}": (channels,) for leaf in leaves}
    return {f"{prefix}/{conv}": shape, **norm}


def _separable(prefix, inputs, outputs):
    depthwise = "_depthwise_conv/depthwise_kernel"
    return {
        **_conv_norm(f"{prefix}/_conv1_bn_act/_depthwise", (5, 5, inputs, 1), conv=depthwise),
        **_conv_norm(f"{prefix}/_conv1_bn_act/_pointwise", (1, 1, inputs, outputs)),
    }


def _resnet(*, is_beta):
    found, inputs = _conv_norm("encoder/_stem", (7, 7, 3, 64)), 64
    if is_beta:
        found = {
            **_conv_norm("encoder/_stem/_conv1_bn_act", (3, 3, 3, 64)),
            **_conv_norm("encoder/_stem/_conv2_bn_act", (3, 3, 64, 64)),
            **_conv_norm("encoder/_stem/_conv3_bn", (3, 3, 64, 128)),
        }
        inputs = 128
    for stage, (count, width) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512)), start=2):
        for block in range(1, count + 1):
            prefix = f"encoder/_stage{stage}/_block{block}"
            if block == 1:
                found.update(_conv_norm(f"{prefix}/_shortcut", (1, 1, inputs, 4 * width)))
            found.update(_conv_norm(f"{prefix}/_conv1_bn_act", (1, 1, inputs, width)))
            found.update(_conv_norm(f"{prefix}/_conv2_bn_act", (3, 3, width, width)))
            found.update(_conv_norm(f"{prefix}/_conv3_bn", (1, 1, width, 4 * width)))
            inputs = 4 * width
    return found


def _mobilenet(network):
    found = _conv_norm("encoder/_blocks/0", (3, 3, 3, network.stem))
    depthwise = "_depthwise_conv/depthwise_kernel"
    for number, block in enumerate(network.blocks, start=1):
        prefix, kernel = f"encoder/_blocks/{number}", block.kernel
        width = block.expanded
        if width != block.inputs:
            found.update(_conv_norm(f"{prefix}/_conv1_bn_act", (1, 1, block.inputs, width)))
        shape = (kernel, kernel, width, 1)
        found.update(_conv_norm(f"{prefix}/_conv2_bn_act", shape, conv=depthwise))
        for name, pair in (
            ("reduce", (width, block.squeezed)),
            ("expand", (block.squeezed, width)),
        ):
            if block.squeezed:
                squeeze = f"{prefix}/_squeeze_excitation/_se_{name}"
                found[f"{squeeze}/kernel"], found[f"{squeeze}/bias"] = (1, 1, *pair), pair[1:]
        found.update(_conv_norm(f"{prefix}/_conv3_bn", (1, 1, width, block.outputs)))
    last = f"encoder/_blocks/{len(network.blocks) + 1}"
    return {**found, **_conv_norm(last, (1, 1, network.blocks[-1].outputs, network.head))}


def _decoder(branch, features, low_level, outputs):
    prefix, inputs = f"{branch}_decoder", features[0]
    aspp = {
        f"{prefix}/_aspp/_conv_bn_act": (1, 1, inputs, 256),
        **{f"{prefix}/_aspp/_aspp_conv{i}/_conv_bn_act": (3, 3, inputs, 256) for i in (1, 2, 3)},
        f"{prefix}/_aspp/_aspp_pool/_conv_bn_act": (1, 1, inputs, 256),
        f"{prefix}/_aspp/_proj_conv_bn_act": (1, 1, 5 * 256, 256),
    }
    found = {}
    for name, shape in aspp.items():
        found.update(_conv_norm(name, shape))
    above = 256
    for i, (channels, low) in enumerate(zip(features[1:], low_level), start=1):
        found.update(_conv_norm(f"{prefix}/_low_level_conv{i}", (1, 1, channels, low)))
        found.update(_separable(f"{prefix}/_fusion_conv{i}", above + low, outputs))
        above = outputs
    return found


def _head(name, last, inputs, channels, outputs):
    return {
        **_separable(f"{name}_without_last_layer", inputs, channels),
        f"{last}/kernel": (1, 1, channels, outputs),
        f"{last}/bias": (outputs,),
    }


def _deeplab2(encoder, features, *, categories):
    """Channels of levels 5, 3 and 2 as the decoders take them."""
    found = {
        **encoder,
        **_decoder("semantic", features, (64, 32), 256),
        **_decoder("instance", features, (32, 16), 128),
        **_head("semantic_head", "semantic_last_layer", 256, 256, categories),
        "global_step": (),
    }
    for name, outputs in (("center", 1), ("regression", 2)):
        name = f"instance_{name}_head"
        found.update(_head(name, f"{name}_last_layer", 128, 32, outputs))
    return found


_RESNET = (2048, 512, 256)
MODELS = {
    "resnet50_os16_coco": lambda: _deeplab2(_resnet(is_beta=False), _RESNET, categories=134),
    "resnet50_beta_os32_cityscapes": lambda: _deeplab2(
        _resnet(is_beta=True), _RESNET, categories=19
    ),
    "mobilenet_v3_small_os16_cityscapes": lambda: _deeplab2(
        _mobilenet(library_backbones.mobilenet_v3_small()), (576, 88, 16), categories=19
    ),
    "mobilenet_v3_large_os32_cityscapes": lambda: _deeplab2(
        _mobilenet(library_backbones.mobilenet_v3_large()), (960, 120, 72), categories=19
    ),
}


def _stored(model):
    return library_backbones.stored(MODELS[model](), path=f"{model}/ckpt-1")


@pytest.mark.parametrize(
    "model, experiment",
    [
        ("resnet50_os16_coco", "panoptic_deeplab_resnet50_coco"),
        pytest.param(
            *("resnet50_beta_os32_cityscapes", "panoptic_deeplab_resnet50_cityscapes"),
            marks=pytest.mark.slow,
        ),
        ("mobilenet_v3_small_os16_cityscapes", "panoptic_deeplab_mobilenetv3_cityscapes"),
        pytest.param(
            *("mobilenet_v3_large_os32_cityscapes", "panoptic_deeplab_mobilenetv3_cityscapes"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_deeplab2s_names_are_the_variables_of_the_network_with_its_settings(model, experiment):
    checkpoint = _stored(model)
    source = names.find_source(checkpoint)
    description = source.describe(checkpoint)
    assert description.experiments == (experiment,)
    params = importing.configure(
        exp_factory.get_exp_config(experiment), experiment, description.settings
    )
    size = {"train_size": [65, 97], "input_size": [65, 97]}
    params = params.replace(task={"model": size})
    network = runner.build_task(params).build_model()
    shapes = {v.name.partition(":")[0]: tuple(v.shape) for v in network.weights}
    match = compare(source.translate(checkpoint), shapes, modules="all")
    assert match.is_whole, match.differences()
    assert not match.zero_offsets


@pytest.mark.parametrize(
    "model, wanted",
    [
        (
            "resnet50_os16_coco",
            {
                "model.backbone.name": "deeplab2_resnet50",
                "model.backbone.output_stride": 16,
                "model.aspp_dilation_rates": [6, 12, 18],
                "model.input_size": [641, 641],
                "model.norm_epsilon": 1e-3,
                "normalization.mean": [127.5] * 3,
            },
        ),
        (
            "resnet50_beta_os32_cityscapes",
            {
                "model.backbone.name": "deeplab2_resnet50_beta",
                "model.backbone.output_stride": 32,
                "model.aspp_dilation_rates": [3, 6, 9],
                "model.input_size": [1025, 2049],
                "model.postprocessor.nms_kernel": 13,
            },
        ),
        (
            "mobilenet_v3_small_os16_cityscapes",
            {
                "model.backbone.name": "deeplab2_mobilenetv3_small",
                "model.backbone.norm_epsilon": 1e-5,
                "model.norm_epsilon": 1e-5,
                "model.postprocessor.nms_kernel": 7,
            },
        ),
        (
            "mobilenet_v3_large_os32_cityscapes",
            {
                "model.backbone.name": "deeplab2_mobilenetv3_large",
                "model.backbone.norm_epsilon": 1e-3,
                "model.aspp_dilation_rates": [3, 6, 9],
            },
        ),
    ],
)
def test_deeplab2s_settings_are_those_of_the_published_configuration(model, wanted):
    checkpoint = _stored(model)
    settings = names.find_source(checkpoint).describe(checkpoint).settings
    assert {key: settings[key] for key in wanted} == wanted


def test_wide_resnets_and_attention_are_not_taken_for_a_resnet():
    for lacking in ("_stage2/_block3/_conv3_bn", "_stage5/_block3/_conv2_bn_act"):
        shapes = {k: v for k, v in _resnet(is_beta=True).items() if lacking not in k}
        with pytest.raises(CheckpointError, match="no known source"):
            names.find_source(library_backbones.stored(shapes))


def test_an_encoder_alone_is_a_backbone():
    checkpoint = library_backbones.stored(_resnet(is_beta=True), path="resnet50_beta/ckpt-100")
    source = names.find_source(checkpoint)
    assert all(path.startswith("backbone/") for path in source.translate(checkpoint))
    assert not source.describe(checkpoint).experiments


def test_low_level_channels_come_first_and_void_goes():
    # Three channels from above, two projected ones: a fusion of 0 1 2 | 3 4 reads 3 4 | 0 1 2.
    low_level = _conv_norm("semantic_decoder/_low_level_conv1", (1, 1, 8, 2))
    fusion = _separable("semantic_decoder/_fusion_conv1", 5, 4)
    values = {name: np.zeros(shape, np.float32) for name, shape in {**low_level, **fusion}.items()}
    prefix = "semantic_decoder/_fusion_conv1/_conv1_bn_act"
    channels = np.arange(5.0, dtype=np.float32)
    values[f"{prefix}/_depthwise/_batch_norm/beta"] = channels
    values[f"{prefix}/_depthwise/_depthwise_conv/depthwise_kernel"] += channels[:, np.newaxis]
    values[f"{prefix}/_pointwise/_conv/kernel"] += channels[:, np.newaxis]
    after = np.arange(4.0, dtype=np.float32)
    values[f"{prefix}/_pointwise/_batch_norm/beta"] = after
    values["semantic_last_layer/bias"] = np.arange(134.0)
    for part in ("_stem", "_stage2/_block3/_conv3_bn", "_stage5/_block3/_conv2_bn_act"):
        values[f"encoder/{part}/_conv/kernel"] = np.zeros(1)
    checkpoint = library_backbones.of_values(values)
    found = names.find_source(checkpoint).translate(checkpoint)
    fused = "semantic/decoder/fuse_3/separable"
    expected = [3.0, 4.0, 0.0, 1.0, 2.0]
    assert found[f"{fused}/depthwise/norm/beta"].read().tolist() == expected
    kernel = found[f"{fused}/depthwise/conv/depthwise_kernel"].read()
    assert kernel.shape == (5, 5, 5, 1) and kernel[0, 0, :, 0].tolist() == expected
    assert found[f"{fused}/pointwise/conv/kernel"].read()[0, 0, :, 3].tolist() == expected
    assert found[f"{fused}/pointwise/norm/beta"].read().tolist() == after.tolist()
    bias = found["semantic/semantic_head/predictor/bias"].read()
    assert bias.tolist() == list(range(1, 134))


# Model Garden.


def _saved(backbone, folder, heads):
    """As its trainers write: an item for each part."""
    items = {}
    for name in heads:
        items[name] = tf.Module()
        items[name].kernel = tf.Variable(tf.ones([3, 3, 4, 4]))
    step = tf.Variable(7)
    return tf.train.Checkpoint(backbone=backbone, global_step=step, **items).save(
        str(folder / "ckpt")
    )


@pytest.mark.parametrize(
    "name, theirs, heads, title",
    [
        pytest.param(
            *("official_resnet50", lambda: official_backbones.ResNet(50)),
            *(("decoder", "rpn_head", "detection_head", "mask_head"), "Panoptic FPN or Mask R-CNN"),
            marks=pytest.mark.slow,
        ),
        (
            *("mobilenetv3_small", lambda: official_backbones.MobileNet("MobileNetV3Small")),
            ("semantic_decoder", "instance_decoder", "semantic_head", "instance_head"),
            "Panoptic-DeepLab",
        ),
    ],
)
def test_the_backbone_of_model_gardens_panoptic_models_comes_in(
    name, theirs, heads, title, tmp_path
):
    model = theirs()
    for i, variable in enumerate(model.weights):
        variable.assign(tf.fill(variable.shape, i + 1.0))
    path = _saved(model, tmp_path, heads)
    found, description = checkpoints.describe(path)
    assert found == f"Model Garden's {title}"
    assert description.settings["model.backbone.name"] == name
    assert description.settings["model.backbone.norm_epsilon"] == 1e-3
    assert not description.experiments
    backbone = factory.build_backbone(name)
    checkpoints.load_weights(path, backbone.weights, modules="backbone", network=backbone)
    for ours, expected in zip(backbone.source_model.weights, model.weights):
        if any(ours is variable for variable in backbone.weights):
            np.testing.assert_array_equal(ours, expected)
    with pytest.raises(CheckpointError, match=f"{heads[0]}/kernel"):
        checkpoints.load_weights(path, backbone.weights, modules="all", network=backbone)


def test_model_gardens_squeezed_resnet_is_told_from_a_plain_one():
    blocks = {f"backbone/layer_with_weights-{i}/_conv3/kernel": (1, 1, 4, 16) for i in range(6, 39)}
    stem = {"backbone/layer_with_weights-0/kernel": (3, 3, 3, 64)}
    checkpoint = library_backbones.stored({**stem, **blocks, "semantic_decoder/x": (1,)})
    settings = names.find_source(checkpoint).describe(checkpoint).settings
    assert settings["model.backbone.name"] == "dilated_resnet101"
    assert settings["model.backbone.options.se_ratio"] == 0.25

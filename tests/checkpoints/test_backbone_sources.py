"""Tables of backbones of other libraries: every variable once, in its shape, and nothing else."""

import functools
import json

import library_backbones as libraries
import numpy as np
import pytest
import tensorflow as tf
from official.vision.configs import backbones as configs
from official.vision.configs import common
from official.vision.modeling import backbones as official_backbones

import panoptic_tf.backbones  # noqa: F401  (registers the backbones)
from panoptic_tf import checkpoints
from panoptic_tf.backbones import factory
from panoptic_tf.checkpoints import matching, names
from panoptic_tf.checkpoints.readers import keras_applications
from panoptic_tf.checkpoints.sources import inverted_bottlenecks

_PREFIX = "model.backbone."


def _options(settings):
    return {
        key[len(_PREFIX) :].replace("options.", ""): value
        for key, value in settings.items()
        if key.startswith(_PREFIX)
    }


@functools.cache
def _build_cached(name, options):
    layer = factory.build_backbone(name, **dict(options))
    layer(tf.zeros([1, 64, 64, 3]))
    return layer


def _build(name, settings):
    return _build_cached(name, tuple(sorted(_options(settings).items())))


def _shapes(layer):
    return {v.name.partition(":")[0]: tuple(v.shape) for v in layer.weights}


def _check_bijection(checkpoint, title, backbone):
    source = names.find_source(checkpoint)
    assert source.title == title
    settings = source.describe(checkpoint).settings
    layer = _build(backbone, settings)
    translation = source.translate_for(checkpoint, layer)
    match = matching.compare(translation, _shapes(layer), modules="all")
    assert match.is_whole, match.differences()
    assert len(set(match.sources.values())) == len(layer.weights)
    return settings


def _efficientnets(sizes):
    for size in sizes:
        network = functools.partial(libraries.efficientnet, size)
        of_torchvision = functools.partial(libraries.torchvision_blocks, by_stage=True)
        for title, write in (
            ("an EfficientNet of torchvision", of_torchvision),
            ("an EfficientNet of timm", libraries.timm),
            ("an EfficientNet of Hugging Face", libraries.hugging_face_efficientnet),
            ("an EfficientNet of efficientnet_pytorch", libraries.efficientnet_pytorch),
        ):
            yield pytest.param(title, write, network, f"efficientnet_{size}", id=f"{title} {size}")


_LITE = functools.partial(libraries.efficientnet, "b0", has_squeeze=False)
_V3 = functools.partial(libraries.torchvision_blocks, by_stage=False)
_TIMM_V3 = functools.partial(libraries.timm, is_v3=True)
_LARGE = (libraries.mobilenet_v3_large, "mobilenetv3_large")
_SMALL = (libraries.mobilenet_v3_small, "mobilenetv3_small")
_V2 = (libraries.mobilenet_v2, "mobilenetv2")


@pytest.mark.parametrize(
    "title, write, network, backbone",
    [
        ("a MobileNetV2 of torchvision", libraries.torchvision_v2, *_V2),
        ("a MobileNetV2 of PyTorch's older layout", libraries.flat_v2, *_V2),
        ("a MobileNetV2 of timm", libraries.timm, *_V2),
        ("a MobileNetV2 of Hugging Face", libraries.hugging_face_v2, *_V2),
        ("a MobileNetV3 of torchvision", _V3, *_LARGE),
        ("a MobileNetV3 of torchvision", _V3, *_SMALL),
        # As in torchvision's segmentation models.
        ("a MobileNetV3 of torchvision", functools.partial(_V3, prefix="backbone"), *_LARGE),
        ("a MobileNetV3 Large of timm", _TIMM_V3, *_LARGE),
        ("a MobileNetV3 Small of timm", _TIMM_V3, *_SMALL),
        ("an EfficientNet-lite of timm", libraries.timm, _LITE, "efficientnet_lite0"),
        (
            *("an EfficientNet-lite of efficientnet_pytorch", libraries.efficientnet_pytorch),
            *(_LITE, "efficientnet_lite0"),
        ),
        *_efficientnets(["b0"]),
    ],
)
def test_every_variable_has_one_array(title, write, network, backbone):
    _check_bijection(libraries.stored(write(network())), title, backbone)


@pytest.mark.slow
@pytest.mark.parametrize("title, write, network, backbone", _efficientnets(["b7"]))
def test_every_variable_of_a_large_efficientnet_has_one_array(title, write, network, backbone):
    """The names of a source follow one rule for all sizes."""
    _check_bijection(libraries.stored(write(network())), title, backbone)


@pytest.mark.parametrize("size", range(8))
def test_large_efficientnets_of_torchvision_have_another_epsilon(size):
    shapes = libraries.torchvision_blocks(libraries.efficientnet(f"b{size}"), by_stage=True)
    checkpoint = libraries.stored(shapes)
    settings = names.find_source(checkpoint).describe(checkpoint).settings
    assert settings["model.backbone.norm_epsilon"] == (1e-3 if size >= 5 else 1e-5)


@pytest.mark.parametrize("size, middle", [("41", 8), ("65", 16)])
def test_every_variable_of_xception_has_one_array(size, middle):
    checkpoint = libraries.stored(libraries.timm_xception(middle))
    _check_bijection(checkpoint, "an aligned Xception of timm", f"xception{size}")


@pytest.mark.slow
def test_every_variable_of_hrnet_has_one_array():
    checkpoint = libraries.stored(libraries.hrnet(18))
    _check_bijection(checkpoint, "an HRNet of its authors or timm", "hrnet_w18")


# Settings


@pytest.mark.parametrize(
    "folder, config, is_tensorflow",
    [
        ("efficientnet_b0", None, False),
        ("tf_efficientnet_b0.in1k", None, True),
        ("timm_tf_efficientnet_b0", None, True),
        ("weights", {"architecture": "tf_efficientnet_b0"}, True),
        ("tf_efficientnet", {"architecture": "efficientnet_b0"}, False),
    ],
)
def test_timm_models_from_tensorflow_pad_as_tensorflow(tmp_path, folder, config, is_tensorflow):
    (tmp_path / folder).mkdir()
    if config:
        (tmp_path / folder / "config.json").write_text(json.dumps(config))
    shapes = libraries.timm(libraries.efficientnet("b0"))
    checkpoint = libraries.stored(shapes, str(tmp_path / folder / "model.safetensors"))
    settings = names.find_source(checkpoint).describe(checkpoint).settings
    assert settings["model.backbone.norm_epsilon"] == (1e-3 if is_tensorflow else 1e-5)
    padding = "same" if is_tensorflow else "symmetric"
    assert settings["model.backbone.options.padding"] == padding


def test_normalisation_beside_a_file_counts(tmp_path):
    published = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
    config = {"architecture": "mobilenetv3_large_100", "pretrained_cfg": published}
    (tmp_path / "config.json").write_text(json.dumps(config))
    shapes = libraries.timm(libraries.mobilenet_v3_large(), is_v3=True)
    checkpoint = libraries.stored(shapes, str(tmp_path / "model.safetensors"))
    settings = names.find_source(checkpoint).describe(checkpoint).settings
    assert settings["normalization.mean"] == [0.0, 0.0, 0.0]
    assert settings["normalization.std"] == [255.0, 255.0, 255.0]


def test_damaged_config_beside_a_file_is_as_none(tmp_path):
    (tmp_path / "config.json").write_text("{")
    shapes = libraries.timm(libraries.mobilenet_v2())
    checkpoint = libraries.stored(shapes, str(tmp_path / "model.safetensors"))
    settings = names.find_source(checkpoint).describe(checkpoint).settings
    assert settings["normalization.mean"] == [123.675, 116.28, 103.53]


# Values


def _convolve(x, kernel, *, groups):
    """PyTorch's definition, without padding: [h, w, C] and [D, C / groups, k, k] -> [h', w', D]."""
    size = kernel.shape[-1]
    height, width = x.shape[0] - size + 1, x.shape[1] - size + 1
    y = np.zeros((height, width, kernel.shape[0]))
    for d in range(kernel.shape[0]):
        inputs = kernel.shape[1]
        first = d // (kernel.shape[0] // groups) * inputs
        for i in range(height):
            for j in range(width):
                patch = x[i : i + size, j : j + size, first : first + inputs]
                y[i, j, d] = np.sum(patch * kernel[d].transpose(1, 2, 0))
    return y


def test_kernels_lie_as_tensorflow_reads_them():
    rng = np.random.default_rng(0)
    shapes = libraries.torchvision_v2(libraries.mobilenet_v2())
    values = {name: rng.normal(size=shapes[name]).astype(np.float32) for name in list(shapes)[:40]}
    checkpoint = libraries.of_values({**{n: np.zeros(s) for n, s in shapes.items()}, **values})
    translation = names.find_source(checkpoint).translate(checkpoint)
    x = rng.normal(size=(6, 5, 3)).astype(np.float32)
    kernel = translation["backbone/conv2dbn_block/conv2d/kernel"].read()
    y = tf.nn.conv2d(x[np.newaxis], kernel, 1, "VALID")[0]
    expected = _convolve(x, values["features.0.0.weight"], groups=1)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    x = rng.normal(size=(6, 5, 32)).astype(np.float32)
    block = "backbone/inverted_bottleneck_block"
    kernel = translation[f"{block}/depthwise_conv2d/depthwise_kernel"].read()
    y = tf.nn.depthwise_conv2d(x[np.newaxis], kernel, [1, 1, 1, 1], "VALID")[0]
    expected = _convolve(x, values["features.1.conv.0.0.weight"], groups=32)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_gates_are_those_of_the_source():
    # official.vision's gate is 0.16667 * relu6(x + 3), not relu6(x + 3) / 6.
    rng = np.random.default_rng(0)
    shapes = libraries.timm(libraries.mobilenet_v3_small(), is_v3=True)
    checkpoint = libraries.of_values(
        {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    )
    translation = names.find_source(checkpoint).translate(checkpoint)
    for ours, theirs, is_gated in (
        ("inverted_bottleneck_block/conv2d", "blocks.0.0.conv_pw", True),
        ("inverted_bottleneck_block_1/conv2d_1", "blocks.1.0.conv_pwl", False),
        ("inverted_bottleneck_block_3/conv2d", "blocks.2.0.conv_pw", False),
        ("inverted_bottleneck_block_3/conv2d_1", "blocks.2.0.conv_pwl", True),
    ):
        kernel = checkpoint.arrays[f"{theirs}.weight"].read()[:, :, 0, 0].T
        x, gate = rng.normal(size=(2, kernel.shape[0]))
        relu6 = np.clip(gate + 3.0, 0.0, 6.0)
        expected = (x * relu6 / 6.0) @ kernel if is_gated else x @ kernel
        read = translation[f"backbone/{ours}/kernel"].read()[0, 0]
        y = (x * relu6 * 0.16667) @ read if is_gated else x @ read
        np.testing.assert_allclose(y, expected, rtol=2e-6, atol=1e-6)


# Keras


@pytest.fixture
def read_keras(monkeypatch):
    """`read_keras` that downloads nothing: the weights are random."""

    def read(name):
        build = getattr(tf.keras.applications, name)
        monkeypatch.setattr(
            tf.keras.applications,
            name,
            lambda *, weights, include_top: build(
                weights=None, include_top=include_top, input_shape=(64, 64, 3)
            ),
        )
        checkpoint = keras_applications.read_keras(name)
        monkeypatch.undo()
        return checkpoint

    return read


@pytest.mark.parametrize(
    "name, title, backbone",
    [
        ("ResNet50", "a ResNet of Keras", "resnet50"),
        ("MobileNetV2", "a MobileNetV2 of Keras", "mobilenetv2"),
        ("MobileNetV3Large", "a MobileNetV3 of Keras", "mobilenetv3_large"),
        ("MobileNetV3Small", "a MobileNetV3 of Keras", "mobilenetv3_small"),
        ("EfficientNetB0", "an EfficientNet of Keras", "efficientnet_b0"),
        # Their names follow one rule for all sizes; these have more than nine blocks in a stage.
        pytest.param("ResNet101", "a ResNet of Keras", "resnet101", marks=pytest.mark.slow),
        pytest.param(
            *("EfficientNetB7", "an EfficientNet of Keras", "efficientnet_b7"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_every_variable_has_one_array_of_keras(read_keras, name, title, backbone):
    _check_bijection(read_keras(name), title, backbone)


def test_what_keras_numbers_through_the_process_does_not_matter(read_keras):
    read_keras("EfficientNetB0")
    checkpoint = read_keras("EfficientNetB0")
    assert "normalization/mean" not in checkpoint.arrays
    settings = _check_bijection(checkpoint, "an EfficientNet of Keras", "efficientnet_b0")
    # Not adapted: the images are only divided by 255.
    assert settings["normalization.mean"] == [0.0, 0.0, 0.0]
    assert settings["normalization.std"] == [255.0, 255.0, 255.0]


@pytest.mark.parametrize(
    "variance",
    [
        (0.229, 0.224, 0.225),  # of the published weights: in truth the deviation
        (0.229**2, 0.224**2, 0.225**2),
    ],
)
def test_normalisation_in_keras_efficientnet_becomes_that_of_the_images(variance):
    checkpoint = libraries.of_values(
        {
            "normalization/mean": np.array([0.485, 0.456, 0.406], np.float32),
            "normalization/variance": np.array(variance, np.float32),
            "normalization/count": np.array(0, np.int64),
            "block1a_dwconv/depthwise_kernel": np.zeros((3, 3, 4, 1), np.float32),
            "block1a_se_reduce/kernel": np.zeros((1, 1, 4, 1), np.float32),
        }
    )
    settings = names.find_source(checkpoint).describe(checkpoint).settings
    np.testing.assert_allclose(settings["normalization.mean"], [123.675, 116.28, 103.53], 1e-5)
    np.testing.assert_allclose(settings["normalization.std"], [58.395, 57.12, 57.375], 1e-5)


def test_biases_before_a_norm_go_into_its_mean():
    rng = np.random.default_rng(0)
    leaves = ("gamma", "beta", "moving_mean", "moving_variance")
    values = {f"conv1_bn/{leaf}": rng.uniform(0.5, 1.5, 4) for leaf in leaves}
    values["conv1_conv/kernel"] = rng.normal(size=(1, 1, 3, 4))
    values["conv1_conv/bias"] = rng.normal(size=4)
    values["conv2_block1_1_conv/kernel"] = np.zeros((1, 1, 4, 4))
    checkpoint = libraries.of_values(values)
    source = names.find_source(checkpoint)
    found = {path: read() for path, (_, read) in source.translate(checkpoint).items()}
    assert "backbone/stem/conv1/conv/bias" not in found
    x = rng.normal(size=3)

    def normalise(y, prefix, arrays):
        gamma, beta, mean, variance = (arrays[f"{prefix}/{leaf}"] for leaf in leaves)
        return gamma * (y - mean) / np.sqrt(variance + 1e-5) + beta

    y = x @ values["conv1_conv/kernel"][0, 0] + values["conv1_conv/bias"]
    expected = normalise(y, "conv1_bn", values)
    layer = "backbone/stem/conv1"
    actual = normalise(x @ found[f"{layer}/conv/kernel"][0, 0], f"{layer}/norm", found)
    np.testing.assert_allclose(actual, expected)


@pytest.mark.parametrize(
    "found, message",
    [
        (
            ("block1_conv1/kernel", "block14_sepconv2/pointwise_kernel"),
            "Xception of Keras.*aligned.*xception65",
        ),
        (("conv2_block1_preact_bn/gamma", "conv2_block1_1_conv/kernel"), "ResNetV2.*ResNet50"),
        (
            ("Conv/BatchNorm/gamma", "expanded_conv_3/depthwise/depthwise_kernel"),
            "minimalistic.*squeeze-and-excitation",
        ),
        (("layers/conv2d_9/vars/0", "layers/conv2d_9/vars/1"), "only numbered.*name.h5"),
    ],
)
def test_what_no_network_here_equals_is_refused_with_the_reason(found, message):
    checkpoint = libraries.stored({name: (1, 1, 4, 4) for name in found})
    with pytest.raises(checkpoints.CheckpointError, match=message):
        names.find_source(checkpoint).translate(checkpoint)


def test_unknown_applications_name_the_known_ones():
    with pytest.raises(checkpoints.CheckpointError, match="ResNet152.*mean keras:ResNet50"):
        keras_applications.read_keras("keras:resnet-50")
    with pytest.raises(checkpoints.CheckpointError, match="'Xception'.*EfficientNetB7"):
        keras_applications.read_keras("keras:Xception")


# official.vision


@tf.autograph.experimental.do_not_convert  # Slow to build with.
def _build_theirs(kind, config_class, **fields):
    """As official.vision builds it for a classifier: variables have no name of ours."""
    config = getattr(configs, config_class)(**fields)
    return official_backbones.factory.build_backbone(
        tf.keras.layers.InputSpec(shape=[None, 64, 64, 3]),
        configs.Backbone(type=kind, **{kind: config}),
        common.NormActivation(),
    )


@tf.autograph.experimental.do_not_convert
def _classifier(backbone):
    inputs = tf.keras.Input([64, 64, 3])
    logits = tf.keras.layers.Dense(3)(tf.reduce_mean(backbone(inputs)["6"], axis=(1, 2)))
    return tf.keras.Model(inputs, logits)


def _check_equal(ours, theirs):
    needed = {variable.ref() for variable in ours.weights}
    pairs = list(zip(ours.source_model.weights, theirs.weights))
    assert len(pairs) == len(ours.source_model.weights) == len(theirs.weights)
    for a, b in pairs:
        if a.ref() in needed:
            np.testing.assert_array_equal(a, b)


_MOBILENET = ("mobilenet", "MobileNet")


@pytest.mark.parametrize(
    "backbone, options, kind, config_class, fields",
    [
        ("mobilenetv2", {}, *_MOBILENET, {"model_id": "MobileNetV2"}),
        ("mobilenetv3_small", {}, *_MOBILENET, {"model_id": "MobileNetV3Small"}),
        (
            *("efficientnet_b0", {"se_ratio": 0.25}, "efficientnet", "EfficientNet"),
            {"model_id": "b0", "se_ratio": 0.25},
        ),
        ("official_resnet18", {}, "resnet", "ResNet", {"model_id": 18}),
        *(
            pytest.param(*row, marks=pytest.mark.slow)
            for row in (
                ("mobilenetv1", {}, *_MOBILENET, {"model_id": "MobileNetV1"}),
                ("mobilenetv3_large", {}, *_MOBILENET, {"model_id": "MobileNetV3Large"}),
                ("mobilenetv3_edgetpu", {}, *_MOBILENET, {"model_id": "MobileNetV3EdgeTPU"}),
                ("mobiledet_cpu", {}, "mobiledet", "MobileDet", {"model_id": "MobileDetCPU"}),
                ("efficientnet_b3", {}, "efficientnet", "EfficientNet", {"model_id": "b3"}),
                ("official_resnet50", {}, "resnet", "ResNet", {"model_id": 50}),
                (
                    *("dilated_resnet50", {"output_stride": 16}, "dilated_resnet"),
                    *("DilatedResNet", {"model_id": 50, "output_stride": 16}),
                ),
                (
                    *("spinenet_49s", {"input_size": (64, 64)}, "spinenet", "SpineNet"),
                    {"model_id": "49S", "min_level": 2, "max_level": 5},
                ),
            )
        ),
    ],
)
def test_every_variable_has_one_array_of_official_vision(
    tmp_path, backbone, options, kind, config_class, fields
):
    theirs = _build_theirs(kind, config_class, **fields)
    ours = factory.build_backbone(backbone, **options)
    ours(tf.zeros([1, 64, 64, 3]))
    # As the trainer of official.vision writes it.
    optimizer = tf.keras.optimizers.legacy.SGD(momentum=0.9)
    optimizer.apply_gradients([(tf.ones_like(v), v) for v in theirs.trainable_variables])
    path = tf.train.Checkpoint(
        global_step=tf.Variable(0, dtype=tf.int64), backbone=theirs, optimizer=optimizer
    ).save(str(tmp_path / "ckpt"))
    loaded = checkpoints.load_weights(path, ours.weights, modules="all", network=ours)
    assert loaded.title == "a classification checkpoint of official.vision"
    assert loaded.match.is_whole and len(loaded.match.values) == len(ours.weights)
    _check_equal(ours, theirs)


def test_classifier_of_official_vision_without_the_item_backbone(tmp_path):
    theirs = _build_theirs(*_MOBILENET, model_id="MobileNetV2")
    ours = _build("mobilenetv2", {})
    path = tf.train.Checkpoint(model=_classifier(theirs)).save(str(tmp_path / "ckpt"))
    match = checkpoints.load_weights(path, ours.weights, modules="all", network=ours).match
    assert len(match.values) == len(ours.weights)
    _check_equal(ours, theirs)


def test_checkpoint_of_official_vision_says_what_network_it_needs(tmp_path):
    theirs = _build_theirs(*_MOBILENET, model_id="MobileNetV3Small")
    path = tf.train.Checkpoint(backbone=theirs).save(str(tmp_path / "ckpt"))
    ours = _build("mobilenetv2", {})
    with pytest.raises(checkpoints.CheckpointError, match="paths through a network"):
        checkpoints.load_weights(path, ours.weights, modules="all")
    with pytest.raises(checkpoints.CheckpointError, match="of another shape"):
        checkpoints.load_weights(path, ours.weights, modules="all", network=ours)
    other = factory.build_backbone("resnet18")
    other(tf.zeros([1, 64, 64, 3]))
    with pytest.raises(checkpoints.CheckpointError, match="task.model.backbone.name"):
        checkpoints.load_weights(path, other.weights, modules="all", network=other)


def test_params_beside_a_checkpoint_of_official_vision_count(tmp_path):
    path = str(tmp_path / "ckpt-0")
    checkpoint = libraries.stored({"backbone/layer_with_weights-0/kernel": (3, 3, 3, 4)}, path)
    source = names.find_source(checkpoint)
    assert source.describe(checkpoint).settings["model.backbone.norm_epsilon"] == 1e-3
    block = {"backbone/layer_with_weights-2/_shortcut/kernel": (1, 1, 4, 4)}
    resnet = libraries.stored(block, path)
    assert source.describe(resnet).settings["model.backbone.norm_epsilon"] == 1e-5
    (tmp_path / "params.yaml").write_text(
        "task: {model: {norm_activation: {norm_epsilon: 1.0e-5}, "
        "backbone: {type: efficientnet, efficientnet: {se_ratio: 0.25}}}}"
    )
    settings = source.describe(checkpoint).settings
    assert settings["model.backbone.norm_epsilon"] == 1e-5
    assert settings["model.backbone.options.se_ratio"] == 0.25


# The numbers of layers


def test_layers_are_numbered_in_their_order():
    complete = inverted_bottlenecks.numbered_as(inverted_bottlenecks.EFFICIENTNET)
    # Block 10 comes after block 2; convolutions and norms are counted apart.
    given = {
        "backbone/stem/conv/kernel": "backbone/conv2d/kernel",
        "backbone/block/2/1/conv/depthwise_kernel": (
            "backbone/inverted_bottleneck_block/depthwise_conv2d/depthwise_kernel"
        ),
        "backbone/block/2/2/conv/kernel": "backbone/inverted_bottleneck_block/conv2d/kernel",
        "backbone/block/2/2/norm/beta": (
            "backbone/inverted_bottleneck_block/batch_normalization/beta"
        ),
        "backbone/block/10/0/conv/kernel": "backbone/inverted_bottleneck_block_1/conv2d/kernel",
        "backbone/block/10/2/conv/kernel": "backbone/inverted_bottleneck_block_1/conv2d_1/kernel",
        "backbone/block/10/squeeze/expand/bias": (
            "backbone/inverted_bottleneck_block_1/squeeze_excitation/conv2d_1/bias"
        ),
        "backbone/other": "backbone/other",
    }
    translation = {path: names.Translated(path, np.zeros(1).copy) for path in given}
    found = {translated.source_name: path for path, translated in complete(translation).items()}
    assert found == given

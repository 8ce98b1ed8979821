import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.backbones import factory, xception

# Sixteen or more channels: see tests/small_systems.py.
_TINY = {
    "stem_widths": (16, 16),
    "entry_widths": (16, 16, 24),
    "num_middle_blocks": 1,
    "exit_widths": ((24, 32, 32), (32, 32, 40)),
}


def build(**options):
    return factory.build_backbone("xception65", **{**_TINY, **options})


def randomize(backbone):
    """Weights and statistics under which every layer matters."""
    rng = np.random.default_rng(0)
    for v in backbone.variables:
        noise = rng.normal(size=v.shape)
        if "kernel" in v.name:
            v.assign(noise / np.sqrt(np.prod(v.shape[: 3 if v.shape[-1] > 1 else 2])))
        elif "variance" in v.name or "gamma" in v.name:
            v.assign(1 + 0.3 * np.tanh(noise))
        else:
            v.assign(0.3 * noise)


# Parameters without the classifier: timm 1.0.31, `create_model(name, num_classes=0)`.
@pytest.mark.parametrize(
    "name, parameters",
    [
        ("xception41", 24_920_560),
        pytest.param("xception65", 37_867_312, marks=pytest.mark.slow),
        pytest.param("xception71", 40_289_736, marks=pytest.mark.slow),
    ],
)
def test_parameters_of_the_family(name, parameters):
    backbone = factory.build_backbone(name, output_stride=16)
    outputs = backbone(tf.keras.Input([64, 96, 3]))
    assert sum(int(np.prod(v.shape)) for v in backbone.trainable_variables) == parameters
    assert {k: tuple(v.shape[1:]) for k, v in outputs.items()} == {
        "2": (16, 24, 256),
        "3": (8, 12, 728),
        "4": (4, 6, 1024),
        "5": (4, 6, 2048),
    }
    assert backbone.output_channels == {"2": 256, "3": 728, "4": 1024, "5": 2048}


@pytest.mark.parametrize(
    "output_stride, sizes", [(32, (12, 6, 3, 2)), (16, (12, 6, 3, 3)), (8, (12, 6, 6, 6))]
)
def test_output_strides(output_stride, sizes):
    backbone = build(output_stride=output_stride)
    outputs = backbone(tf.zeros([1, 48, 41, 3]))
    assert [outputs[k].shape[1] for k in "2345"] == list(sizes)
    assert outputs["2"].shape[2] == 11  # ceil(41 / 4)
    assert {k: v.shape[-1] for k, v in outputs.items()} == backbone.output_channels
    assert backbone.output_channels == {"2": 16, "3": 24, "4": 32, "5": 40}
    expected = [min(stride, output_stride) for stride in (4, 8, 16, 32)]
    assert list(backbone.output_strides.values()) == expected


@pytest.mark.parametrize("size", [(64, 96), (65, 33)])
@pytest.mark.parametrize("output_stride", [16, 8])
def test_dilated_is_strided_read_at_more_cells(size, output_stride):
    strided, dilated = build(), build(output_stride=output_stride)
    x = tf.random.stateless_normal([1, *size, 3], seed=(0, 1))
    strided(x), dilated(x)
    randomize(strided)
    for v, w in zip(dilated.variables, strided.variables):
        assert v.name == w.name
        v.assign(w)
    expected, outputs = strided(x), dilated(x)
    for level, stride in zip("2345", (4, 8, 16, 32)):
        step = max(1, stride // output_stride)
        np.testing.assert_allclose(
            outputs[level][:, ::step, ::step], expected[level], rtol=1e-4, atol=1e-4
        )


def test_multi_grid_multiplies_the_dilation_of_the_last_block():
    backbone = build(output_stride=16, multi_grid=(1, 2, 4))
    rates = [
        [conv.depthwise.conv.dilation_rate[0] for conv in block.convs] for block in backbone.blocks
    ]
    # The block that would have strided last is the one before the last.
    assert rates == [[1, 1, 1]] * 5 + [[2, 4, 8]]


def test_a_block_by_hand():
    # One channel; centre taps only, so that a convolution multiplies: 2, 3, -1. Norms do nothing.
    options = {"norm": "none", "norm_momentum": 0.9, "norm_epsilon": 1e-5}
    x = tf.reshape([-1.0, 4.0], [1, 1, 2, 1])
    for within, expected, read in (
        # relu -> 2x -> relu -> 3x (read) -> relu -> -1x, plus x: -1 + 0, 4 - 24.
        (False, [-1.0, -20.0], [0.0, 24.0]),
        # 2x -> relu -> 3x -> relu (read) -> -1x -> relu, plus x.
        (True, [-1.0, 4.0], [0.0, 24.0]),
    ):
        block = xception.XceptionBlock((1, 1, 1), activates_within=within, norm_options=options)
        block(x)
        for conv, factor in zip(block.convs, (2.0, 3.0, -1.0)):
            kernel = np.zeros([3, 3, 1, 1])
            kernel[1, 1] = 1.0
            conv.depthwise.conv.depthwise_kernel.assign(kernel)
            conv.pointwise.conv.kernel.assign([[[[factor]]]])
        outputs, before_third = block(x)
        np.testing.assert_allclose(tf.reshape(outputs, [-1]), expected)
        np.testing.assert_allclose(tf.reshape(before_third, [-1]), read)


def test_levels_without_relu():
    x = tf.random.stateless_normal([1, 32, 32, 3], seed=(0, 1))
    plain, activated = build(activates_levels=False), build()
    plain(x), activated(x)
    randomize(plain)
    for v, w in zip(activated.variables, plain.variables):
        v.assign(w)
    plain, activated = plain(x), activated(x)
    for level in "234":
        assert tf.reduce_min(plain[level]) < 0
        np.testing.assert_allclose(activated[level], tf.nn.relu(plain[level]), atol=1e-6)
    np.testing.assert_allclose(activated["5"], plain["5"], atol=1e-6)


def test_names_are_stable_and_unique():
    names = []
    for _ in range(2):
        inputs = tf.keras.Input([32, 32, 3])
        model = tf.keras.Model(inputs, build()(inputs))
        names.append([v.name for v in model.variables])
    assert names[0] == names[1] and len(set(names[0])) == len(names[0])
    parts = [f"conv{i}/{part}" for i in (1, 2, 3) for part in ("depthwise", "pointwise")]
    assert {name.rsplit("/", 2)[0] for name in names[0]} == {
        *(f"backbone/stem/conv{i}" for i in (1, 2)),
        *(f"backbone/block_{i}/{part}" for i in range(6) for part in parts),
        *(f"backbone/block_{i}/shortcut" for i in (0, 1, 2, 4)),
    }


@pytest.mark.parametrize(
    "frozen_stages, frozen",
    [
        (0, set()),
        (1, {"stem/conv1", "stem/conv2"}),
        # Level 2 is read within block 1, before its third convolution.
        (2, {"stem/conv1", "stem/conv2", "block_0/*", "block_1/conv1", "block_1/conv2"}),
    ],
)
def test_frozen_stages(frozen_stages, frozen):
    backbone = build(frozen_stages=frozen_stages)
    x = tf.random.stateless_normal([2, 32, 32, 3], seed=(0, 1))
    backbone(x)
    before = {v.name: v.numpy() for v in backbone.variables}
    backbone(x, training=True)
    moved = {v.name for v in backbone.variables if (before[v.name] != v).numpy().any()}
    still = set(before) - {v.name for v in backbone.trainable_variables}

    def is_frozen(name):
        block, conv = name.split("/")[1:3]
        return f"{block}/{conv}" in frozen or f"{block}/*" in frozen

    assert {v for v in still if "moving" not in v} == {
        v for v in before if "moving" not in v and is_frozen(v)
    }
    assert not any(is_frozen(name) for name in moved)
    assert {v for v in before if "moving" in v and not is_frozen(v)} == moved


def test_all_stages_frozen():
    assert not build(frozen_stages=5).trainable_variables
    backbone = build(frozen_stages=4)
    backbone(tf.zeros([1, 32, 32, 3]))
    parts = {"/".join(v.name.split("/")[1:3]) for v in backbone.trainable_variables}
    last = {f"block_5/conv{i}" for i in (1, 2, 3)}
    assert parts == {"block_4/conv3", "block_4/shortcut", *last}


@pytest.mark.parametrize("norm", ["batch", "frozen_batch", "sync_batch", "group"])
def test_every_trainable_variable_has_a_gradient(norm, mixed_bfloat16):
    backbone = build(norm=norm)
    x = tf.random.stateless_normal([2, 32, 32, 3], seed=(0, 1))
    with tf.GradientTape() as tape:
        outputs = backbone(x, training=True)
        loss = tf.reduce_sum(tf.square(tf.cast(outputs["5"], tf.float32)))
    assert outputs["5"].dtype == tf.bfloat16
    assert all(g is not None for g in tape.gradient(loss, backbone.trainable_variables))


def test_group_norm_fits_728_channels():
    backbone = build(norm="group", entry_widths=(16, 16, 728))
    backbone(tf.zeros([1, 32, 32, 3]))
    assert backbone.blocks[2].convs[0].pointwise.norm._groups == 8


@pytest.mark.parametrize(
    "options, message",
    [
        ({"output_stride": 4}, "output_stride must be 8, 16 or 32, got 4"),
        ({"multi_grid": (1, 2)}, "multi_grid must hold one dilation"),
        ({"frozen_stages": 6}, "frozen_stages must be 0 to 5, got 6"),
        ({"entry_strides": (2, 2, 1)}, "three strides 2"),
        ({"entry_strides": (2, 2, 2, 1)}, "of one length"),
        ({"exit_widths": ((8, 8), (8, 8, 8))}, "two times three"),
        ({"stem_widths": (8,)}, "two numbers"),
        ({"num_middle_blocks": -1}, "must not be negative"),
        ({"depth": 65}, "Xception has no option depth"),
        ({"stride_in_1x1": True}, "stride_in_1x1 does not belong to Xception"),
        ({"norm": "bn"}, "norm must be one of"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)

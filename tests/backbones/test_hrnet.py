import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.backbones import factory, hrnet

_TINY = {
    "width": 16,
    "num_modules": (1, 1, 1),
    "num_blocks": 1,
    "stage1_blocks": 1,
    "stage1_width": 16,
}


def build(**options):
    return factory.build_backbone("hrnet_w48", **{**_TINY, **options})


# Parameters of the four branches: timm 1.0.31,
# `create_model(name, features_only=True, feature_location="")`.
@pytest.mark.slow
@pytest.mark.parametrize(
    "name, parameters",
    [("hrnet_w18", 9_562_260), ("hrnet_w32", 29_305_536), ("hrnet_w48", 65_325_120)],
)
def test_parameters_of_the_family(name, parameters):
    backbone = factory.build_backbone(name)
    backbone(tf.keras.Input([64, 96, 3]))
    assert sum(int(np.prod(v.shape)) for v in backbone.trainable_variables) == parameters
    width = int(name[-2:])
    assert list(backbone.output_channels.values()) == [width, 2 * width, 4 * width, 8 * width]


@pytest.mark.parametrize("upsampling", hrnet.UPSAMPLINGS)
def test_levels_at_any_size(upsampling):
    backbone = build(upsampling=upsampling)
    outputs = backbone(tf.zeros([1, 48, 41, 3]))
    assert {k: tuple(v.shape[1:]) for k, v in outputs.items()} == {
        "2": (12, 11, 16),
        "3": (6, 6, 32),
        "4": (3, 3, 64),
        "5": (2, 2, 128),
    }
    assert backbone.output_strides == {"2": 4, "3": 8, "4": 16, "5": 32}
    assert backbone.output_channels == {k: v.shape[-1] for k, v in outputs.items()}


def test_a_fusion_by_hand():
    # Two branches of one channel whose blocks add nothing; every fusing kernel's centre is 1.
    options = {"norm": "none", "norm_momentum": 0.9, "norm_epsilon": 1e-5}
    module = hrnet.HighResolutionModule(
        (1, 1), num_blocks=1, upsampling="nearest", norm_options=options
    )
    fine = tf.reshape([[1.0, 2.0, 3.0]] * 3, [1, 3, 3, 1])
    coarse = tf.reshape([[10.0, 20.0], [30.0, 40.0]], [1, 2, 2, 1])
    module([fine, coarse])
    for v in module.variables:
        values = np.zeros(v.shape)
        if "fuse" in v.name and values.ndim == 4:
            values[v.shape[0] // 2, v.shape[1] // 2] = 1.0
        v.assign(values)
    outputs = module([fine, coarse])
    # 3x3 gets the 2x2 map repeated to 4x4 and cut; 2x2 gets every second cell of 3x3.
    np.testing.assert_allclose(outputs[0][0, :, :, 0], [[11, 12, 23], [11, 12, 23], [31, 32, 43]])
    np.testing.assert_allclose(outputs[1][0, :, :, 0], [[11, 23], [31, 43]])


def test_names_are_stable_and_unique():
    names = []
    for _ in range(2):
        inputs = tf.keras.Input([32, 32, 3])
        model = tf.keras.Model(inputs, build(num_modules=(2, 1, 1))(inputs))
        names.append([v.name for v in model.variables])
    assert names[0] == names[1] and len(set(names[0])) == len(names[0])
    fusions = {
        s: [
            f"fuse{i}_{j}_{k}"
            for i in range(s)
            for j in range(s)
            for k in range(1 if j > i else i - j)
        ]
        for s in (2, 3, 4)
    }
    modules = {2: 2, 3: 1, 4: 1}
    assert {name.rsplit("/", 2)[0] for name in names[0]} == {
        *(f"backbone/stem/conv{i}" for i in (1, 2)),
        *(f"backbone/stage1_0/{conv}" for conv in ("conv1", "conv2", "conv3")),
        *(f"backbone/transition{t}" for t in ("2_0", "2_1", "3_2", "4_3")),
        *(
            f"backbone/stage{s}_{m}/branch{b}_0/conv{i}"
            for s, count in modules.items()
            for m in range(count)
            for b in range(s)
            for i in (1, 2)
        ),
        *(
            f"backbone/stage{s}_{m}/{fusion}"
            for s, count in modules.items()
            for m in range(count)
            for fusion in fusions[s]
        ),
    }


@pytest.mark.parametrize(
    "frozen_stages, frozen",
    [
        (0, []),
        (1, ["stem"]),
        (3, ["stem", "stage1", "transition2", "stage2"]),
        (5, ["stem", "stage", "transition"]),
    ],
)
def test_frozen_stages(frozen_stages, frozen):
    backbone = build(frozen_stages=frozen_stages)
    x = tf.random.stateless_normal([2, 32, 32, 3], seed=(0, 1))
    backbone(x)
    before = {v.name: v.numpy() for v in backbone.variables}
    backbone(x, training=True)
    moved = {v.name for v in backbone.variables if (before[v.name] != v).numpy().any()}
    parts = {v.name.split("/")[1] for v in backbone.variables}
    trained = {v.name.split("/")[1] for v in backbone.trainable_variables}
    assert {part for part in parts if part.startswith(tuple(frozen))} == parts - trained
    assert {name.split("/")[1] for name in moved} == trained


@pytest.mark.parametrize("norm", ["batch", "frozen_batch", "sync_batch", "group"])
def test_every_trainable_variable_has_a_gradient(norm, mixed_bfloat16):
    backbone = build(norm=norm)
    x = tf.random.stateless_normal([2, 48, 41, 3], seed=(0, 1))
    with tf.GradientTape() as tape:
        outputs = backbone(x, training=True)
        loss = tf.add_n(
            [tf.reduce_sum(tf.square(tf.cast(y, tf.float32))) for y in outputs.values()]
        )
    assert outputs["2"].dtype == tf.bfloat16
    assert all(g is not None for g in tape.gradient(loss, backbone.trainable_variables))


def test_group_norm_fits_the_width():
    backbone = build(norm="group", width=18)
    backbone(tf.zeros([1, 32, 32, 3]))
    assert backbone.stages[0][0].branches[1][0].convs[0].norm._groups == 2


@pytest.mark.parametrize(
    "options, message",
    [
        ({"output_stride": 16}, "output_stride must be 32 for an HRNet.*got 16"),
        ({"multi_grid": (1, 2, 4)}, "multi_grid does not belong to HRNet"),
        ({"frozen_stages": 6}, "frozen_stages must be 0 to 5, got 6"),
        ({"num_modules": (1, 1)}, "three positive"),
        ({"width": 0}, "must be positive"),
        ({"upsampling": "cubic"}, "upsampling must be one of nearest, bilinear"),
        ({"depth": 48}, "HRNet has no option depth"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)

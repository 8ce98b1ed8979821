import pathlib
import re

import builtin_tflite
import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.backbones import factory, swin, window_attention
from panoptic_tf.checkpoints import matching, names
from panoptic_tf.checkpoints.readers.arrays import StoredArray, StoredCheckpoint

# Recorded from transformers 5.24.0: SwinBackbone with embed_dim=4, num_heads=[1, 1, 2, 2] and
# random weights; depths=[2, 2, 2, 2] with windows of 4 (its names in a file), [2, 2, 1, 1] with 7
# (its names in memory).
GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "swin"
_TINY = {"width": 4, "num_heads": (1, 1, 2, 2), "num_blocks": (2, 2, 1, 1), "window_size": 4}


def build(**options):
    return factory.build_backbone("swin_tiny", **{**_TINY, **options})


def randomize(backbone):
    rng = np.random.default_rng(0)
    for v in backbone.variables:
        mean = 1.0 if "gamma" in v.name else 0.0
        v.assign(mean + (1.0 if "table" in v.name else 0.3) * rng.normal(size=v.shape))


# What is published


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, parameters, channels",
    # transformers 5.24.0, SwinBackbone of the four sizes without the classifier's norm (2 * C5).
    [
        ("swin_tiny", 27_522_234 - 2 * 768, [96, 192, 384, 768]),
        ("swin_small", 48_840_138 - 2 * 768, [96, 192, 384, 768]),
        ("swin_base", 86_747_064 - 2 * 1024, [128, 256, 512, 1024]),
        ("swin_large", 195_001_236 - 2 * 1536, [192, 384, 768, 1536]),
    ],
)
def test_parameters_of_the_family(name, parameters, channels):
    backbone = factory.build_backbone(name)
    backbone(tf.keras.Input([64, 96, 3]))
    assert sum(int(np.prod(v.shape)) for v in backbone.trainable_variables) == parameters
    assert len(backbone.variables) == len(backbone.trainable_variables)
    assert list(backbone.output_channels.values()) == channels


@pytest.mark.parametrize("window_size, num_blocks", [(4, (2, 2, 2, 2)), (7, (2, 2, 1, 1))])
def test_recorded_outputs(window_size, num_blocks):
    with np.load(GOLDEN / f"window{window_size}.npz") as file:
        golden = {key: value.astype(np.float32) for key, value in file.items()}
    image = golden.pop("image")
    levels = {level: golden.pop(f"level{level}") for level in "2345"}
    arrays = {k: StoredArray(v.shape, v.dtype, lambda v=v: v) for k, v in golden.items()}
    checkpoint = StoredCheckpoint("model.safetensors", arrays, {})
    backbone = build(window_size=window_size, num_blocks=num_blocks)
    backbone(tf.zeros(image.shape))
    shapes = {v.name.partition(":")[0]: tuple(v.shape) for v in backbone.variables}
    translation = names.find_source(checkpoint).translate(checkpoint)
    match = matching.compare(translation, shapes, modules="all")
    assert match.is_whole, match.differences()
    for v in backbone.variables:
        v.assign(match.values[v.name.partition(":")[0]])
    outputs = backbone(image, training=False)
    for level, expected in levels.items():
        np.testing.assert_allclose(outputs[level], expected, rtol=1e-4, atol=1e-5)


# Windows


def brute_force_attention(x, attention, size, shift):
    """Every cell attends to those of its window that lie on the same side of the map's seam."""
    height, width, channels = x.shape
    padded_height, padded_width = (-(-side // size) * size for side in (height, width))
    padded = np.zeros([padded_height, padded_width, channels])
    padded[:height, :width] = x
    qkv = padded @ attention.qkv.kernel.numpy() + attention.qkv.bias.numpy()
    table = attention.bias_table.numpy()
    heads = table.shape[-1]
    query, key, value = np.split(qkv.reshape(padded_height, padded_width, 3 * heads, -1), 3, axis=2)

    def window(cell, side):
        """Where the cell lies when the map is cut every `size` cells from `shift` on."""
        moved = (cell - shift) % side
        # Those before `shift` wrapped around to the last window, and share it with none of its own.
        return moved // size, cell < shift

    outputs = np.zeros([height, width, channels])
    for y in range(height):
        for x_ in range(width):
            home = window(y, padded_height), window(x_, padded_width)
            near = [
                (v, u)
                for v in range(padded_height)
                for u in range(padded_width)
                if (window(v, padded_height), window(u, padded_width)) == home
            ]
            for head in range(heads):
                dot = [query[y, x_, head] @ key[v, u, head] for v, u in near]
                # Cells that wrapped around keep their distances among themselves.
                bias = [table[y - v + size - 1, x_ - u + size - 1, head] for v, u in near]
                logits = np.array(dot) / np.sqrt(query.shape[-1]) + bias
                weights = np.exp(logits - logits.max())
                mixed = sum(w * value[v, u, head] for w, (v, u) in zip(weights, near))
                d = query.shape[-1]
                outputs[y, x_, head * d : (head + 1) * d] = mixed / weights.sum()
    return outputs @ attention.output_dense.kernel.numpy() + attention.output_dense.bias.numpy()


@pytest.mark.parametrize(
    "height, width, size, shift",
    [(6, 6, 3, 0), (6, 9, 3, 1), (5, 7, 3, 1), (8, 4, 4, 2), (2, 3, 4, 2), (7, 5, 5, 2)],
)
def test_attention_of_shifted_windows(height, width, size, shift):
    rng = np.random.default_rng(0)
    attention = window_attention.WindowAttention(4, num_heads=2, window_size=size)
    x = rng.normal(size=(2, height, width, 4)).astype(np.float32)
    windows = -(-height // size), -(-width // size)
    mask = window_attention.shift_mask(windows, size, shift) if shift else None
    attention(x, shift=shift, shift_mask=mask)
    randomize(attention)
    outputs = attention(x, shift=shift, shift_mask=mask)
    expected = [brute_force_attention(image, attention, size, shift) for image in x]
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)


def test_relative_positions_of_a_small_window():
    # Cells 0 and 1 are above 2 and 3. The table is 3x3: row y - y' + 1, column x - x' + 1.
    np.testing.assert_array_equal(
        window_attention.relative_positions(2),
        [
            [4, 3, 1, 0],
            [5, 4, 2, 1],
            [7, 6, 4, 3],
            [8, 7, 5, 4],
        ],
    )


def test_merging_by_hand():
    merge = swin.PatchMerging(1, norm_epsilon=0.0)
    x = tf.reshape([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]], [1, 3, 3, 1])
    merge(x)
    merge.norm.gamma.assign(tf.ones([4]))
    merge.reduction.kernel.assign([[1000.0, 0.0], [100.0, 0.0], [10.0, 0.0], [1.0, 1.0]])
    cells = np.array([[[1, 2, 4, 5], [3, 0, 6, 0]], [[7, 8, 0, 0], [9, 0, 0, 0]]], np.float64)
    centered = cells - cells.mean(axis=-1, keepdims=True)
    normalised = centered / np.sqrt((centered**2).mean(axis=-1, keepdims=True))
    expected = np.stack([normalised @ [1000, 100, 10, 1], normalised[..., 3]], axis=-1)
    np.testing.assert_allclose(merge(x)[0], expected, rtol=1e-5, atol=1e-4)


# The network


def test_levels_at_any_size():
    backbone = build()
    outputs = backbone(tf.zeros([1, 49, 41, 3]))
    assert {k: tuple(v.shape[1:]) for k, v in outputs.items()} == {
        "2": (13, 11, 4),
        "3": (7, 6, 8),
        "4": (4, 3, 16),
        "5": (2, 2, 32),
    }
    assert backbone.output_strides == {"2": 4, "3": 8, "4": 16, "5": 32}
    assert backbone.output_channels == {k: v.shape[-1] for k, v in outputs.items()}


def test_padding_is_zeros_at_the_bottom_and_right():
    backbone = build()
    image = tf.random.stateless_normal([1, 30, 33, 3], seed=(0, 1))
    outputs = backbone(image)
    expected = backbone(tf.pad(image, [[0, 0], [0, 2], [0, 3], [0, 0]]))
    for level in "2345":
        np.testing.assert_array_equal(outputs[level], expected[level])


def test_names_are_stable_and_unique():
    found = []
    for _ in range(2):
        inputs = tf.keras.Input([32, 32, 3])
        model = tf.keras.Model(inputs, build()(inputs))
        found.append([v.name for v in model.variables])
    assert found[0] == found[1] and len(set(found[0])) == len(found[0])
    block = ("norm1", "attention", "attention/qkv", "attention/output", "norm2")
    block += ("mlp/hidden", "mlp/output")
    assert {name.rsplit("/", 1)[0] for name in found[0]} == {
        *(f"backbone/stem/{part}" for part in ("conv", "norm")),
        *(f"backbone/stage{s}/merge/{part}" for s in "345" for part in ("norm", "reduction")),
        *(f"backbone/stage{s}/block0/{part}" for s in "2345" for part in block),
        *(f"backbone/stage{s}/block1/{part}" for s in "23" for part in block),
        *(f"backbone/norm{level}" for level in "2345"),
    }
    assert "backbone/stage2/block0/attention/relative_position_bias_table:0" in found[0]


@pytest.mark.parametrize(
    "frozen_stages, frozen",
    [
        (0, ()),
        (1, ("stem",)),
        (3, ("stem", "stage2", "norm2", "stage3", "norm3")),
        (5, ("stem", "stage", "norm")),
    ],
)
def test_frozen_stages(frozen_stages, frozen):
    backbone = build(frozen_stages=frozen_stages, drop_path_rate=0.9)
    x = tf.random.stateless_normal([2, 32, 32, 3], seed=(0, 1))
    outputs, training = backbone(x), backbone(x, training=True)
    parts = {v.name.split("/")[1] for v in backbone.variables}
    trained = {v.name.split("/")[1] for v in backbone.trainable_variables}
    assert {part for part in parts if part.startswith(frozen)} == parts - trained
    # What is frozen skips nothing.
    same = [level for level in "2345" if np.array_equal(outputs[level], training[level])]
    assert same == [level for level in "2345" if f"norm{level}".startswith(frozen)]


def test_images_skip_blocks_in_training_only():
    block = swin.SwinBlock(
        4, num_heads=1, window_size=4, shift=0, drop_path_rate=0.5, norm_epsilon=1e-5
    )
    image = tf.random.stateless_normal([1, 4, 4, 4], seed=(0, 1))
    x = tf.tile(image, [64, 1, 1, 1])
    block(x)
    randomize(block)
    # What is not skipped counts twice. Of both branches: 4 outcomes.
    attended = 2.0 * block.attention(block.norm1(image))
    outcomes = []
    for start in (image, image + attended):
        moved = tf.reshape(block.mlp(block.norm2(tf.reshape(start, [-1, 4]))), image.shape)
        outcomes += [start, start + 2.0 * moved]
    outputs = block(x, training=True)
    differences = [tf.reduce_max(tf.abs(outputs - y), axis=[1, 2, 3]) for y in outcomes]
    found = np.argmin(differences, axis=0)
    np.testing.assert_allclose(np.min(differences, axis=0), 0.0, atol=1e-4)
    assert set(found) == {0, 1, 2, 3}
    np.testing.assert_allclose(block(x), tf.repeat(block(image), 64, axis=0), atol=1e-4)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_every_variable_has_a_gradient(policy):
    tf.keras.mixed_precision.set_global_policy(policy)
    try:
        backbone = build()
        x = tf.random.stateless_normal([2, 40, 41, 3], seed=(0, 1))
        backbone(x)
        randomize(backbone)
        with tf.GradientTape() as tape:
            outputs = backbone(x, training=False)
            weights = {k: tf.random.stateless_normal(y.shape, (0, 1)) for k, y in outputs.items()}
            losses = [
                tf.reduce_sum(tf.cast(y, tf.float32) * weights[k]) for k, y in outputs.items()
            ]
            loss = tf.add_n(losses)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    assert outputs["2"].dtype == policy[len("mixed_") :]
    gradients = tape.gradient(loss, backbone.trainable_variables)
    for variable, gradient in zip(backbone.trainable_variables, gradients):
        assert isinstance(gradient, tf.Tensor), variable.name  # dense ones
        assert np.isfinite(gradient).all() and np.any(gradient), variable.name


def test_mixed_precision_is_near():
    outputs = {}
    x = tf.random.stateless_normal([1, 40, 41, 3], seed=(0, 1))
    for policy in ("float32", "mixed_float16"):
        tf.keras.mixed_precision.set_global_policy(policy)
        try:
            backbone = build()
        finally:
            tf.keras.mixed_precision.set_global_policy("float32")
        backbone(x)
        randomize(backbone)
        outputs[policy] = backbone(x)
    for level in "2345":
        difference = outputs["mixed_float16"][level] - tf.cast(outputs["float32"][level], "float16")
        assert float(tf.reduce_mean(tf.abs(difference))) < 0.02, level


@pytest.mark.slow
def test_a_batch_of_any_size_and_xla():
    backbone = build()
    x = tf.random.stateless_normal([3, 40, 41, 3], seed=(0, 1))
    backbone(x)
    randomize(backbone)
    expected = backbone(x)
    signature = [tf.TensorSpec([None, 40, 41, 3])]
    for options in ({"input_signature": signature}, {"jit_compile": True}):
        run = tf.function(lambda images: backbone(images, training=False), **options)
        for count in (1, 3):
            for level, outputs in run(x[:count]).items():
                np.testing.assert_allclose(outputs, expected[level][:count], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_tflite_runs_it_with_builtin_operators():
    backbone = build()
    x = tf.random.stateless_normal([1, 40, 41, 3], seed=(0, 1))
    backbone(x)
    randomize(backbone)
    run = tf.function(lambda image: backbone(image, training=False))
    concrete = run.get_concrete_function(tf.TensorSpec([1, 40, 41, 3]))
    runner = builtin_tflite.runner(concrete, backbone)
    (argument,) = runner.get_input_details()
    by_shape = {y.shape: y for y in runner(**{argument: x.numpy()}).values()}
    for expected in backbone(x).values():
        np.testing.assert_allclose(by_shape[tuple(expected.shape)], expected, rtol=1e-4, atol=1e-5)


# What is refused


@pytest.mark.parametrize(
    "options, message",
    [
        ({"output_stride": 16}, "output_stride must be 32 for a Swin Transformer, got 16"),
        ({"multi_grid": (1, 2, 4)}, "multi_grid does not belong to Swin"),
        ({"stride_in_1x1": True}, "stride_in_1x1 does not belong to Swin"),
        ({"frozen_stages": 6}, "frozen_stages must be 0 to 5, got 6"),
        ({"num_blocks": (1, 1)}, "four positive"),
        ({"width": 0}, "must be positive"),
        ({"width": 6, "num_heads": (4, 4, 4, 4)}, r"divide.*\(4, 4, 4, 4\) for width 6"),
        ({"window_size": 1}, "window_size must be at least 2.*got 1"),
        ({"drop_path_rate": 1.0}, "below 1, got 4 and 1.0"),
        ({"depth": 48}, "Swin has no option depth"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_images_of_unknown_size_are_refused():
    with pytest.raises(ValueError, match=re.escape("size that is known")):
        build()(tf.keras.Input([None, 32, 3]))


def test_norms_of_other_backbones_change_nothing():
    found = []
    for norm in ("batch", "frozen_batch", "group"):
        backbone = build(norm=norm, norm_momentum=0.5)
        backbone(tf.zeros([1, 32, 32, 3]))
        found.append([(v.name, v.trainable) for v in backbone.variables])
    assert found[0] == found[1] == found[2]

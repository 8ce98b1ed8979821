"""Swin Transformers of every naming: all arrays come in where they belong, and nothing else."""

import functools
import re

import library_backbones as libraries
import numpy as np
import pytest
import source_files
import tensorflow as tf

from panoptic_tf import checkpoints
from panoptic_tf.backbones import factory
from panoptic_tf.checkpoints import matching, names

_TINY = {"width": 4, "num_heads": (1, 1, 2, 2), "num_blocks": (2, 2, 1, 1), "window_size": 4}


@functools.cache
def _backbone(**options):
    backbone = factory.build_backbone("swin_tiny", **{**_TINY, **options})
    backbone(tf.zeros([1, 32, 32, 3]))
    source_files.randomize(backbone.weights)
    return backbone


def _values():
    return source_files.values_of(_backbone().weights)


def _shapes(backbone):
    return {v.name.partition(":")[0]: tuple(v.shape) for v in backbone.weights}


# From our names to theirs, written here once more.

_LEAVES = ((r"/(kernel|gamma)$", ".weight"), (r"/(beta|bias)$", ".bias"), (r"/", "."))
_BLOCK = (
    (r"/attention/", "/attn/"),
    (r"/attn/output/", "/attn/proj/"),
    (r"/mlp/hidden/", "/mlp/fc1/"),
    (r"/mlp/output/", "/mlp/fc2/"),
)
_STEM = ((r"^stem/conv/", "patch_embed/proj/"), (r"^stem/norm/", "patch_embed/norm/"))
_HUGGING_FACE_BLOCK = (
    (r"/attention/output/", "/attention/output/dense/"),
    (r"/attention/(query|key|value|relative)", r"/attention/self/\1"),
    (r"/mlp/hidden/", "/intermediate/dense/"),
    (r"/mlp/output/", "/output/dense/"),
    (r"/norm1/", "/layernorm_before/"),
    (r"/norm2/", "/layernorm_after/"),
)
_HUGGING_FACE_MEMORY = (
    (r"/attention/output/", "/attention/o_proj/"),
    (r"/attention/(q)uery/", r"/attention/\1_proj/"),
    (r"/attention/(k)ey/", r"/attention/\1_proj/"),
    (r"/attention/(v)alue/", r"/attention/\1_proj/"),
    (r"/attention/relative", "/attention/relative_position_bias/relative"),
    (r"/mlp/hidden/", "/mlp/fc1/"),
    (r"/mlp/output/", "/mlp/fc2/"),
    (r"/norm1/", "/layernorm_before/"),
    (r"/norm2/", "/layernorm_after/"),
)


def _stages(block, merge, *, merge_offset=0):
    """Rules with the number of the stage put into the templates."""
    return [
        rule
        for stage in range(4)
        for rule in (
            (rf"^stage{stage + 2}/block", block.format(stage)),
            (rf"^stage{stage + 2}/merge/", merge.format(merge_offset + stage)),
        )
    ]


def _levels(template):
    return [(rf"^norm{i + 2}/", template.format(i, i + 1)) for i in range(4)]


def _hugging_face(prefix, model, levels, block):
    return [
        (r"^stem/conv/", f"{prefix}{model}embeddings/patch_embeddings/projection/"),
        (r"^stem/norm/", f"{prefix}{model}embeddings/norm/"),
        *_levels(prefix + levels),
        *block,
        *_stages(
            f"{prefix}{model}encoder/layers/{{}}/blocks/",
            f"{prefix}{model}encoder/layers/{{}}/downsample/",
            merge_offset=-1,
        ),
    ]


_AUTHORS = [
    *_STEM,
    *_levels("norm{0}/"),
    *_BLOCK,
    *_stages("layers/{}/blocks/", "layers/{}/downsample/", merge_offset=-1),
]
_ENCODER = "model/pixel_level_module/encoder/"
# How a library names it: title, rules, query, key and value apart, norms of the levels.
STYLES = {
    "authors_detector": ("authors or Mask2Former", _AUTHORS, False, True),
    "authors_classifier": ("authors or Mask2Former", _AUTHORS, False, False),
    "mask2former": (
        "authors or Mask2Former",
        [*_AUTHORS, (r"^(?=patch_embed|layers|norm)", "backbone/")],
        *(False, True),
    ),
    "timm": (
        "timm",
        [*_STEM, *_BLOCK, *_stages("layers/{}/blocks/", "layers/{}/downsample/")],
        *(False, False),
    ),
    "torchvision": (
        "torchvision",
        [
            (r"^stem/conv/", "features/0/0/"),
            (r"^stem/norm/", "features/0/2/"),
            *_BLOCK,
            (r"/mlp/fc1/", "/mlp/0/"),
            (r"/mlp/fc2/", "/mlp/3/"),
            *((rf"^stage{i + 2}/block", f"features/{2 * i + 1}/") for i in range(4)),
            *((rf"^stage{i + 2}/merge/", f"features/{2 * i}/") for i in range(4)),
        ],
        *(False, False),
    ),
    "hugging_face_classifier": (
        "Hugging Face",
        _hugging_face("", "swin/", "", _HUGGING_FACE_BLOCK),
        *(True, False),
    ),
    "hugging_face_backbone": (
        "Hugging Face",
        _hugging_face("", "", "hidden_states_norms/stage{1}/", _HUGGING_FACE_BLOCK),
        *(True, True),
    ),
    "hugging_face_memory": (
        "Hugging Face",
        _hugging_face("", "swin/", "hidden_states_norms/stage{1}/", _HUGGING_FACE_MEMORY),
        *(True, True),
    ),
    "hugging_face_mask2former": (
        "Hugging Face",
        _hugging_face(_ENCODER, "", "hidden_states_norms/stage{1}/", _HUGGING_FACE_BLOCK),
        *(True, True),
    ),
    "hugging_face_maskformer": (
        "Hugging Face",
        _hugging_face(_ENCODER, "model/", "hidden_states_norms/{0}/", _HUGGING_FACE_BLOCK),
        *(True, True),
    ),
}


def _in_torch_layout(path, value):
    if "/merge/" in path:  # Theirs counts the cells of the first column first.
        cells = np.split(value, 4)
        value = np.concatenate([cells[0], cells[2], cells[1], cells[3]])
    if path.endswith("relative_position_bias_table"):
        return value.reshape(-1, value.shape[-1])
    axes = {2: (1, 0), 4: (3, 2, 0, 1)}.get(value.ndim)
    return value if axes is None else value.transpose(axes)


def _written(style, values):
    _, rules, is_apart, has_norms = STYLES[style]
    state = {}
    for path, value in values.items():
        path = path[len("backbone/") :]
        if path.startswith("norm") and not has_norms:
            continue
        parts = {path: value}
        if is_apart and "/qkv/" in path:
            kinds = ("query", "key", "value")
            thirds = np.split(value, 3, axis=-1)
            parts = {path.replace("/qkv/", f"/{k}/"): v for k, v in zip(kinds, thirds)}
        for part, array in parts.items():
            array = _in_torch_layout(part, array)
            for pattern, replacement in (*rules, *_LEAVES):
                part = re.sub(pattern, replacement, part)
            state[part] = array
    return state


def _with_what_is_no_weight(style, state):
    table = next(name for name in state if name.endswith("relative_position_bias_table"))
    more = {table.replace("bias_table", "index"): np.zeros([16, 16], np.int64)}
    vector = np.zeros([32], np.float32)
    if "hugging_face" in style:
        (stem,) = (name for name in state if name.endswith("embeddings.norm.weight"))
        prefix = stem[: -len("embeddings.norm.weight")]
        more[f"{prefix}layernorm.weight"] = vector
        more[f"{prefix}layernorm.bias"] = vector
        if "classifier" in style:
            more["classifier.weight"] = np.zeros([5, 32], np.float32)
    elif style in ("authors_classifier", "timm", "torchvision"):
        head = "head.fc" if style == "timm" else "head"
        more.update({"norm.weight": vector, "norm.bias": vector})
        more[f"{head}.weight"] = np.zeros([5, 32], np.float32)
        if style == "authors_classifier":
            more["layers.0.blocks.1.attn_mask"] = np.zeros([4, 16, 16], np.float32)
    return {**state, **more}


@pytest.mark.parametrize("style", STYLES)
def test_every_variable_comes_in_as_it_was(style):
    title, _, _, has_norms = STYLES[style]
    expected = _values()
    state = _with_what_is_no_weight(style, _written(style, expected))
    checkpoint = libraries.of_values(state)
    source = names.find_source(checkpoint)
    assert source.title.endswith(title)
    match = matching.compare(source.translate(checkpoint), _shapes(_backbone()), modules="all")
    assert match.is_whole, match.differences()
    for path, value in match.values.items():
        is_new = re.match(r"backbone/norm\d/", path) and not has_norms
        wanted = float(path.endswith("gamma")) if is_new else expected[path]
        np.testing.assert_array_equal(value, wanted, err_msg=path)


@pytest.mark.parametrize("style", ["authors_classifier", "hugging_face_mask2former"])
def test_settings_come_with_the_weights(style):
    checkpoint = libraries.of_values(_written(style, _values()))
    assert names.find_source(checkpoint).describe(checkpoint).settings == {
        "normalization.channel_order": "RGB",
        "normalization.mean": [123.675, 116.28, 103.53],
        "normalization.std": [58.395, 57.12, 57.375],
        "model.backbone.norm_epsilon": 1e-5,
        "model.backbone.options.window_size": 4,
    }


def test_windows_of_another_size_are_refused_with_what_to_set(tmp_path):
    state = _written("mask2former", _values())
    path = source_files.write_pickle(state, tmp_path / "model_final.pkl")
    with pytest.raises(checkpoints.CheckpointError) as caught:
        checkpoints.load_weights(path, _backbone(window_size=3).weights, modules="all")
    message = str(caught.value)
    assert "task.model.backbone.options.window_size=4" in message
    table = "attention/relative_position_bias_table"
    assert f"backbone/stage2/block0/{table} is [5, 5, 1]" in message
    name = "backbone.layers.0.blocks.0.attn.relative_position_bias_table"
    assert f"{name} is [7, 7, 1]" in message


def test_a_backbone_comes_out_of_a_segmenter(tmp_path):
    expected = _values()
    state = _written("mask2former", expected)
    state["sem_seg_head.predictor.mask_head.bias"] = np.zeros([3], np.float32)
    path = source_files.write_pickle(state, tmp_path / "model_final.pkl")
    backbone = factory.build_backbone("swin_tiny", **_TINY)
    backbone(tf.zeros([1, 32, 32, 3]))
    checkpoints.load_weights(path, backbone.weights, modules="backbone")
    for name, value in source_files.values_of(backbone.weights).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_a_table_that_is_no_square_is_refused():
    state = _written("authors_detector", _values())
    name = "layers.1.blocks.0.attn.relative_position_bias_table"
    checkpoint = libraries.of_values({**state, name: np.zeros([50, 1], np.float32)})
    translation = names.find_source(checkpoint).translate(checkpoint)
    with pytest.raises(checkpoints.CheckpointError, match=re.escape(name)):
        matching.compare(translation, _shapes(_backbone()), modules="all")


def test_what_has_no_key_for_a_query_is_not_joined():
    state = _written("hugging_face_backbone", _values())
    for leaf in ("weight", "bias"):
        state.pop(f"encoder.layers.0.blocks.0.attention.self.key.{leaf}")
    checkpoint = libraries.of_values(state)
    translation = names.find_source(checkpoint).translate(checkpoint)
    match = matching.compare(translation, _shapes(_backbone()), modules="all")
    layer = "backbone/stage2/block0/attention/qkv"
    assert sorted(match.missing) == [f"{layer}/bias", f"{layer}/kernel"]
    assert len(match.unused) == 4

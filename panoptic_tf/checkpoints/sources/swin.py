"""Swin Transformers: as their authors, timm and torchvision name them, and as Hugging Face does.

Backbones of detectors and segmenters (those of Mask2Former and MaskFormer among them) have a layer
norm for every level; classifiers have none, and the levels' norms are the identity with an epsilon
of theirs, as these libraries start from such a file.
"""

from __future__ import annotations

import math
from typing import Any, Dict, Sequence, Tuple

import numpy as np

from panoptic_tf.checkpoints import names
from panoptic_tf.checkpoints.names import Description, Layout, Source, Translated, Translation
from panoptic_tf.checkpoints.readers.arrays import StoredCheckpoint
from panoptic_tf.checkpoints.sources.settings import IMAGENET, settings

# Stages count from 0 there, from 2 here; a stage of ours starts with the merging.
_BLOCKS: names.Rules = tuple((rf"^layers/{i}/blocks/", f"stage{i + 2}/block") for i in range(4))
_MERGES_LAST: names.Rules = tuple(
    (rf"^layers/{i}/downsample/", f"stage{i + 3}/merge/") for i in range(3)
)
_MERGES_FIRST: names.Rules = tuple(
    (rf"^layers/{i}/downsample/", f"stage{i + 2}/merge/") for i in range(1, 4)
)
_NORMS: names.Rules = tuple((rf"^norm{i}$", f"norm{i + 2}") for i in range(3, -1, -1))
_PARTS: names.Rules = (
    (r"^patch_embed/proj$", "stem/conv"),
    (r"^patch_embed/norm$", "stem/norm"),
    (r"^(stage.*)/attn", r"\1/attention"),
    (r"^(stage.*/attention)/proj$", r"\1/output"),
    (r"^(stage.*/mlp)/fc1$", r"\1/hidden"),
    (r"^(stage.*/mlp)/fc2$", r"\1/output"),
)
_OURS: names.Rules = ((r"^(?=(stem|stage\d|norm[2-5])(/|$))", "backbone/"),)

AUTHORS: names.Rules = (
    (r"^backbone/", ""),
    *_BLOCKS,
    *_MERGES_LAST,
    *_NORMS,
    *_PARTS,
    *_OURS,
)
"""The authors' and those of Mask2Former and MaskFormer."""

_TIMM: names.Rules = (*_BLOCKS, *_MERGES_FIRST, *_PARTS, *_OURS)

_TORCHVISION: names.Rules = (
    (r"^features/0/0$", "stem/conv"),
    (r"^features/0/2$", "stem/norm"),
    *((rf"^features/{2 * i + 1}/(?=\d)", f"stage{i + 2}/block") for i in range(4)),
    *((rf"^features/{2 * i + 2}/", f"stage{i + 3}/merge/") for i in range(3)),
    (r"/mlp/0$", "/mlp/fc1"),
    (r"/mlp/3$", "/mlp/fc2"),
    *_PARTS,
    *_OURS,
)

_ENCODER = r"(?:model/pixel_level_module/encoder/)?(?:swin/|model/)?"
HUGGING_FACE: names.Rules = (
    (rf"^{_ENCODER}embeddings/patch_embeddings/projection$", "stem/conv"),
    (rf"^{_ENCODER}embeddings/norm$", "stem/norm"),
    (rf"^{_ENCODER}encoder/(?=layers/\d/(?:blocks|downsample)/)", ""),
    *((rf"^{_ENCODER}hidden_states_norms/stage{i + 1}$", f"norm{i + 2}") for i in range(4)),
    *((rf"^{_ENCODER}hidden_states_norms/{i}$", f"norm{i + 2}") for i in range(4)),
    *_BLOCKS,
    *_MERGES_LAST,
    (r"^(stage.*)/layernorm_before$", r"\1/norm1"),
    (r"^(stage.*)/layernorm_after$", r"\1/norm2"),
    (r"^(stage.*/attention)/output/dense$", r"\1/output"),
    (r"^(stage.*/attention)/self", r"\1"),
    (r"^(stage.*)/intermediate/dense$", r"\1/mlp/hidden"),
    (r"^(stage.*)/output/dense$", r"\1/mlp/output"),
    # transformers since 5.0, where its names are not changed back on saving.
    (r"^(stage.*/attention)/relative_position_bias$", r"\1"),
    (r"^(stage.*/attention)/q_proj$", r"\1/query"),
    (r"^(stage.*/attention)/k_proj$", r"\1/key"),
    (r"^(stage.*/attention)/v_proj$", r"\1/value"),
    (r"^(stage.*/attention)/o_proj$", r"\1/output"),
    *_PARTS,
    *_OURS,
)
"""Hugging Face's, of a classifier, a backbone alone, Mask2Former or MaskFormer."""


# Layouts


def _merged_to_ours(values: np.ndarray) -> np.ndarray:
    """The 4C inputs of a merging, by cell: (0, 0), (1, 0), (0, 1), (1, 1) -> our order, by rows."""
    cells = values.reshape(2, 2, -1, *values.shape[1:])  # [x, y, C, ...]
    return cells.swapaxes(0, 1).reshape(values.shape)


def _table_to_ours(values: np.ndarray) -> np.ndarray:
    """[heads, (2w - 1)^2], as a kernel lies here, -> [2w - 1, 2w - 1, heads]."""
    side = math.isqrt(values.shape[1])
    return values.T.reshape(side, side, -1)


LAYOUTS: Sequence[Tuple[str, Layout]] = (
    (r"/merge/(norm|reduction)/", _merged_to_ours),
    (r"/relative_position_bias_table$", _table_to_ours),
)
"""What the arrays of all need."""


def complete(translation: Translation) -> Translation:
    """Joins query, key and value, and makes the levels' norms the identity where there are none."""
    found = dict(translation)
    for path in translation:
        if path.startswith("backbone/") and "/attention/query/" in path:
            parts = [path.replace("/query/", f"/{part}/") for part in ("query", "key", "value")]
            if all(part in found for part in parts):
                found[path.replace("/query/", "/qkv/")] = _joined([found.pop(p) for p in parts])
    for level in "2345":
        for leaf, value in (("gamma", 1.0), ("beta", 0.0)):
            like = found.get(f"backbone/stage{level}/block0/norm1/{leaf}")
            if like is not None and "backbone/norm2/gamma" not in translation:
                found[f"backbone/norm{level}/{leaf}"] = _constant_like(like, value)
    return found


def _joined(parts: Sequence[Translated]) -> Translated:
    return Translated(
        ", ".join(part.source_name for part in parts),
        lambda: np.concatenate([part.read() for part in parts], axis=-1),
    )


def _constant_like(other: Translated, value: float) -> Translated:
    return Translated(
        other.source_name, lambda: np.full_like(other.read(), value, dtype=np.float32)
    )


# What a file is.


def describe(checkpoint: StoredCheckpoint) -> Description:
    """ImageNet's normalisation, and the size of the windows by that of a table."""
    tables = (v for k, v in checkpoint.arrays.items() if k.endswith("position_bias_table"))
    side = math.isqrt(next(tables).shape[0])  # 2w - 1
    return Description(settings(IMAGENET, norm_epsilon=1e-5, window_size=(side + 1) // 2))


_NOT_WEIGHTS = (r"\.(relative_position_index|attn_mask)$",)

_OF_CLASSIFIERS = r"^(norm|head)\."


def _register(title: str, signature: Tuple[str, ...], rules: names.Rules, *ignored: str) -> None:
    options: Dict[str, Any] = {"layouts": LAYOUTS, "complete": complete, "describe": describe}
    ignored = (*_NOT_WEIGHTS, *ignored)
    names.register_source(Source(title, signature, rules, ignored=ignored, **options))


_register(
    "a Swin Transformer of timm",
    (
        r"^layers\.0\.blocks\.0\.attn\.relative_position_bias_table$",
        r"^layers\.3\.downsample\.reduction\.weight$",
    ),
    _TIMM,
    _OF_CLASSIFIERS,
)
_register(
    "a Swin Transformer of its authors or Mask2Former",
    (
        r"^(backbone\.)?layers\.0\.blocks\.0\.attn\.relative_position_bias_table$",
        r"^(backbone\.)?patch_embed\.proj\.weight$",
    ),
    AUTHORS,
    _OF_CLASSIFIERS,
)
_register(
    "a Swin Transformer of torchvision",
    (
        r"^features\.1\.0\.attn\.relative_position_bias_table$",
        r"^features\.0\.0\.weight$",
    ),
    _TORCHVISION,
    _OF_CLASSIFIERS,
)
_register(
    "a Swin Transformer of Hugging Face",
    (
        r"encoder\.layers\.0\.blocks\.0\.layernorm_before\.weight$",
        r"encoder\.layers\.0\.blocks\.0\.attention\..*relative_position_bias_table$",
    ),
    HUGGING_FACE,
    # The norm of a classifier, which a backbone may have beside those of its levels.
    r"^(model\.pixel_level_module\.encoder\.)?((swin|model)\.)?layernorm\.",
    r"^classifier\.",
    r"embeddings\.mask_token$",
)

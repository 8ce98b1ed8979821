"""DINOv2 with registers, of timm and of Hugging Face, and EoMT, of its authors and of Hugging Face.

DINOv2 is brought to the network's patches and positions, as timm does it and with it the authors of
EoMT: positions are resized (bicubic), kernels of patches by the pseudo-inverse of the resizing of
images (FlexiViT, arXiv:2212.08013).
"""

from __future__ import annotations

import functools
import math
import re
from typing import Any, Dict, Optional, Tuple

import numpy as np
import tensorflow as tf

from panoptic_tf.checkpoints import names
from panoptic_tf.checkpoints.names import Description, Source, Translated, Translation
from panoptic_tf.checkpoints.readers.arrays import StoredCheckpoint

_KERNEL, _POSITIONS = "backbone/patch_embedding/kernel", "backbone/positions"
_CLASS_TOKEN = "backbone/class_token"

_BLOCK = r"^(backbone/block_\d+)"
_HUGGING_FACE: names.Rules = (
    (r"^embeddings/patch_embeddings/projection$", "backbone/patch_embedding"),
    (r"^embeddings/position_embeddings$", _POSITIONS),
    (r"^embeddings$", "backbone"),
    (r"^layernorm$", "backbone/norm"),
    (r"^(?:encoder/layer|layers)/(\d+)/", r"backbone/block_\1/"),
    (rf"{_BLOCK}/attention/(?:attention/)?(query|key|value)$", r"\1/attention/\2"),
    (rf"{_BLOCK}/attention/q_proj$", r"\1/attention/query"),
    (rf"{_BLOCK}/attention/k_proj$", r"\1/attention/key"),
    (rf"{_BLOCK}/attention/v_proj$", r"\1/attention/value"),
    (rf"{_BLOCK}/attention/(?:out_proj|output/dense)$", r"\1/attention/output"),
)
_TIMM: names.Rules = (
    (r"^(?:network/)?encoder/backbone(?=/|$)", ""),
    (r"^/?patch_embed/proj$", "backbone/patch_embedding"),
    (r"^/?norm$", "backbone/norm"),
    (r"^/?blocks/(\d+)/", r"backbone/block_\1/"),
    (rf"{_BLOCK}/attn/qkv$", r"\1/attention/qkv"),
    (rf"{_BLOCK}/attn/proj$", r"\1/attention/output"),
    (rf"{_BLOCK}/ls(\d)$", r"\1/layer_scale\2"),
    (r"^/?$", "backbone"),
)
_MLP: names.Rules = (
    (rf"{_BLOCK}/mlp/fc1$", r"\1/hidden"),
    (rf"{_BLOCK}/mlp/fc2$", r"\1/output"),
)
_HEADS: names.Rules = (
    (r"^query$", "query_heads/queries"),
    (r"^network/q$", "query_heads/queries"),
    (r"^class_predictor$|^network/class_head$", "query_heads/class_predictor"),
    *((rf"^mask_head/fc{i + 1}$", f"query_heads/mask_embedding_{i}") for i in range(3)),
    *((rf"^network/mask_head/{2 * i}$", f"query_heads/mask_embedding_{i}") for i in range(3)),
    (r"^(?:upscale_block/block|network/upscale)/(\d)/conv1$", r"query_heads/upscale_\1/deconv"),
    (r"^(?:upscale_block/block|network/upscale)/(\d)/conv2$", r"query_heads/upscale_\1/conv"),
    (
        r"^(?:upscale_block/block|network/upscale)/(\d)/(?:layernorm2d|norm)$",
        r"query_heads/upscale_\1/norm",
    ),
)


_LAYOUTS = ((rf"^({_POSITIONS}|query_heads/queries)/kernel$", names.embedding_to_ours),)
_SINGLE = {
    f"{_POSITIONS}/kernel": _POSITIONS,
    "query_heads/queries/kernel": "query_heads/queries",
    "backbone/cls_token": _CLASS_TOKEN,
    "backbone/register_tokens": "backbone/registers",
    "backbone/reg_token": "backbone/registers",
    "backbone/position_embeddings": _POSITIONS,
    "backbone/pos_embed": _POSITIONS,
}


def _complete(translation: Translation) -> Translation:
    """Names single arrays, and cuts joined projections apart."""
    found: Translation = {}
    for path, translated in translation.items():
        path = _SINGLE.get(path, path)
        path = re.sub(r"/layer_scale(\d)/(?:lambda1|gamma)$", r"/scale\1", path)
        if match := re.search(r"/qkv/(kernel|bias)$", path):
            for i, part in enumerate(("query", "key", "value")):
                third = translated.changed(functools.partial(names.third_of_outputs, number=i))
                found[f"{path[: match.start()]}/{part}/{match[1]}"] = third
            continue
        found[path] = translated
    if {_POSITIONS, _CLASS_TOKEN} <= set(found):
        stored, token = found[_POSITIONS], found[_CLASS_TOKEN]
        found[_POSITIONS] = stored.changed(lambda x: _positions(x)[1])
        # The class token may have a position, too.
        found[_CLASS_TOKEN] = token.changed(lambda x: x + _positions(stored.read())[0])
    return found


def _complete_model(translation: Translation) -> Translation:
    """Also counts training steps from 0."""
    steps = Translated("(none)", lambda: np.zeros([], np.float32))
    return {"query_heads/steps": steps, **_complete(translation)}


def _positions(stored: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """[1, N, C] or [N, C] -> [C] of the class token, else 0, and those of a square of patches."""
    rows = stored.reshape(-1, stored.shape[-1])
    before = len(rows) - math.isqrt(len(rows)) ** 2
    return rows[:before].sum(axis=0), rows[before:]


class _Encoder(Source):
    """DINOv2 at any patch size and image size."""

    def translate_for(
        self, checkpoint: StoredCheckpoint, network: Optional[tf.Module]
    ) -> Translation:
        """See base class: resized to the network's patches."""
        found = self.translate(checkpoint)
        layers = [x for x in (network.submodules if network else ()) if hasattr(x, "grid")]
        if len(layers) != 1:
            return found
        grid, side = layers[0].grid, layers[0].patch_embedding.kernel_size[0]
        return {
            **found,
            _KERNEL: found[_KERNEL].changed(lambda x: resize_kernel(x, side)),
            _POSITIONS: found[_POSITIONS].changed(lambda x: resize_positions(x, grid)),
        }


def resize_positions(positions: np.ndarray, grid: Tuple[int, int]) -> np.ndarray:
    """[n * n, C] -> [rows * columns, C], bicubic."""
    side = math.isqrt(len(positions))
    if grid == (side, side):
        return positions
    maps = positions.reshape(side, side, -1)
    rows, columns = (_resizing(side, count) for count in grid)
    return np.einsum("iy,jx,yxc->ijc", rows, columns, maps).reshape(-1, positions.shape[1])


def resize_kernel(kernel: np.ndarray, side: int) -> np.ndarray:
    """[n, n, 3, C] -> [side, side, 3, C]: on a resized patch it gives what it gave on the patch."""
    if kernel.shape[0] == side:
        return kernel
    # The resizing of a patch, rows by columns, has the pseudo-inverses of both as its own.
    inverse = np.linalg.pinv(_resizing(kernel.shape[0], side).T)  # [side, n]
    return np.einsum("iy,jx,yxcd->ijcd", inverse, inverse, kernel)


def _resizing(length: int, count: int) -> np.ndarray:
    """Bicubic resizing (a = -0.5) of a line with antialiasing, float64 [count, length]."""
    stride = length / count
    scale = max(stride, 1.0)
    centers = (np.arange(count) + 0.5) * stride
    x = np.abs(np.arange(length) + 0.5 - centers[:, np.newaxis]) / scale
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    weights = np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
    return weights / weights.sum(axis=1, keepdims=True)


# What a file is.

_EXPERIMENTS = {384: "eomt_small_coco", 768: "eomt_base_coco", 1024: "eomt_large_coco"}
_COCO = 133
_PATCHES = re.compile(r"(patch_embeddings\.projection|patch_embed\.proj)\.weight$")
_CLASSES = re.compile(r"(class_predictor|class_head)\.weight$")
_QUERIES = re.compile(r"^(query|network\.q)\.weight$")


def _describe(checkpoint: StoredCheckpoint) -> Description:
    """The number of queries, and the experiment where it is of a published size."""

    def shape(pattern: re.Pattern) -> Tuple[int, ...]:
        return next(v.shape for k, v in checkpoint.arrays.items() if pattern.search(k))

    channels, _, patch_size, _ = shape(_PATCHES)
    settings: Dict[str, Any] = {"model.encoder.num_queries": shape(_QUERIES)[0]}
    experiment = _EXPERIMENTS.get(channels)
    if shape(_CLASSES)[0] - 1 != _COCO or patch_size != 16 or experiment is None:
        return Description(settings)
    return Description(settings, (experiment,))


_MODEL_OPTIONS: Dict[str, Any] = {
    "layouts": _LAYOUTS,
    "complete": _complete_model,
    "describe": _describe,
}
_IGNORED = (
    r"(^|\.)attn_mask_probs$",
    r"(^|\.)empty_weight$",
    r"\.pixel_(mean|std)$",
)
names.register_source(
    Source(
        "EoMT of Hugging Face",
        (r"^embeddings\.register_tokens$", r"^upscale_block\.block\.0\.conv1\.weight$"),
        (*_HUGGING_FACE, *_MLP, *_HEADS),
        ignored=_IGNORED,
        **_MODEL_OPTIONS,
    ),
    is_model=True,
)
names.register_source(
    Source(
        "the authors' EoMT",
        (r"^network\.encoder\.backbone\.reg_token$", r"^network\.upscale\.0\.conv1\.weight$"),
        (*_TIMM, *_MLP, *_HEADS),
        ignored=(*_IGNORED, r"^criterion\."),
        **_MODEL_OPTIONS,
    ),
    is_model=True,
)
names.register_source(
    _Encoder(
        "DINOv2 of timm",
        (r"^reg_token$", r"^blocks\.0\.attn\.qkv\.weight$", r"^blocks\.0\.ls1\.gamma$"),
        (*_TIMM, *_MLP),
        layouts=_LAYOUTS,
        complete=_complete,
    )
)
names.register_source(
    _Encoder(
        "DINOv2 of Hugging Face",
        (r"^embeddings\.register_tokens$", r"^encoder\.layer\.0\.layer_scale1\.lambda1$"),
        (*_HUGGING_FACE, *_MLP),
        layouts=_LAYOUTS,
        ignored=(r"\.mask_token$",),
        complete=_complete,
    )
)

"""Mask2Former and MaskFormer: as their authors name them, and as Hugging Face does."""

from __future__ import annotations

import functools
import re
from typing import Any, Dict, Optional, Tuple

from panoptic_tf.checkpoints import names
from panoptic_tf.checkpoints.names import Description, Source, Translation
from panoptic_tf.checkpoints.readers.arrays import StoredCheckpoint
from panoptic_tf.checkpoints.sources import detectron2, pytorch_resnets, swin

_PIXEL, _DECODER = "pixel_decoder", "transformer_decoder"

# Parts of an attention, of a layer of attention and feed-forward, of a perceptron.
_PARTS: names.Rules = (
    (r"/(?:multihead_attn|self_attn)/out_proj$", "/attention/output"),
    (r"/(?:multihead_attn|self_attn)$", "/attention"),
    (r"/linear1$", "/feed_forward/hidden"),
    (r"/linear2$", "/feed_forward/output"),
)
_MASK2FORMER: names.Rules = (
    # Files of the first version have no name for the pixel decoder.
    (r"^sem_seg_head/(?!pixel_decoder|predictor)", "sem_seg_head/pixel_decoder/"),
    (r"^sem_seg_head/pixel_decoder/", f"{_PIXEL}/"),
    (r"^sem_seg_head/predictor/", f"{_DECODER}/"),
    # Before the encoder's layers get such names.
    (rf"^{_PIXEL}/adapter_1$", f"{_PIXEL}/lateral_2/conv"),
    (rf"^{_PIXEL}/adapter_1/norm$", f"{_PIXEL}/lateral_2/norm"),
    (rf"^{_PIXEL}/layer_1$", f"{_PIXEL}/output_2/conv"),
    (rf"^{_PIXEL}/layer_1/norm$", f"{_PIXEL}/output_2/norm"),
    *(
        (rf"^{_PIXEL}/input_proj/{i}/{j}$", f"{_PIXEL}/input_{5 - i}/{part}")
        for i in range(3)
        for j, part in enumerate(("conv", "norm"))
    ),
    (rf"^{_PIXEL}/transformer/encoder/layers/(\d)/", rf"{_PIXEL}/layer_\1/"),
    (rf"^({_PIXEL}/layer_\d)/self_attn/", r"\1/attention/"),
    (rf"^({_PIXEL}/layer_\d/attention)/sampling_offsets$", r"\1/offset"),
    (rf"^({_PIXEL}/layer_\d/attention)/attention_weights$", r"\1/weight"),
    (rf"^({_PIXEL}/layer_\d/attention)/(value|output)_proj$", r"\1/\2"),
    (rf"^({_PIXEL}/layer_\d)/norm1$", r"\1/norm"),
    (rf"^({_PIXEL}/layer_\d)/norm2$", r"\1/feed_forward/norm"),
    (rf"^{_PIXEL}/transformer$", _PIXEL),
    *((rf"^{_DECODER}/input_proj/{i}$", f"{_DECODER}/input_{5 - i}") for i in range(3)),
    *(
        (
            rf"^{_DECODER}/transformer_{kind}_attention_layers/(\d)/(?:self|multihead)_attn",
            rf"{_DECODER}/layer_\1/{kind}_attention",
        )
        for kind in ("cross", "self")
    ),
    (rf"^({_DECODER}/layer_\d/\w+_attention)/out_proj$", r"\1/output"),
    (
        rf"^{_DECODER}/transformer_(\w+)_attention_layers/(\d)/norm$",
        rf"{_DECODER}/layer_\2/\1_attention_norm",
    ),
    (rf"^{_DECODER}/transformer_ffn_layers/(\d)/norm$", rf"{_DECODER}/layer_\1/feed_forward/norm"),
    (rf"^{_DECODER}/transformer_ffn_layers/(\d)/", rf"{_DECODER}/layer_\1/"),
    (rf"^{_DECODER}/decoder_norm$", f"{_DECODER}/norm"),
)
_MASKFORMER: names.Rules = (
    (r"^sem_seg_head/pixel_decoder/", f"{_PIXEL}/"),
    (r"^sem_seg_head/predictor/", f"{_DECODER}/"),
    (rf"^{_PIXEL}/input_proj$", f"{_PIXEL}/input_5/conv"),
    (rf"^{_PIXEL}/transformer/encoder/layers/(\d)/", rf"{_PIXEL}/encoder/layer_\1/"),
    (rf"^({_PIXEL}/encoder/layer_\d)/norm1$", r"\1/norm"),
    (rf"^({_PIXEL}/encoder/layer_\d)/norm2$", r"\1/feed_forward/norm"),
    *(
        (rf"^{_PIXEL}/{theirs}_{i}(/norm)?$", rf"{_PIXEL}/{ours}_{i + 1}/conv\1")
        for theirs, ours in (("adapter", "lateral"), ("layer", "output"))
        for i in (1, 2, 3, 4)
    ),
    (rf"^({_PIXEL}/\w+_\d)/conv/norm$", r"\1/norm"),
    (rf"^{_PIXEL}/encoder/", f"{_PIXEL}/"),
    (rf"^{_DECODER}/input_proj$", f"{_DECODER}/input_5"),
    (rf"^{_DECODER}/transformer/decoder/layers/(\d)/", rf"{_DECODER}/layer_\1/"),
    (rf"^{_DECODER}/transformer/decoder/norm$", f"{_DECODER}/norm"),
    *(
        (rf"^({_DECODER}/layer_\d)/{theirs}_attn", rf"\1/{ours}_attention")
        for theirs, ours in (("self", "self"), ("multihead", "cross"))
    ),
    (rf"^({_DECODER}/layer_\d/\w+_attention)/out_proj$", r"\1/output"),
    (rf"^({_DECODER}/layer_\d)/norm1$", r"\1/self_attention_norm"),
    (rf"^({_DECODER}/layer_\d)/norm2$", r"\1/cross_attention_norm"),
    (rf"^({_DECODER}/layer_\d)/norm3$", r"\1/feed_forward/norm"),
)
_LAST: names.Rules = (
    *_PARTS,
    # Projections apart, as Hugging Face has them.
    (r"(attention)/q_proj$", r"\1/query"),
    (r"(attention)/k_proj$", r"\1/key"),
    (r"(attention)/v_proj$", r"\1/value"),
    (r"(attention)/o(?:ut)?_proj$", r"\1/output"),
    (rf"^{_PIXEL}/mask_features$", f"{_PIXEL}/mask_features/conv"),
    (rf"^{_DECODER}/query_embed$", f"{_DECODER}/query_positions"),
    (rf"^{_DECODER}/(?:query_feat|static_query)$", f"{_DECODER}/query_features"),
    (rf"^{_DECODER}/level_embed$", f"{_DECODER}/level_embedding"),
    (rf"^{_DECODER}/mask_embed/layers/(\d)$", rf"{_DECODER}/mask_embedding_\1"),
    (rf"^{_DECODER}/class_embed$", f"{_DECODER}/class_predictor"),
)

# Hugging Face's names, brought to the authors'.
_AS_AUTHORS: names.Rules = (
    (r"^model/", ""),
    (r"^pixel_level_module/encoder/(?=embedder/|encoder/stages/)", ""),
    (r"^pixel_level_module/decoder/input_projections/", "sem_seg_head/pixel_decoder/input_proj/"),
    (
        r"^pixel_level_module/decoder/encoder/layers/(\d)/",
        r"sem_seg_head/pixel_decoder/transformer/encoder/layers/\1/",
    ),
    (r"^(sem_seg_head/.*)/self_attn_layer_norm$", r"\1/norm1"),
    (r"^(sem_seg_head/pixel_decoder.*)/final_layer_norm$", r"\1/norm2"),
    (r"^pixel_level_module/decoder/(adapter|layer)_1/0$", r"sem_seg_head/pixel_decoder/\1_1"),
    (r"^pixel_level_module/decoder/(adapter|layer)_1/1$", r"sem_seg_head/pixel_decoder/\1_1/norm"),
    (
        r"^pixel_level_module/decoder/mask_projection$",
        "sem_seg_head/pixel_decoder/mask_features",
    ),
    (r"^pixel_level_module/decoder$", "sem_seg_head/pixel_decoder/transformer"),
    (r"^pixel_level_module/decoder/fpn/stem/0$", "sem_seg_head/pixel_decoder/layer_4"),
    (r"^pixel_level_module/decoder/fpn/stem/1$", "sem_seg_head/pixel_decoder/layer_4/norm"),
    *(
        (
            rf"^pixel_level_module/decoder/fpn/layers/{i}/{theirs}/{j}$",
            f"sem_seg_head/pixel_decoder/{ours}_{3 - i}{norm}",
        )
        for i in range(3)
        for theirs, ours in (("proj", "adapter"), ("block", "layer"))
        for j, norm in enumerate(("", "/norm"))
    ),
    (r"^transformer_module/queries_embedder$", "sem_seg_head/predictor/query_embed"),
    (r"^transformer_module/queries_features$", "sem_seg_head/predictor/query_feat"),
    (r"^transformer_module/level_embed$", "sem_seg_head/predictor/level_embed"),
    (r"^transformer_module/input_projections/(\d)$", r"sem_seg_head/predictor/input_proj/\1"),
    (r"^transformer_module/input_projection$", "sem_seg_head/predictor/input_proj"),
    (
        r"^transformer_module/decoder/mask_predictor/mask_embedder/(\d)/0$",
        r"sem_seg_head/predictor/mask_embed/layers/\1",
    ),
    (r"^mask_embedder/(\d)/0$", r"sem_seg_head/predictor/mask_embed/layers/\1"),
    (r"^class_predictor$", "sem_seg_head/predictor/class_embed"),
    (r"/fc1$", "/linear1"),
    (r"/fc2$", "/linear2"),
    (r"/mlp/linear(\d)$", r"/linear\1"),
)
_AS_MASK2FORMER: names.Rules = (
    (r"^transformer_module/decoder/layernorm$", "sem_seg_head/predictor/decoder_norm"),
    (
        r"^transformer_module/decoder/layers/(\d)/(self|cross)_attn_layer_norm$",
        r"sem_seg_head/predictor/transformer_\2_attention_layers/\1/norm",
    ),
    (
        r"^transformer_module/decoder/layers/(\d)/cross_attn",
        r"sem_seg_head/predictor/transformer_cross_attention_layers/\1/multihead_attn",
    ),
    (
        r"^transformer_module/decoder/layers/(\d)/self_attn",
        r"sem_seg_head/predictor/transformer_self_attention_layers/\1/self_attn",
    ),
    (
        r"^transformer_module/decoder/layers/(\d)/final_layer_norm$",
        r"sem_seg_head/predictor/transformer_ffn_layers/\1/norm",
    ),
    (
        r"^transformer_module/decoder/layers/(\d)/linear",
        r"sem_seg_head/predictor/transformer_ffn_layers/\1/linear",
    ),
)
_AS_MASKFORMER: names.Rules = (
    (
        r"^transformer_module/decoder/layernorm$",
        "sem_seg_head/predictor/transformer/decoder/norm",
    ),
    (
        r"^transformer_module/decoder/layers/(\d)/self_attn_layer_norm$",
        r"sem_seg_head/predictor/transformer/decoder/layers/\1/norm1",
    ),
    (
        r"^transformer_module/decoder/layers/(\d)/encoder_attn_layer_norm$",
        r"sem_seg_head/predictor/transformer/decoder/layers/\1/norm2",
    ),
    (
        r"^transformer_module/decoder/layers/(\d)/final_layer_norm$",
        r"sem_seg_head/predictor/transformer/decoder/layers/\1/norm3",
    ),
    (
        r"^transformer_module/decoder/layers/(\d)/encoder_attn",
        r"sem_seg_head/predictor/transformer/decoder/layers/\1/multihead_attn",
    ),
    (
        r"^transformer_module/decoder/layers/(\d)/",
        r"sem_seg_head/predictor/transformer/decoder/layers/\1/",
    ),
)
_HUGGING_FACE: names.Rules = (*swin.HUGGING_FACE, *_AS_AUTHORS)


# Layouts


_LAYOUTS = (
    *swin.LAYOUTS,
    (
        r"/(query_positions|query_features)/kernel$|/level_embed(ding/kernel)?$",
        names.embedding_to_ours,
    ),
    (rf"^{_DECODER}/input_\d/kernel$", names.pointwise_to_dense),
)


def _complete(translation: Translation) -> Translation:
    """Cuts joined projections apart, and takes the last part off the names of embeddings."""
    found: Translation = {}
    for path, translated in swin.complete(translation).items():
        if match := re.search(r"/in_proj_(weight|bias)$", path):
            leaf = {"weight": "kernel", "bias": "bias"}[match[1]]
            for i, part in enumerate(("query", "key", "value")):
                third = translated.changed(functools.partial(names.third_of_outputs, number=i))
                found[f"{path[: match.start()]}/{part}/{leaf}"] = third
            continue
        path = re.sub("/(query_positions|query_features|level_embedding)/kernel$", r"/\1", path)
        found[re.sub("/level_embed$", "/level_embedding", path)] = translated
    return found


# What a file is.

_CLASS_HEAD = re.compile(r"(class_embed|class_predictor)\.weight$")
_QUERIES = re.compile(r"(query_embed|queries_embedder)\.weight$")
_QUERY_FEATURES = re.compile("queries_features|query_feat|static_query")
_BACKBONES = {
    96: {6: "swin_tiny", 18: "swin_small"},
    128: {18: "swin_base"},
    192: {18: "swin_large"},
}
_DATA_SETS = {133: "coco", 19: "cityscapes", 150: "ade20k"}


def _describe(checkpoint: StoredCheckpoint) -> Description:
    """The settings of the network, and the experiment where it is a published one."""
    arrays = checkpoint.arrays
    num_classes = next(v.shape[0] for k, v in arrays.items() if _CLASS_HEAD.search(k)) - 1
    data_set = _DATA_SETS.get(num_classes)
    is_mask2former = any(_QUERY_FEATURES.search(name) for name in arrays)
    if any(name.endswith("relative_position_bias_table") for name in arrays):
        settings, backbone = swin.describe(checkpoint).settings, _swin(checkpoint)
    else:
        settings, backbone = detectron2.RGB_SETTINGS, _resnet(checkpoint)
    queries = next(v.shape[0] for k, v in arrays.items() if _QUERIES.search(k))
    settings = {**settings, "model.decoder.num_queries": queries}
    if is_mask2former:
        experiment = f"mask2former_{backbone}_{data_set}"
    else:
        has_encoder = any(".pixel_decoder.transformer." in name for name in arrays)
        settings = {**settings, "model.pixel_decoder.num_layers": 6 if has_encoder else 0}
        experiment = f"maskformer_{backbone}_{data_set}"
    is_published = backbone and (data_set if is_mask2former else data_set == "coco")
    return Description(settings, (experiment,) if is_published else ())


def _swin(checkpoint: StoredCheckpoint) -> Optional[str]:
    blocks = {
        m[1] for m in (re.search(r"layers\.2\.blocks\.(\d+)\.", n) for n in checkpoint.arrays) if m
    }
    widths = [
        array.shape[0]
        for name, array in checkpoint.arrays.items()
        if re.search(r"patch_embed(dings)?\.proj(ection)?\.weight$", name)
    ]
    return _BACKBONES.get(widths[0], {}).get(len(blocks))


def _resnet(checkpoint: StoredCheckpoint) -> Optional[str]:
    pattern = re.compile(r"(?:res4\.|encoder\.stages\.2\.layers\.)(\d+)\.")
    blocks = {m[1] for m in map(pattern.search, checkpoint.arrays) if m}
    return {6: "resnet50", 23: "resnet101"}.get(len(blocks))


_IGNORED = (
    r"^pixel_(mean|std)$",
    r"(^|\.)empty_weight$",
    r"\.(relative_position_index|attn_mask|mask_token)$",
    # The norm of a classifier, which a Swin may have beside those of its levels.
    r"^model\.pixel_level_module\.encoder\.((swin|model)\.)?layernorm\.",
)


def _register(title: str, signature: Tuple[str, ...], *rules: names.Rules) -> None:
    options: Dict[str, Any] = {"layouts": _LAYOUTS, "complete": _complete, "describe": _describe}
    merged = tuple(rule for part in rules for rule in part)
    source = Source(title, signature, merged, ignored=_IGNORED, **options)
    names.register_source(source, is_model=True)


_AUTHORS = (*swin.AUTHORS, *detectron2.RESNET)
_register(
    "the authors' Mask2Former",
    (r"^sem_seg_head\.predictor\.transformer_cross_attention_layers\.",),
    *(_AUTHORS, _MASK2FORMER, _LAST),
)
_register(
    "the authors' MaskFormer",
    (r"^sem_seg_head\.predictor\.transformer\.decoder\.layers\.",),
    *(_AUTHORS, _MASKFORMER, _LAST),
)
_register(
    "Mask2Former of Hugging Face",
    (r"^model\.transformer_module\.decoder\.layers\.\d\.cross_attn\.",),
    *(_HUGGING_FACE, _AS_MASK2FORMER, pytorch_resnets.HUGGING_FACE, _MASK2FORMER, _LAST),
)
_register(
    "MaskFormer of Hugging Face",
    (r"^model\.transformer_module\.decoder\.layers\.\d\.encoder_attn\.",),
    *(_HUGGING_FACE, _AS_MASKFORMER, pytorch_resnets.HUGGING_FACE, _MASKFORMER, _LAST),
)

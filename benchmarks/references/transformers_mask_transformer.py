"""Mask2Former and MaskFormer of `transformers`: recorded cases, and CPU time.

python benchmarks/references/transformers_mask_transformer.py --model=mask2former_resnet50 \\
    --dump=FOLDER [--authors=FOLDER] [--size 512 512]
python benchmarks/references/transformers_mask_transformer.py --authors=FOLDER \\
    --record=tests/golden/mask_transformer
python benchmarks/references/transformers_mask_transformer.py --model=mask2former_resnet50 --time

Runs in an environment of its own with PyTorch, transformers, SciPy, safetensors and Pillow, without
torchvision; made with transformers 5.24.0 and PyTorch 2.14.1. Nothing is downloaded: weights are
drawn, see `mask_transformer_cases.py`. `authors` holds `mask2former.py` and `maskformer.py`, the
files `mask2former/maskformer_model.py` of facebookresearch/Mask2Former (9b0651c) and
`mask_former/mask_former_model.py` of facebookresearch/MaskFormer (da3e60d), whose functions turn
outputs into segments; those of transformers follow other rules.

dump: `model.safetensors`, `network.npz`, `losses.npz`, `merges.npz`. record: small ones of all
models. time: CPU-seconds of the network; at 512x512 of a training step and of the segments, too.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

import experts
import mask_transformer_cases as cases
import mask_transformer_losses as losses
import mask_transformer_merges as merges
import measuring
import numpy as np
import torch
import transformers
from safetensors import torch as safetensors_torch

Arrays = Dict[str, np.ndarray]

_MODELS = ("mask2former", "maskformer")
_BACKBONES = ("resnet50", "swin_tiny")
_NAMES = [f"{m}_{b}{s}" for m in _MODELS for b in _BACKBONES for s in ("", "_small")]
_STAGES = ["stage1", "stage2", "stage3", "stage4"]
_NOT_DRAWN = ("num_batches_tracked", "empty_weight", "relative_position_index")
_SIZE = (64, 96)
_TIMED_SIZE = (512, 512)
_CLIP_NORM = 0.01


def main() -> None:
    """Writes dumps or recorded cases, or prints JSON of CPU-seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=_NAMES, help="For --dump and --time.")
    parser.add_argument("--dump", help="Folder that is written.")
    parser.add_argument("--size", nargs=2, type=int, help="Of the images; else small, or 512x512.")
    parser.add_argument("--record", help="Folder of small recorded cases.")
    parser.add_argument("--authors", help="Folder with the authors' two files.")
    parser.add_argument("--time", action="store_true", help="Measures.")
    measuring.add_settings(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_num_interop_threads(1)
    if arguments.record:
        _record(arguments.record, arguments.authors)
    if arguments.dump:
        _dump(arguments.model, arguments.dump, arguments.authors, tuple(arguments.size or _SIZE))
    if arguments.time:
        _measure(arguments)


class Built(NamedTuple):
    """A model and how its weights were drawn, rows of name, shape, mean, scale."""

    model: torch.nn.Module
    drawn: List[Tuple[str, List[int], float, float]]


def build(name: str, folder: str) -> Built:
    """A model with drawn weights, which are written into `model.safetensors` of the folder."""
    model = _build_plain(name)
    model.save_pretrained(folder)  # under the names of published files, which differ from PyTorch's
    path = os.path.join(folder, "model.safetensors")
    weights = safetensors_torch.load_file(path)
    drawn = []
    for key in sorted(weights):
        if key.endswith(_NOT_DRAWN):
            continue
        shape = list(weights[key].shape)
        draw = cases.weight_draw(key, shape)
        weights[key] = torch.from_numpy(cases.draw_weight(key, shape, draw))
        drawn.append((key, shape, *draw))
    safetensors_torch.save_file(weights, path, metadata={"format": "pt"})
    return Built(type(model).from_pretrained(folder).eval(), drawn)


def _build_plain(name: str) -> torch.nn.Module:
    system, backbone = name.split("_")[:2]
    is_small = name.endswith("_small")
    backbone_config = _backbone_config(backbone, is_small)
    num_labels = cases.NUM_CLASSES if is_small else 133
    if system == "mask2former":
        small = {
            "feature_size": 32,
            "mask_feature_size": 32,
            "hidden_dim": 32,
            "encoder_feedforward_dim": 64,
            "dim_feedforward": 48,
            "encoder_layers": 2,
            "decoder_layers": 5,  # that many predictions: one layer less
            "num_attention_heads": 2,
            "num_queries": 8,
            "train_num_points": 64,
        }
        return transformers.Mask2FormerForUniversalSegmentation(
            transformers.Mask2FormerConfig(
                backbone_config=backbone_config,
                num_labels=num_labels,
                **(small if is_small else {}),
            )
        )
    decoder = {
        "d_model": 32,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "decoder_ffn_dim": 48,
        "decoder_layers": 3,
        "num_queries": 8,
    }
    decoder_config = transformers.DetrConfig(
        use_timm_backbone=False,
        backbone_config=transformers.ResNetConfig(),
        dropout=0.0,
        **(decoder if is_small else {}),
    )
    sizes = {"fpn_feature_size": 32, "mask_feature_size": 32} if is_small else {}
    return transformers.MaskFormerForInstanceSegmentation(
        transformers.MaskFormerConfig(
            backbone_config=backbone_config,
            decoder_config=decoder_config,
            num_labels=num_labels,
            use_auxiliary_loss=True,
            **sizes,
        )
    )


def _backbone_config(backbone: str, is_small: bool) -> Any:
    if backbone == "resnet50":
        small: Dict[str, Any] = {
            "embedding_size": 16,
            "hidden_sizes": [64, 64, 96, 128],
            "depths": [1, 1, 2, 1],
        }
        kind = transformers.ResNetConfig
    else:
        small = {
            "embed_dim": 16,
            "depths": [2, 1, 2, 1],
            "num_heads": [1, 2, 2, 4],
            "window_size": 5,
            "drop_path_rate": 0.0,
        }
        kind = transformers.SwinConfig
    options = small if is_small else {"drop_path_rate": 0.0} if backbone == "swin" else {}
    return kind(out_features=_STAGES, **options)


def run_network(model: torch.nn.Module, images: np.ndarray) -> Arrays:
    """All outputs of a network, channels last.

    Args:
      model: in either mode.
      images: float32 [B, H, W, 3].

    Returns:
      backbone_2 .. backbone_5; features_0 .. features_2 of the pixel decoder, coarsest first;
      mask_features; class_logits [B, L, Q, K + 1] and mask_embeddings [B, L, Q, C] of all L
      predictions; mask_logits [B, L, Q, h, w].
    """
    with torch.no_grad():
        return {name: array.numpy() for name, array in _run(model, images).items()}


def _run(model: torch.nn.Module, images: np.ndarray) -> Dict[str, torch.Tensor]:
    outputs = model.model(
        torch.from_numpy(measuring.channels_first(images)), output_hidden_states=True
    )
    states, embed = _states(model, outputs)
    embeddings = torch.stack([embed(state) for state in states], dim=1)
    features = outputs.pixel_decoder_last_hidden_state
    arrays = {
        "mask_features": _channels_last(features),
        "class_logits": torch.stack([model.class_predictor(s) for s in states], dim=1),
        "mask_embeddings": embeddings,
        "mask_logits": torch.einsum("blqc,bchw->blqhw", embeddings, features),
    }
    for level, feature in enumerate(outputs.encoder_hidden_states, 2):
        arrays[f"backbone_{level}"] = _channels_last(feature)
    for i, feature in enumerate(outputs.pixel_decoder_hidden_states):
        arrays[f"features_{i}"] = _channels_last(feature)
    return arrays


def _states(
    model: torch.nn.Module, outputs: Any
) -> Tuple[List[torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]:
    """Normalised queries of all predictions, [B, Q, C] each, and the masks' MLP."""
    decoder = model.model.transformer_module.decoder
    if hasattr(model, "mask_embedder"):
        # As published: each layer's output is normalised. transformers predicts from the start
        # and from layers' outputs that are not normalised, but for the last.
        inner = outputs.transformer_decoder_hidden_states[1:-1]
        last = outputs.transformer_decoder_last_hidden_state
        return [*map(decoder.layernorm, inner), last], model.mask_embedder
    states = outputs.transformer_decoder_intermediate_states
    return [state.transpose(0, 1) for state in states], decoder.mask_predictor.mask_embedder


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 2, 3, 1)


def _train_difference(model: torch.nn.Module, images: np.ndarray, evaluated: Arrays) -> float:
    """Of outputs in training, without dropout and with fixed batch norm, from `evaluated`."""
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    trained = run_network(model, images)
    model.eval()
    return max(float(np.abs(trained[name] - x).max()) for name, x in evaluated.items())


def _attention_margin(mask_logits: np.ndarray, arrays: Arrays) -> float:
    """How near to 0 a logit is that decides what a query attends to, of all but the last mask."""
    margins = []
    for i in range(mask_logits.shape[1] - 1):
        size = arrays[f"features_{i % 3}"].shape[1:3]
        resized = torch.nn.functional.interpolate(
            torch.from_numpy(mask_logits[:, i]), size=size, mode="bilinear", align_corners=False
        )
        margins.append(float(resized.abs().min()))
    return min(margins)


def _dump(name: str, folder: str, authors: str, size: Tuple[int, int]) -> None:
    os.makedirs(folder, exist_ok=True)
    model = build(name, folder).model
    images = cases.draw_images(2, size)
    truth = cases.draw_truth((3, 6), size)
    network = run_network(model, images)
    difference = _train_difference(model, images, network)
    predictions = {
        key: network[key] for key in ("class_logits", "mask_embeddings", "mask_features")
    }
    more = {"images": images, "train_difference": np.float32(difference)}
    if name.startswith("mask2former"):
        more["attention_margin"] = np.float32(_attention_margin(network["mask_logits"], network))
    print(name, {key: float(value) for key, value in more.items() if key != "images"})
    np.savez(os.path.join(folder, "network.npz"), **network, **more)
    of_losses = losses.run(model, predictions, truth)
    np.savez(os.path.join(folder, "losses.npz"), **truth._asdict(), **of_losses)
    np.savez(os.path.join(folder, "merges.npz"), **merges.run(name.split("_")[0], authors))
    _write_gradients(model, cases.small_part(images), os.path.join(folder, "gradients"))


def _write_gradients(model: torch.nn.Module, images: np.ndarray, folder: str) -> None:
    """Writes the gradients of `cases.draw_factors` of all predictions, as weights are written."""
    outputs = _run(model, images)
    keys = ("class_logits", "mask_logits")
    factors = cases.draw_factors(*(outputs[key].shape for key in keys))
    sum((outputs[key] * torch.from_numpy(f)).sum() for key, f in zip(keys, factors)).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            gradient = parameter.grad  # None of what no prediction reads.
            parameter.copy_(torch.zeros_like(parameter) if gradient is None else gradient)
    model.save_pretrained(folder)


def _record(folder: str, authors: str) -> None:
    os.makedirs(folder, exist_ok=True)

    def write(name: str, arrays: Arrays) -> None:
        np.savez_compressed(os.path.join(folder, f"{name}.npz"), **arrays)

    for system in _MODELS:
        for backbone in _BACKBONES:
            name = f"{system}_{backbone}_small"
            with tempfile.TemporaryDirectory() as temporary:
                built = build(name, temporary)
            write(name.replace("50", "").replace("_tiny", ""), _small_network(built))
        predictions = cases.draw_predictions(3, 2, 6, 4, (6, 8))
        truth = cases.draw_truth((4, 0, 6), (24, 32))
        inputs = {**predictions, **truth._asdict()}
        write(f"{system}_losses", {**inputs, **losses.run(built.model, predictions, truth)})
        if system == "mask2former":
            shared = losses.run(built.model, predictions, truth, is_shared=True)
            write(f"{system}_losses_shared", {**inputs, **shared})
        write(f"{system}_merges", merges.run(system, authors))


def _small_network(built: Built) -> Arrays:
    """Of one image; large outputs at every second row and column."""
    images = cases.draw_images(1, _SIZE)
    network = run_network(built.model, images)
    arrays = {
        name: np.ascontiguousarray(x[:, ::2, ::2])
        if name in ("backbone_2", "backbone_3", "mask_features", "features_2")
        else x
        for name, x in network.items()
        if name != "mask_logits"
    }
    return {
        **arrays,
        "last_mask_logits": network["mask_logits"][:, -1, :, ::2, ::2],
        "weights": np.array(json.dumps(built.drawn)),
        "image_size": np.array(_SIZE),
        "first_of_image": images[0, 0, 0],
    }


def _measure(arguments: argparse.Namespace) -> None:
    """One image for the network; at 512x512 the merge and a step of two with 14 segments each."""
    measure = experts.timer(arguments)
    with tempfile.TemporaryDirectory() as folder:
        model = build(arguments.model, folder).model
    size = tuple(arguments.size or _TIMED_SIZE)
    image = torch.from_numpy(measuring.channels_first(cases.draw_images(1, size)))

    def build_network(model: torch.nn.Module) -> Callable[[], Any]:
        return lambda: model(image, output_hidden_states=True)

    network = torch.no_grad()(build_network(model.eval()))
    seconds = {"network": measure(network)}
    memory = {"network": measuring.megabytes_of(network)}
    if size == _TIMED_SIZE:
        seconds.update(merges.measure(arguments.model.split("_")[0], arguments.authors, measure))
        step = _training_step(model, size)
        seconds["training_step"] = measure(step)
        memory["training_step"] = measuring.megabytes_of(step)
    seconds["network_expert"] = experts.seconds_of(build_network, model, measure)
    parameters = sum(x.numel() for x in model.parameters())
    measuring.print_result(seconds, {"parameters": parameters}, memory=memory)


def _training_step(model: torch.nn.Module, size: Tuple[int, int]) -> Callable[[], float]:
    truth = cases.draw_truth((14, 14), size)
    inputs = {
        "pixel_values": torch.from_numpy(measuring.channels_first(cases.draw_images(2, size))),
        "mask_labels": [torch.from_numpy(truth.masks(image)) for image in range(2)],
        "class_labels": [torch.from_numpy(classes) for classes in truth.classes],
    }
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-12, weight_decay=0.05)

    def step() -> float:
        optimizer.zero_grad()
        loss = model(**inputs, output_hidden_states=True).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), _CLIP_NORM)
        optimizer.step()
        return float(loss.detach())

    return step


if __name__ == "__main__":
    main()

"""EoMT of `transformers` and DINOv2 of timm: recorded cases, and CPU time.

python benchmarks/references/transformers_eomt.py --record=tests/golden/mask_transformer
python benchmarks/network.py --system=mask_transformer --experiment=eomt_small_coco \\
    --reference_command="other/bin/python benchmarks/references/transformers_eomt.py --time \\
    --threads={threads} --repetitions={repetitions}"

Runs in an environment of its own with PyTorch, transformers and timm; made with transformers
5.24.0, timm 1.0.31 and PyTorch 2.14.1. Nothing is downloaded: weights are drawn, see
`mask_transformer_cases.py`.

record: outputs of a small EoMT, with all queries masked and with none; tokens of a small DINOv2
that timm has brought to other patches and images. time: CPU-seconds of EoMT-S without masks and of
a training step with them, at 512x512.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
from typing import Any, Dict, List, Tuple

import mask_transformer_cases as cases
import measuring
import numpy as np
import torch
import transformers
from timm.models import vision_transformer

_SIZE = 64
_TIMED_SIZE = 512
_SMALL = {
    "hidden_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "num_blocks": 2,
    "num_queries": 7,
    "num_register_tokens": 2,
    "num_labels": cases.NUM_CLASSES,
}
_S = {
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "num_blocks": 3,
    "num_labels": 133,
}


def main() -> None:
    """Writes the case, or prints JSON of CPU-seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", help="Folder of the cases.")
    parser.add_argument("--time", action="store_true", help="Measures.")
    parser.add_argument("--threads", type=int, default=1, help="Threads of an operation.")
    parser.add_argument("--repetitions", type=int, default=7, help="The median counts.")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_num_interop_threads(1)
    if arguments.record:
        _record(os.path.join(arguments.record, "eomt.npz"))
        _record_encoder(os.path.join(arguments.record, "dinov2.npz"))
    if arguments.time:
        _measure(arguments.repetitions)


def _build(image_size: int, options: Dict[str, int]) -> torch.nn.Module:
    config = transformers.EomtConfig(image_size=image_size, patch_size=16, **options)
    return transformers.EomtForUniversalSegmentation(config).eval()


def _draw(model: torch.nn.Module) -> List[Tuple[str, List[int], float, float]]:
    """Draws the weights; rows of name, shape, mean, scale."""
    drawn = []
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            shape = list(parameter.shape)
            draw = cases.weight_draw(name, shape)
            parameter.copy_(torch.from_numpy(cases.draw_weight(name, shape, draw)))
            drawn.append((name, shape, *draw))
    return drawn


def _predictions(model: torch.nn.Module, images: torch.Tensor) -> Dict[str, np.ndarray]:
    """Of all predictions: mask_logits [B, L, Q, h, w] and class_logits [B, L, Q, K + 1]."""
    found: List[Any] = []
    predict = model.predict

    def keep(tokens: torch.Tensor) -> Any:
        found.append(predict(tokens))
        return found[-1]

    model.predict = keep
    with torch.no_grad():
        model(pixel_values=images)
    model.predict = predict
    masks, classes = (torch.stack(x, dim=1).numpy() for x in zip(*found))
    return {"mask_logits": masks, "class_logits": classes}


def _record(path: str) -> None:
    model = _build(_SIZE, _SMALL)
    drawn = _draw(model)
    images = cases.draw_images(2, (_SIZE, _SIZE))
    tensor = torch.from_numpy(measuring.channels_first(images))
    masked = _predictions(model, tensor)
    model.attn_mask_probs.zero_()
    free = _predictions(model, tensor)
    np.savez_compressed(
        path,
        **{f"masked_{key}": value for key, value in masked.items()},
        **{f"free_{key}": value[:, -1] for key, value in free.items()},
        weights=np.array(json.dumps(drawn)),
        first_of_image=images[0, 0, 0],
    )


def _record_encoder(path: str) -> None:
    options = {
        "embed_dim": 24,
        "depth": 3,
        "num_heads": 3,
        "reg_tokens": 2,
        "no_embed_class": True,
        "init_values": 1.0,
        "num_classes": 0,
        "global_pool": "",
    }
    trained = vision_transformer.VisionTransformer(img_size=70, patch_size=14, **options)
    drawn = _draw(trained)
    model = vision_transformer.VisionTransformer(img_size=96, patch_size=16, **options).eval()
    state = vision_transformer.checkpoint_filter_fn(trained.state_dict(), model)
    model.load_state_dict(state)
    images = cases.draw_images(1, (96, 96))
    with torch.no_grad():
        tokens = model.forward_features(torch.from_numpy(measuring.channels_first(images)))
    weights = np.array(json.dumps(drawn))
    np.savez_compressed(path, tokens=tokens.numpy(), weights=weights)


def _measure(repetitions: int) -> None:
    measure = functools.partial(measuring.seconds_of, repetitions=repetitions, threads=1)
    model = _build(_TIMED_SIZE, _S)
    model.attn_mask_probs.zero_()
    size = (_TIMED_SIZE, _TIMED_SIZE)
    image = torch.from_numpy(measuring.channels_first(cases.draw_images(1, size)))

    def as_shipped() -> Any:
        with torch.no_grad():
            return model(pixel_values=image)

    def inference_mode() -> Any:
        with torch.inference_mode():
            return model(pixel_values=image)

    seconds = {"network": measure(as_shipped)}
    seconds["network, inference mode"] = measure(inference_mode)
    model.attn_mask_probs.fill_(1.0)
    model.train()
    truth = cases.draw_truth((14, 14), size)
    inputs = {
        "pixel_values": torch.from_numpy(measuring.channels_first(cases.draw_images(2, size))),
        "mask_labels": [torch.from_numpy(truth.masks(i)) for i in range(2)],
        "class_labels": [torch.from_numpy(classes) for classes in truth.classes],
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-12, weight_decay=0.05)

    def step() -> None:
        optimizer.zero_grad()
        model(**inputs).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()

    seconds["training_step"] = measure(step)
    memory = {"training_step": measuring.megabytes_of(step)}
    count = sum(x.numel() for x in model.parameters())
    measuring.print_result(seconds, {"parameters": count}, memory=memory)


if __name__ == "__main__":
    main()

"""Trains the Mask2Former of `transformers` on batches that `learning.py` wrote.

Needs torch and transformers. Draws the weights that both sides start from, trains, and writes what
the last prediction is made of on the validation images.
"""

from __future__ import annotations

import argparse
import glob
import os
import time
from typing import List

import measuring
import numpy as np
import torch
import transformers

_CHUNK = 10  # images that are predicted at once


def main() -> None:
    """Writes weights, or trains and prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", required=True, help="Of weights, batches and predictions.")
    parser.add_argument("--draw", action="store_true", help="Only draws the weights.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--warmup_steps", type=int, default=1)
    parser.add_argument("--weight_decay", type=float, default=0.05)
    parser.add_argument("--clip_norm", type=float, default=0.01)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    start = os.path.join(arguments.folder, "start")
    if arguments.draw:
        _build().save_pretrained(start)
        return
    model = transformers.Mask2FormerForUniversalSegmentation.from_pretrained(start)
    before = time.process_time()
    losses = _train(model, arguments)
    seconds = time.process_time() - before
    _predict(model.eval(), arguments.folder)
    measuring.print_result({"training": seconds}, {}, losses=losses)


def _build() -> torch.nn.Module:
    backbone = transformers.ResNetConfig(
        embedding_size=16,
        hidden_sizes=[64, 64, 96, 128],
        depths=[1, 1, 2, 1],
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone,
        num_labels=10,
        feature_size=64,
        mask_feature_size=64,
        hidden_dim=64,
        encoder_feedforward_dim=128,
        dim_feedforward=128,
        encoder_layers=2,
        decoder_layers=4,  # One layer less: a prediction comes before the first.
        num_attention_heads=4,
        num_queries=32,
        train_num_points=512,
        use_auxiliary_loss=True,
    )
    return transformers.Mask2FormerForUniversalSegmentation(config)


def _train(model: torch.nn.Module, arguments: argparse.Namespace) -> List[float]:
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=arguments.learning_rate, weight_decay=arguments.weight_decay
    )
    warm_up = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(step / arguments.warmup_steps, 1.0)
    )
    losses = []
    paths = sorted(glob.glob(os.path.join(arguments.folder, "batches", "*.npz")))
    for path in paths[: arguments.steps]:
        batch = measuring.load(path)
        masks, classes = [], []
        for segment_map, categories, valid in zip(
            batch["segment_map"], batch["segment_classes"], batch["segment_valid"]
        ):
            count = int(valid.sum())
            numbers = np.arange(1, count + 1)[:, None, None]
            masks.append(torch.from_numpy((segment_map == numbers).astype(np.float32)))
            classes.append(torch.from_numpy(categories[:count].astype(np.int64)))
        optimizer.zero_grad()
        loss = model(
            pixel_values=_images(batch["image"]), mask_labels=masks, class_labels=classes
        ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), arguments.clip_norm)
        optimizer.step()
        warm_up.step()
        losses.append(float(loss.detach()))
    return losses


def _images(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(measuring.channels_first(images.astype(np.float32)))


def _predict(model: torch.nn.Module, folder: str) -> None:
    images = measuring.load(os.path.join(folder, "validation.npz"))["image"]
    classes, masks = [], []
    with torch.no_grad():
        for first in range(0, len(images), _CHUNK):
            outputs = model(_images(images[first : first + _CHUNK]))
            classes.append(outputs.class_queries_logits.numpy())
            masks.append(outputs.masks_queries_logits.numpy())
    np.savez(
        os.path.join(folder, "predictions.npz"),
        class_logits=np.concatenate(classes),
        mask_logits=np.concatenate(masks),
    )


if __name__ == "__main__":
    main()

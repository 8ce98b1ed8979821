"""Trains the Mask2Former of `transformers` on batches that `learning.py` wrote.

Needs torch and transformers. Draws the weights that both sides start from, trains, and writes the
weights that it ends with.
"""

from __future__ import annotations

import os
from typing import Any, Callable, Dict

import learning_steps
import measuring
import numpy as np
import torch
import transformers


def main() -> None:
    """Writes weights, or trains and prints JSON."""
    parser = learning_steps.build_parser(__doc__)
    parser.add_argument("--draw", action="store_true", help="Only draws the weights.")
    arguments = parser.parse_args()
    learning_steps.prepare(arguments)
    start = os.path.join(arguments.folder, "start")
    if arguments.draw:
        _build().save_pretrained(start)
        return
    model = transformers.Mask2FormerForUniversalSegmentation.from_pretrained(start)
    learning_steps.train(model, _prepare_step(model), arguments)
    model.save_pretrained(os.path.join(arguments.folder, "end"))


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


def _prepare_step(
    model: torch.nn.Module,
) -> Callable[[Dict[str, np.ndarray]], Callable[[], torch.Tensor]]:
    def prepare(batch: Dict[str, np.ndarray]) -> Callable[[], torch.Tensor]:
        labels = measuring.select(batch, "labels/")
        inputs: Dict[str, Any] = {"mask_labels": [], "class_labels": []}
        for segment_map, categories, valid in zip(
            labels["segment_map"], labels["segment_classes"], labels["segment_valid"]
        ):
            count = int(valid.sum())
            numbers = np.arange(1, count + 1)[:, None, None]
            masks = torch.from_numpy((segment_map == numbers).astype(np.float32))
            inputs["mask_labels"].append(masks)
            inputs["class_labels"].append(torch.from_numpy(categories[:count].astype(np.int64)))
        image = measuring.channels_first(batch["image"].astype(np.float32))
        return lambda: model(pixel_values=torch.from_numpy(image), **inputs).loss

    return prepare


if __name__ == "__main__":
    main()

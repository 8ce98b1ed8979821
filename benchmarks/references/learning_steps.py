"""What the references of `learning.py` share: the steps that they make with AdamW."""

from __future__ import annotations

import argparse
import glob
import os
import time
from typing import Any, Callable, Dict, Optional

import measuring
import numpy as np
import torch


def build_parser(description: Optional[str]) -> argparse.ArgumentParser:
    """The arguments that the benchmark gives."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--folder", required=True, help="Of weights and batches.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--warmup_steps", type=int, default=1)
    parser.add_argument("--weight_decay", type=float, default=0.05)
    parser.add_argument("--clip_norm", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=1)
    return parser


def prepare(arguments: Any) -> None:
    """Sets threads and seed."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)


def train(
    model: torch.nn.Module,
    prepare_step: Callable[[Dict[str, np.ndarray]], Callable[[], torch.Tensor]],
    arguments: Any,
) -> None:
    """Trains and prints JSON.

    Args:
      model: what is trained.
      prepare_step: from the arrays of a batch to the function of its loss; not measured.
      arguments: of `build_parser`.
    """
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=arguments.learning_rate, weight_decay=arguments.weight_decay
    )
    warm_up = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(step / arguments.warmup_steps, 1.0)
    )
    seconds, losses = 0.0, []
    measuring.forget_peak()
    paths = sorted(glob.glob(os.path.join(arguments.folder, "batches", "*.npz")))
    for path in paths[: arguments.steps]:
        find_loss = prepare_step(measuring.load(path))
        start = time.process_time()
        optimizer.zero_grad()
        loss = find_loss()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, arguments.clip_norm)
        optimizer.step()
        warm_up.step()
        losses.append(float(loss.detach()))
        seconds += time.process_time() - start
    memory = {"training": measuring.peak_megabytes()}
    measuring.print_result({"training": seconds}, {}, memory=memory, losses=losses)

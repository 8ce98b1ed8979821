"""A PyTorch network as somebody who knows PyTorch runs it on a CPU.

In inference mode with batch norm folded into the convolutions; the same with weights in
channels-last order; and that compiled by TorchInductor, whose "freezing" packs weights. The fastest
counts. What cannot be compiled runs as it is. The copy that is made of the model stays in memory.
"""

from __future__ import annotations

import argparse
import copy
import sys
from typing import Any, Callable

import measuring
import torch
from torch.nn.utils import fusion

Function = Callable[[], Any]


def timer(arguments: argparse.Namespace) -> Callable[[Function], float]:
    """How a script measures: `measuring.seconds_of`, under autocast where --precision says so.

    Autocast keeps the weights that it has cast, so that they are cast once.
    """

    def measure(function: Function) -> float:
        is_cast = arguments.precision == "bfloat16"
        with torch.autocast("cpu", torch.bfloat16, enabled=is_cast):
            return measuring.seconds_of(function, arguments.repetitions, arguments.threads)

    return measure


def seconds_of(
    build: Callable[[torch.nn.Module], Function],
    model: torch.nn.Module,
    measure: Callable[[Function], float],
) -> float:
    """The least time of the three.

    Args:
      build: from a model in eval mode to a function of no arguments that runs its network.
      model: stays as it is; batch norms of other models than detectron2's only compiling folds.
      measure: from such a function to its time.
    """
    model = copy.deepcopy(model).eval()
    _fold_batch_norms(model)
    found = {"folded": measure(torch.inference_mode()(build(model)))}
    model = model.to(memory_format=torch.channels_last)
    found["channels last"] = measure(torch.inference_mode()(build(model)))
    torch._dynamo.config.suppress_errors = True
    torch._inductor.config.freezing = True
    torch._inductor.config.cpp.threads = torch.get_num_threads()
    try:
        found["compiled"] = measure(torch.inference_mode()(torch.compile(build(model))))
    except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:
        print(f"Not compiled: {error}", file=sys.stderr)
    print(f"The network as an expert runs it: {found}", file=sys.stderr)
    return min(found.values())


def _fold_batch_norms(model: torch.nn.Module) -> None:
    """Of detectron2's convolutions, which have their norms themselves."""
    for module in model.modules():
        norm = getattr(module, "norm", None)
        if not isinstance(module, torch.nn.Conv2d) or not hasattr(norm, "running_mean"):
            continue
        module.weight, module.bias = fusion.fuse_conv_bn_weights(
            module.weight,
            module.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
        )
        module.norm = None

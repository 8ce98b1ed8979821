"""torchvision's deformable convolution on the workload of `deformable_conv.py`.

python benchmarks/deformable_conv.py --rounds=3 --reference_python=other/bin/python

`other` is an environment with PyTorch and torchvision; measured with PyTorch 2.13 and the operator
of torchvision 0.14.1.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Tuple

import measuring
import numpy as np
import torch
import torchvision

_CELLS = (64, 32, 16, 8, 4)
_BATCHES = (1, 2)


def main() -> None:
    """Measures, prints JSON."""
    arguments = measuring.parse_arguments(__doc__)
    torch.set_num_threads(arguments.threads)
    torch.set_num_interop_threads(1)
    workload = np.load(arguments.workload)
    seconds: Dict[str, float] = {}
    for batch in _BATCHES:
        for cells in _CELLS:
            for kind, convolve in (("deformable", _deformable), ("plain", _plain)):
                passes = _build_passes(workload, convolve, batch, cells)
                for name, function in zip(("forward", "both"), passes):
                    key = f"{kind} {batch}x{cells} {name}"
                    seconds[key] = measuring.seconds_of(
                        function, arguments.repetitions, arguments.threads
                    )
    measuring.print_result(seconds, {"cells": sum(cells**2 for cells in _CELLS)})


def _deformable(leaves: Dict[str, torch.Tensor]) -> torch.Tensor:
    return torchvision.ops.deform_conv2d(
        leaves["inputs"],
        leaves["offsets"],
        leaves["kernel"],
        padding=1,
        mask=leaves["modulation"],
    )


def _plain(leaves: Dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.nn.functional.conv2d(leaves["inputs"], leaves["kernel"], padding=1)


def _build_passes(
    workload: Any,
    convolve: Callable[[Dict[str, torch.Tensor]], torch.Tensor],
    batch: int,
    cells: int,
) -> Tuple[Callable[[], Any], Callable[[], Any]]:
    """Forward alone, and with the gradients of all inputs."""
    arrays = {
        name: measuring.channels_first(workload[f"{cells}/{name}"][:batch])
        for name in ("inputs", "offsets", "modulation", "output_gradient")
    }
    arrays["kernel"] = measuring.convolution_kernel("kernel", workload["kernel"])
    tensors = {name: torch.tensor(array) for name, array in arrays.items()}
    upstream = tensors.pop("output_gradient")
    names = ("inputs", "kernel") if convolve is _plain else tuple(tensors)
    leaves = {name: tensors[name].requires_grad_() for name in names}

    @torch.no_grad()
    def forward() -> torch.Tensor:
        return convolve(leaves)

    def both() -> List[torch.Tensor]:
        return torch.autograd.grad(convolve(leaves), list(leaves.values()), upstream)

    return forward, both


if __name__ == "__main__":
    main()

"""What a ResNet refuses."""

from __future__ import annotations

from typing import Optional, Sequence

STAGES = (2, 3, 4, 5)
_DEFORMABLE_VERSIONS = (1, 2)


def check_resnet(
    *,
    block: str,
    known_blocks: Sequence[str],
    num_blocks: Sequence[int],
    widths: Sequence[int],
    groups: int,
    width_per_group: int,
    output_stride: int,
    multi_grid: Optional[Sequence[int]],
    deformable_stages: Sequence[int],
    deformable_version: int,
    frozen_stages: int,
) -> None:
    """Checks arguments of `resnet.ResNet`, which documents them.

    Raises:
      ValueError: one is out of its range, or two do not go together.
    """
    if block not in known_blocks:
        raise ValueError(f"block must be one of {', '.join(known_blocks)}, got {block!r}.")
    if len(num_blocks) != 4 or len(widths) != 4 or min(num_blocks) < 1:
        raise ValueError(
            "num_blocks and widths must be four positive numbers each (stages 2 to 5), got "
            f"{tuple(num_blocks)} and {tuple(widths)}."
        )
    if groups > 1 and block != "bottleneck":
        raise ValueError(f"groups belong to bottleneck blocks, got {groups} for {block!r}.")
    if any(width_per_group * width % 64 for width in widths):
        raise ValueError(
            f"width_per_group * width must be multiples of 64, got {width_per_group} and widths "
            f"{tuple(widths)}."
        )
    if output_stride not in (8, 16, 32):
        raise ValueError(f"output_stride must be 8, 16 or 32, got {output_stride}.")
    if multi_grid and len(multi_grid) != num_blocks[3]:
        raise ValueError(
            f"multi_grid must hold one dilation for each of the {num_blocks[3]} blocks of stage 5, "
            f"got {tuple(multi_grid)}."
        )
    if not 0 <= frozen_stages <= 5:
        raise ValueError(f"frozen_stages must be 0 to 5, got {frozen_stages}.")
    _check_deformable(deformable_stages, deformable_version, groups)


def _check_deformable(stages: Sequence[int], version: int, groups: int) -> None:
    if not set(stages) <= set(STAGES) or version not in _DEFORMABLE_VERSIONS:
        raise ValueError(
            "deformable_stages must be among 2, 3, 4, 5 and deformable_version 1 or 2, got "
            f"{tuple(stages)} and {version}."
        )
    if stages and groups > 1:
        raise ValueError(
            f"A grouped convolution cannot be deformable: got groups {groups} with "
            f"deformable_stages {tuple(stages)}. Set one of them only."
        )

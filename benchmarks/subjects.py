"""Which system, experiment and size a speed benchmark measures: its flags."""

from __future__ import annotations

from typing import Any, List, NamedTuple

import mask_transformer_workload
import panoptic_deeplab_workload
import panoptic_fcn_workload
import panoptic_fpn_workload
from absl import flags

_SYSTEMS = {
    "panoptic_deeplab": panoptic_deeplab_workload,
    "panoptic_fpn": panoptic_fpn_workload,
    "panoptic_fcn": panoptic_fcn_workload,
    "mask_transformer": mask_transformer_workload,
}

_SYSTEM = flags.DEFINE_enum("system", "panoptic_deeplab", sorted(_SYSTEMS), "What is measured.")
_EXPERIMENT = flags.DEFINE_string("experiment", None, "Its config; the default is a COCO one.")
_SIZE = flags.DEFINE_list("size", ["512", "512"], "Height and width of the images.")


class Subject(NamedTuple):
    """What is measured.

    Attributes:
      workload: module `<system>_workload`.
      experiment: a registered name.
      size: (height, width).
    """

    workload: Any
    experiment: str
    size: List[int]

    @property
    def params(self) -> Any:
        """The experiment's config at this size."""
        return self.workload.get_params(self.experiment, self.size)

    def __str__(self) -> str:
        return f"{self.experiment}, {self.size[0]}x{self.size[1]}"


def get_subject() -> Subject:
    """What the flags say."""
    workload = _SYSTEMS[_SYSTEM.value]
    size = [int(length) for length in _SIZE.value]
    return Subject(workload, _EXPERIMENT.value or workload.EXPERIMENT, size)

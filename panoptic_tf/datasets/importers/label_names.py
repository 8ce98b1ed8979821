"""Categories of formats that know labels by their names alone."""

from __future__ import annotations

from typing import Any, Mapping, Optional, Sequence

from panoptic_tf.datasets import files
from panoptic_tf.datasets.dataset_info import DatasetInfo


def check_name(field: str, name: Any) -> str:
    """Returns the name of a label.

    Raises:
      ValueError: no text of printable characters.
    """
    if not isinstance(name, str) or not name or not files.is_printable(name):
        raise ValueError(f"{field} must be a non-empty string, got {files.shown(name)}.")
    return name


def build_dataset_info(
    labels: Mapping[str, Optional[Sequence[int]]], stuff: str, *, name: str, source: str
) -> DatasetInfo:
    """The categories of labels, numbered 1..N in their order.

    Args:
      labels: colours (red, green, blue) by name; None makes one up.
      stuff: names of labels that are stuff, separated by commas; all others are things.
      name: of the data set.
      source: file or folder of the labels, for error messages.

    Raises:
      ValueError: no label, or one of `stuff` is none.
    """
    chosen = [part.strip() for part in stuff.split(",") if part.strip()]
    for label in chosen:
        if label not in labels:
            raise ValueError(
                f"stuff: {label!r} is no label of {source}; its labels are "
                f"{files.shorten(', '.join(map(repr, labels)), most=200)}."
            )
    if not labels:
        raise ValueError(f"{source}: there is no label in it.")
    categories = [
        {"id": number, "name": label, "isthing": int(label not in chosen), "color": color}
        for number, (label, color) in enumerate(labels.items(), start=1)
    ]
    return DatasetInfo.from_coco(categories, name=name, source=source)

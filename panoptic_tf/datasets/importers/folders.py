"""Data sets that are known by their folders: the folder of a split, and the files in it."""

from __future__ import annotations

import os
from typing import List, Mapping

from panoptic_tf.datasets import files


def of_split(split: str, folders: Mapping[str, str], *, format_name: str) -> str:
    """The folder of a split.

    Args:
      split: its name.
      folders: folders by the names of the splits.
      format_name: for the error message.

    Raises:
      ValueError: another name.
    """
    if split not in folders:
        raise ValueError(
            f"split must be {' or '.join(folders)} for --format={format_name}, got "
            f"{files.shown(split)}."
        )
    return folders[split]


def names(folder: str, suffix: str, *, expected: str) -> List[str]:
    """Names in a folder that end in a suffix, sorted; those that begin with a dot are not seen.

    Args:
      folder: the folder.
      suffix: end of the names; "" for any.
      expected: what the folder should be, for the error message.

    Raises:
      ValueError: no such folder, it cannot be listed, or a name has characters that no record
        holds.
    """
    try:
        found = sorted(
            name
            for name in os.listdir(folder)
            if name.endswith(suffix) and not name.startswith(".")
        )
    except OSError as error:
        raise ValueError(f"{folder}: {error.strerror}; expected {expected}.") from error
    for name in found:
        if not files.is_printable(name):
            raise ValueError(f"{folder}: has a file whose name cannot be printed, {name!a}.")
    return found

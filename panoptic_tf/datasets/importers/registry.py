"""The importers by name, and the options that each of them takes.

An importer is a function `read_<format>(source, ...) -> Source` that is registered by name; its
keyword arguments are flags of `convert`. Your own is one such function:

    @importers.register("my_format")
    def read_my_format(source: str, *, image_dir: str, max_pixels: int, exif: str) -> Source: ...
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, Callable, Dict, Tuple

from panoptic_tf.datasets.importers.source import Source

FORMATS: Dict[str, Callable[..., Source]] = {}

_COMMON = ("split", "max_pixels")
"""Options that every conversion has; a format that has no use for one does not take it."""

_OF_PAINTING = ("on_top", "exif")
"""Options that change the records of the same files."""


def register(name: str) -> Callable[[Callable[..., Source]], Callable[..., Source]]:
    """Makes a function the importer of a format."""

    def add(function: Callable[..., Source]) -> Callable[..., Source]:
        if name in FORMATS:
            raise ValueError(f"there is an importer of {name!r} already.")
        FORMATS[name] = function
        return function

    return add


def options_of(name: str) -> Tuple[Tuple[str, ...], Tuple[str, ...]]:
    """Options that a format needs, and those that it takes, by the names of the flags."""
    parameters = inspect.signature(FORMATS[name]).parameters.values()
    taken = tuple(p.name for p in parameters)
    needed = tuple(p.name for p in parameters if p.default is p.empty and p.name not in _COMMON)
    return needed, taken


def read(format_name: str, /, **options: Any) -> Source:
    """Reads a data set in a format.

    Args:
      format_name: one of `FORMATS`.
      **options: arguments of its importer; None is as good as missing.

    Raises:
      ValueError: unknown format, an option is missing or the format does not take it, or what the
        importer raises.
    """
    if format_name not in FORMATS:
        known = ", ".join(sorted(FORMATS))
        raise ValueError(f"format must be one of {known}, got {format_name!r}.")
    needed, taken = options_of(format_name)
    given = {key: value for key, value in options.items() if value is not None}
    missing = [f"--{key}" for key in needed if key not in given]
    if missing:
        raise ValueError(f"--format={format_name} needs {', '.join(missing)}.")
    for key in sorted(given):
        if key not in taken and key not in _COMMON:
            raise ValueError(
                f"--{key} is not read by --format={format_name}, which takes "
                f"{', '.join('--' + k for k in taken if k not in _COMMON)}."
            )
    source = FORMATS[format_name](**{key: given[key] for key in taken if key in given})
    painted = {key: given[key] for key in _OF_PAINTING if key in given}
    return dataclasses.replace(source, fingerprint={**source.fingerprint, **painted})

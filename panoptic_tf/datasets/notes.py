"""What is legal in a data set and yet worth a look: counted by kind, with the first places."""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, List

from absl import logging

from panoptic_tf.datasets import files

_MOST_SHOWN = 300
"""Characters of places in a line."""


@dataclasses.dataclass
class _Found:
    count: int = 0
    shown: List[str] = dataclasses.field(default_factory=list)


class Notes:
    """Collects places by kind; a kind reads on after its count: `images have no annotation`."""

    def __init__(self) -> None:
        self._found: Dict[str, _Found] = {}

    def add(self, kind: str, place: Any, count: int = 1) -> None:
        """Notes that `count` more things of a kind were found, the first of them at `place`."""
        found = self._found.setdefault(kind, _Found())
        found.count += count
        if sum(map(len, found.shown)) < _MOST_SHOWN:
            found.shown.append(files.shorten(str(place), most=120))

    def texts(self) -> List[str]:
        """One line for each kind."""
        return [
            f"{found.count} {kind}: {', '.join(found.shown)}"
            + (", ..." if found.count > len(found.shown) else "")
            + "."
            for kind, found in self._found.items()
        ]

    def log(self, source: str) -> None:
        """Logs one line for each kind, of the file or folder that is meant."""
        for text in self.texts():
            logging.warning("%s: %s", source, text)

"""Metrics as the functions of the package return them."""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, List


@dataclasses.dataclass(frozen=True)
class Scored:
    """Something with metrics.

    Attributes:
      metrics: the content of metrics.json; empty where nothing was evaluated.
    """

    metrics: Dict[str, Any]

    @property
    def scores(self) -> Dict[str, Any]:
        """The numbers of `metrics` that are of all categories together: a row of a table."""
        return {k: v for k, v in self.metrics.items() if not isinstance(v, (dict, list))}

    @property
    def per_category(self) -> List[Dict[str, Any]]:
        """One row for each category: `pandas.DataFrame(result.per_category)`."""
        return list(self.metrics.get("per_category", ()))

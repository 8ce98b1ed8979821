"""Numbers of a report as markup; what is no number is a dash."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

_NONE = '<span class="none">&ndash;</span>'


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def sort_key(value: Any) -> float:
    """Orders percentages; what is none comes first."""
    return float(value) if is_number(value) else -1.0


def percent(value: Any, digits: int) -> str:
    """A percentage."""
    return f"{value:.{digits}f}" if is_number(value) else _NONE


def _one_digit(value: Any) -> str:
    return percent(value, 1)


def _two_digits(value: Any) -> str:
    return percent(value, 2)


def count(value: Any) -> str:
    """A whole number with thousands apart."""
    return f"{int(value):,}" if is_number(value) else _NONE


def _mebibytes(value: Any) -> str:
    return f"{value / 2**20:.1f}&nbsp;MiB" if is_number(value) else _NONE


def _share(value: Any) -> str:
    """0..1 as a percentage."""
    return f"{100 * value:.1f}" if is_number(value) else _NONE


def _milliseconds(value: Any) -> str:
    return f"{value:.1f}&nbsp;ms" if is_number(value) else _NONE


def delta(value: Any, reference: Any) -> str:
    """A difference of percentages, coloured."""
    if not is_number(value) or not is_number(reference):
        return ""
    difference = value - reference
    kind = " up" if difference >= 0.05 else " down" if difference <= -0.05 else ""
    return f'<span class="delta{kind}">{difference:+.2f}</span>'


_SHARES = ("void_share", "true_thing_share", "predicted_thing_share", "void_predicted_as_things")
_COUNTS = ("true_segments", "predicted_segments", "true_things", "predicted_things")
_FORMATS = {
    "PQ": _two_digits,
    "size_bytes": _mebibytes,
    "latency_ms": _milliseconds,
    **dict.fromkeys(_SHARES, _share),
    **dict.fromkeys(_COUNTS, count),
}
"""By the name of a metric; all others are percent with one digit."""


def cell(name: str, value: Any) -> str:
    """A value of a `metrics.json`."""
    return _FORMATS.get(name, _one_digit)(value)

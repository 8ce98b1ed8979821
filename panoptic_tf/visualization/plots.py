"""Training curves as PNG: legible on light and on dark pages, no window and no global state."""

from __future__ import annotations

import io
from typing import Mapping, Optional, Sequence, Tuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Curve = Tuple[Sequence[float], Sequence[float]]

COLORS = ("#3b82f6", "#f59e0b", "#10b981", "#ef4444", "#8b5cf6", "#06b6d4", "#ec4899", "#84cc16")
_INK = "#808894"  # Readable on white and on black.
_MAX_POINTS = 200


def plot_curves(
    curves: Mapping[str, Curve],
    *,
    title: str = "",
    x_label: str = "step",
    y_label: str = "",
    log_y: bool = False,
    size: Tuple[int, int] = (640, 360),
) -> bytes:
    """Plots curves over their steps.

    A curve of many points is shown as its moving average over a faint line of its points. Points
    that are not finite leave a gap.

    Args:
      curves: (steps, values) of equal length, by name.
      title: title of the plot.
      x_label: label of the horizontal axis.
      y_label: label of the vertical axis.
      log_y: whether the vertical axis is logarithmic.
      size: (width, height) in pixels; drawn at twice the resolution.

    Returns:
      PNG bytes with a transparent background.

    Raises:
      ValueError: the steps and values of a curve differ in number.
    """
    figure = Figure(figsize=(size[0] / 100.0, size[1] / 100.0), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, (name, (steps, values)) in enumerate(curves.items()):
        if len(steps) != len(values):
            raise ValueError(f"curve {name!r} has {len(steps)} steps and {len(values)} values.")
        _draw_curve(axes, name, np.asarray(steps), values, COLORS[number % len(COLORS)])
    _style(axes, title, x_label, y_label)
    if log_y:
        axes.set_yscale("log", nonpositive="mask")
    if len(curves) > 1:
        axes.legend(frameon=False, fontsize=8, labelcolor=_INK)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", transparent=True)
    return buffer.getvalue()


def smooth(values: Sequence[float], window: int) -> np.ndarray:
    """Returns the mean of the finite values among the last `window` ones at each position."""
    values = np.asarray(values, np.float64)
    is_finite = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(is_finite, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(is_finite)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    count = counts[ends] - counts[starts]
    mean = (sums[ends] - sums[starts]) / np.maximum(count, 1)
    return np.where(count > 0, mean, np.nan)


def _draw_curve(axes, name: str, steps: np.ndarray, values: Sequence[float], color: str) -> None:
    # matplotlib hides the names that begin with an underscore and typesets those with dollars.
    label: Optional[str] = " " + name.replace("$", r"\$")
    if len(steps) > _MAX_POINTS:
        axes.plot(steps, values, color=color, linewidth=0.6, alpha=0.3)
        values = smooth(values, max(2, len(steps) // 50))
    is_point = len(steps) <= 25
    axes.plot(
        steps, values, color=color, linewidth=1.8, label=label, marker="o" * is_point, markersize=3
    )


def _style(axes, title: str, x_label: str, y_label: str) -> None:
    axes.set_title(title.replace("$", r"\$"), fontsize=10, color=_INK, loc="left")
    axes.set_xlabel(x_label.replace("$", r"\$"), fontsize=8, color=_INK)
    axes.set_ylabel(y_label.replace("$", r"\$"), fontsize=8, color=_INK)
    axes.tick_params(colors=_INK, labelsize=8, length=0)
    axes.grid(color=_INK, alpha=0.2, linewidth=0.6)
    for spine in axes.spines.values():
        spine.set_visible(False)

"""Metrics as a table for the terminal."""

from __future__ import annotations

from typing import Any, List, Mapping, Optional

_SPLITS = (("all", ""), ("things", "_things"), ("stuff", "_stuff"))
_OPTIONAL_NAMES = ("AP_box", "AP50_box", "AP75_box", "PQ_dagger", "ECE")


def format_metrics(metrics: Mapping[str, Any]) -> str:
    """Formats the content of a `metrics.json`; None prints as a dash.

    Args:
      metrics: what `PanopticEvaluator.result` returns.

    Returns:
      lines without a trailing newline.
    """
    lines = [f"{'':<10}{'PQ':>8}{'SQ':>8}{'RQ':>8}{'categories':>12}"]
    for split, suffix in _SPLITS:
        values = "".join(_cell(metrics[name + suffix]) for name in ("PQ", "SQ", "RQ"))
        lines.append(f"{split:<10}{values}{_num_counted(metrics, split):>12}")
    if metrics.get("PQ_boundary") is not None:
        values = "".join(_cell(metrics[f"{name}_boundary"]) for name in ("PQ", "SQ", "RQ"))
        lines.append(f"{'boundary':<10}{values}{_num_counted(metrics, 'all'):>12}")
    others = ["mIoU", "fIoU", "AP", "AP50", "AP75"]
    others += [name for name in _OPTIONAL_NAMES if metrics.get(name) is not None]
    lines.append("  ".join(f"{name} {_cell(metrics[name]).strip()}" for name in others))
    lines.extend(_error_lines(metrics))
    lines.extend(_coverage_lines(metrics))
    return "\n".join(lines)


def _error_lines(metrics: Mapping[str, Any]) -> List[str]:
    costs = {row["kind"]: row["PQ_lost"] for row in metrics.get("errors", ()) if row["PQ_lost"]}
    if not costs:
        return []
    costs = {"borders of matches": costs.pop("correct", 0.0), **costs}
    listed = ", ".join(f"{kind.replace('_', ' ')} {cost:.1f}" for kind, cost in costs.items())
    return [f"points of PQ lost: {listed}"]


def _coverage_lines(metrics: Mapping[str, Any]) -> List[str]:
    lines = []
    if metrics.get("void_share") is not None:
        shares = ("void_share", "true_thing_share", "predicted_thing_share")
        void, true, predicted = (f"{metrics[name]:.1%}" for name in shares)
        lines.append(f"of the pixels: void {void}, things {true} annotated, {predicted} predicted")
    if metrics.get("true_segments") is not None:
        lines.append(
            f"segments: {metrics['true_segments']} annotated ({metrics['true_things']} things), "
            f"{metrics['predicted_segments']} predicted ({metrics['predicted_things']} things)"
        )
    return lines


def _num_counted(metrics: Mapping[str, Any], split: str) -> int:
    wanted = {"all": (True, False), "things": (True,), "stuff": (False,)}[split]
    rows = metrics["per_category"]
    return sum(row["PQ"] is not None and row["is_thing"] in wanted for row in rows)


def _cell(value: Optional[float]) -> str:
    return f"{'-':>8}" if value is None else f"{value:>8.2f}"

"""Sections of a report that say why PQ is what it is: kinds of errors, calibration of scores."""

from __future__ import annotations

from typing import Any, List, Mapping, Sequence

from panoptic_tf.visualization import markup, report_numbers

_KIND_NAMES = {
    "correct": ("matched", "Correct; only its borders cost PQ."),
    "wrong_category": (
        "wrong category",
        "Found with an IoU above 0.5, as another category.",
    ),
    "wrong_border": ("wrong border", "Found with an IoU of 0.1 to 0.5."),
    "missed": ("missed", "No prediction fits it."),
    "duplicate": ("duplicate or part", "Mostly on a segment that it does not match."),
    "spurious": ("spurious", "Fits no annotated segment."),
    "on_void": ("on void", "More than half on void or on a crowd: not an error."),
}
_SPLITS = (("all", ""), ("things", "_things"), ("stuff", "_stuff"))
_PLOT, _MARGIN = 240, 34  # sides of the square of a plot, room for its axes


def errors_section(metrics: Mapping[str, Any]) -> str:
    """The kinds of errors, how many segments they befell and what they cost; empty without any.

    Args:
      metrics: the content of a metrics.json; `errors` are its rows, see
        `metrics.segment_errors`.
    """
    rows = [row for row in metrics.get("errors") or () if _is_known(row)]
    if not rows:
        return ""
    splits = [split for split in _SPLITS if report_numbers.is_number(rows[0][f"PQ_lost{split[1]}"])]
    sides = ("annotated", "predicted")
    groups = "<th></th>" + "".join(
        f'<th colspan="{count}">{name}</th>'
        for name, count in (("things", 2), ("stuff", 2), ("points of PQ lost", len(splits) + 1))
    )
    head = ["", *sides, *sides, *(name for name, _ in splits), ""]
    most = max(row["PQ_lost"] for row in rows)
    lines = [_error_row(row, splits, most) for row in rows]
    total = [report_numbers.percent(sum(r[f"PQ_lost{s}"] for r in rows), 1) for _, s in splits]
    cells = "".join(f"<td>{cell}</td>" for cell in ("", "", "", "", *total, ""))
    lines.append(f'<tr class="total"><td class="name">100 &minus; PQ</td>{cells}</tr>')
    return f"<section><h2>What PQ lacks</h2>{markup.table(head, lines, groups)}</section>"


def calibration_section(metrics: Mapping[str, Any]) -> str:
    """A reliability plot and the table beside it; empty where no segment has a score.

    Args:
      metrics: the content of a metrics.json; `calibration` are its bins, see
        `metrics.calibration`.
    """
    bins = metrics.get("calibration") or ()
    if not bins:
        return ""
    rows = [
        f"<tr><td>{b['score_min']:.2f} to {b['score_max']:.2f}</td>"
        f"<td>{report_numbers.count(b['segments'])}</td>"
        f"<td>{b['mean_score']:.2f}</td><td>{b['precision']:.2f}</td></tr>"
        for b in bins
    ]
    table = markup.table(["score", "segments", "mean score", "right"], rows)
    return (
        "<section><h2>Calibration</h2><p>Of the segments with a score of 0.8, four of five should "
        "be right. Bars show the share that is: below the diagonal, scores are too high.</p>"
        f'<div class="beside"><div class="card plot">{_reliability_plot(bins)}</div>{table}</div>'
        "</section>"
    )


def _is_known(row: Mapping[str, Any]) -> bool:
    return row.get("kind") in _KIND_NAMES and report_numbers.is_number(row.get("PQ_lost"))


def _error_row(row: Mapping[str, Any], splits: Sequence[Any], most: float) -> str:
    name, description = _KIND_NAMES[row["kind"]]
    counts = [
        row[f"{side}_{s}"] for s in ("things", "stuff") for side in ("annotated", "predicted")
    ]
    cells = [report_numbers.count(count) for count in counts]
    cells += [report_numbers.percent(row[f"PQ_lost{suffix}"], 1) for _, suffix in splits]
    listed = "".join(f"<td>{cell}</td>" for cell in cells)
    bar = markup.bar(row["PQ_lost"] / most if most > 0 else 0.0)
    return (
        f'<tr><td class="name" title="{markup.text(description)}">{name}'
        f'<small>{markup.text(description)}</small></td>{listed}<td class="bar">{bar}</td></tr>'
    )


def _reliability_plot(bins: Sequence[Mapping[str, Any]]) -> str:
    """Share of right segments by score as bars, and how many there are of a score below."""
    most = max(b["segments"] for b in bins)
    shapes: List[str] = []
    for b in bins:
        left, width = _x(b["score_min"]) + 1, _x(b["score_max"]) - _x(b["score_min"]) - 2
        height = _PLOT * b["precision"]
        shapes.append(_rect("right", left, _PLOT - height, width, height))
        height = _MARGIN * b["segments"] / most
        shapes.append(_rect("count", left, _PLOT + _MARGIN + 8 - height, width, height))
    lines = [(0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0)]
    axes = "".join(_line("axis", *line) for line in lines) + _line("ideal", 0.0, 0.0, 1.0, 1.0)
    labels = [
        *((_x(v), _PLOT + _MARGIN + 24, "middle", f"{v:g}") for v in (0.0, 0.5, 1.0)),
        *((_MARGIN - 6, _PLOT * (1 - v) + 4, "end", f"{v:g}") for v in (0.0, 0.5, 1.0)),
        (_x(0.5), _PLOT + _MARGIN + 42, "middle", "score (below the axis: number of segments)"),
    ]
    texts = "".join(
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}">{label}</text>'
        for x, y, anchor, label in labels
    )
    width, height = _PLOT + 2 * _MARGIN, _PLOT + _MARGIN + 54
    return (
        f'<svg viewBox="0 -8 {width} {height}" role="img" aria-label="share of right segments by '
        f'score">{"".join(shapes)}{axes}{texts}</svg>'
    )


def _x(score: float) -> float:
    return _MARGIN + _PLOT * score


def _rect(kind: str, x: float, y: float, width: float, height: float) -> str:
    return (
        f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'
    )


def _line(kind: str, x: float, y: float, to_x: float, to_y: float) -> str:
    ends = (_x(x), _PLOT * (1 - y), _x(to_x), _PLOT * (1 - to_y))
    x1, y1, x2, y2 = (f"{end:.1f}" for end in ends)
    return f'<line class="{kind}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'

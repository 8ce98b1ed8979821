"""The page of a data set: counts, histograms, what is rare, and images worth a look.

One HTML file that asks nothing of the network and runs no script; `report.css` and `data_page.css`
are its style.
"""

from __future__ import annotations

from typing import Any, List, Mapping, Sequence, Tuple

from panoptic_tf.visualization import markup
from panoptic_tf.visualization.markup import Color, text

_TILES = (
    ("num_images", "images"),
    ("num_segments", "segments"),
    ("num_crowds", "crowds"),
    ("num_instances", "overlapping instances"),
)
_CHARTS = (
    ("longer_side_of_images", "Longer side of the images, pixels"),
    ("segments_of_an_image", "Segments of an image"),
    ("square_root_of_thing_area", "Things: square root of the area, pixels"),
    ("square_root_of_stuff_area", "Stuff: square root of the area, pixels"),
)
_CHART_WIDTH, _CHART_HEIGHT, _LABELS = 400, 140, 18
_MOST_LISTED = 200
_RARE_SHARE, _RARE_IMAGES = 0.01, 10
"""A category is rare in a smaller share of the images, and in fewer where there are more."""


def render_data_page(
    *,
    title: str,
    report: Mapping[str, Any],
    colors: Sequence[Color],
    suspicious: Sequence[Mapping[str, Any]] = (),
    sample: Sequence[Mapping[str, Any]] = (),
    kinds: Sequence[Tuple[str, int]] = (),
    command: str = "",
) -> str:
    """Renders the page.

    Args:
      title: headline.
      report: what `doctor` returns: counts, `per_category`, `histograms`, `problems`, `notes`.
      colors: (red, green, blue) of each of `per_category`.
      suspicious: images worth a look, the strangest first, each a mapping of `name`, `reasons`
        (texts) and `panel` (PNG or JPEG bytes, or uint8 [H, W, 3]).
      sample: other images, likewise, without reasons.
      kinds: what was suspicious, and in how many images.
      command: that made the page.

    Returns:
      The text of the HTML file.

    Raises:
      ValueError: a picture is neither PNG, JPEG nor uint8 [H, W, 3].
    """
    sections = [
        _list_section("Problems", report["problems"], "must be fixed before training"),
        _list_section("Notes", report["notes"], "valid, but worth knowing"),
        _gallery_section("Worth a look", suspicious, _kinds(kinds)),
        _categories_section(report, colors),
        _charts_section(report["histograms"]),
        _gallery_section("A sample", sample, ""),
    ]
    if command:
        sections.append(
            f'<section><h2>Command</h2><div class="card"><dl><dt>command</dt>'
            f"<dd>{text(command)}</dd></dl></div></section>"
        )
    quality = report["ground_truth_PQ"]
    subtitle = "" if quality is None else f"PQ of the ground truth against itself: {quality:.2f}"
    return markup.page(
        title,
        subtitle=subtitle,
        tiles=_tiles(report),
        body="\n".join(section for section in sections if section),
        styles=["report.css", "data_page.css"],
    )


def _tiles(report: Mapping[str, Any]) -> str:
    values = [
        (f"{report[key]:,}", name) for key, name in _TILES if report[key] or key == "num_images"
    ]
    seen = sum(1 for category in report["per_category"] if category["segments"])
    values += [
        (f"{seen} of {len(report['per_category'])}", "categories that occur"),
        (f"{report['void_share']:.1%}", "of the pixels are void"),
        (f"{len(report['problems']):,}", "problems"),
    ]
    return "".join(
        f'<div class="card tile"><b>{text(value)}</b><span>{text(name)}</span></div>'
        for value, name in values
    )


def _list_section(heading: str, lines: Sequence[str], remark: str) -> str:
    if not lines:
        return ""
    items = "".join(f"<li>{text(line)}</li>" for line in lines[:_MOST_LISTED])
    if len(lines) > _MOST_LISTED:
        items += f"<li>and {len(lines) - _MOST_LISTED:,} more</li>"
    return (
        f'<section><h2>{text(heading)}</h2><p class="muted">{text(remark)}</p>'
        f'<div class="card"><ul class="list">{items}</ul></div></section>'
    )


def _kinds(kinds: Sequence[Tuple[str, int]]) -> str:
    if not kinds:
        return ""
    texts = [f"{kind}: {count:,} images" for kind, count in kinds]
    return f'<p class="muted">{text("; ".join(texts))}.</p>'


def _categories_section(report: Mapping[str, Any], colors: Sequence[Color]) -> str:
    pairs = sorted(zip(report["per_category"], colors), key=lambda pair: -pair[0]["pixels"])
    largest = max([category["pixel_share"] for category, _ in pairs] + [1e-9])
    rows = []
    for category, color in pairs:
        is_rare = category["images"] < max(_RARE_SHARE * report["num_images"], 1) or (
            category["images"] < _RARE_IMAGES < report["num_images"]
        )
        chip = '<span class="chip rare">rare</span>' if is_rare else ""
        cells = (
            "thing" if category["is_thing"] else "stuff",
            f"{category['images']:,}",
            f"{category['segments']:,}",
            f"{category['crowds']:,}",
            f"{category['pixel_share']:.3%}",
        )
        name = text(category["name"])
        rows.append(
            f'<tr><td class="name" title="{name}">{markup.swatch(color)}{name}{chip}</td>'
            f'<td class="bar">{markup.bar(category["pixel_share"] / largest)}</td>'
            f"{''.join(f'<td>{text(cell)}</td>' for cell in cells)}</tr>"
        )
    head = ("category", "", "kind", "images", "segments", "crowds", "pixels")
    remark = (
        f"A category is rare in fewer than {_RARE_SHARE:.0%} of the images or fewer than "
        f"{_RARE_IMAGES} of them; of up to {_RARE_IMAGES} images, in none."
    )
    return (
        f'<section><h2>Categories</h2>{markup.table(head, rows)}<p class="muted">{remark}</p>'
        "</section>"
    )


def _charts_section(histograms: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    charts = [_chart(title, histograms[key]) for key, title in _CHARTS if histograms[key]]
    if not charts:
        return ""
    return f'<section><h2>Sizes</h2><div class="charts">{"".join(charts)}</div></section>'


def _chart(title: str, bins: Sequence[Mapping[str, Any]]) -> str:
    """Bars of one histogram, with the bounds of its bins below."""
    most = max(entry["count"] for entry in bins)
    width = _CHART_WIDTH / len(bins)
    step = max(1, round(len(bins) / 8))
    parts: List[str] = []
    for position, entry in enumerate(bins):
        height = (_CHART_HEIGHT - 2) * entry["count"] / most
        left, top = position * width, _CHART_HEIGHT - height
        bounds = f"{_bound(entry['low'])} to {_bound(entry['high'])}: {entry['count']:,}"
        parts.append(
            f'<rect x="{left + 1:.1f}" y="{top:.1f}" width="{width - 2:.1f}" '
            f'height="{height:.1f}"><title>{text(bounds)}</title></rect>'
        )
        if position % step == 0:
            parts.append(
                f'<text x="{left + 1:.1f}" y="{_CHART_HEIGHT + _LABELS - 5}">'
                f"{_bound(entry['low'])}</text>"
            )
    return (
        f'<div class="card chart"><h3>{text(title)}</h3>'
        f'<svg viewBox="0 0 {_CHART_WIDTH} {_CHART_HEIGHT + _LABELS}" role="img" '
        f'aria-label="{text(title)}">{"".join(parts)}'
        f'<line x1="0" y1="{_CHART_HEIGHT}" x2="{_CHART_WIDTH}" y2="{_CHART_HEIGHT}"></line>'
        "</svg></div>"
    )


def _bound(value: float) -> str:
    return f"{value:.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def _gallery_section(heading: str, items: Sequence[Mapping[str, Any]], remark: str) -> str:
    if not items:
        return ""
    cards = "".join(_card(item) for item in items)
    return f'<section><h2>{text(heading)}</h2>{remark}<div class="panels">{cards}</div></section>'


def _card(item: Mapping[str, Any]) -> str:
    reasons = "; ".join(item.get("reasons", ()))
    note = f'<span class="note">{text(reasons)}</span>' if reasons else ""
    return (
        f'<figure class="card"><figcaption><span class="id">{text(item["name"])}</span>{note}'
        f"</figcaption>{markup.image(item['panel'], item['name'])}</figure>"
    )

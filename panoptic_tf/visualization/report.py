"""The report of an evaluation: one HTML file that holds its style and its pictures.

`report.html` and `report.css` are the body of the page and its style; what depends on data is made
here. The page asks nothing of the network and runs no script; its content security policy says so
to the browser. All text that came from data (names, image ids, titles) is escaped.
"""

from __future__ import annotations

import string
from typing import Any, Iterable, List, Mapping, Optional, Sequence, Tuple

from panoptic_tf.visualization import markup, report_details, report_numbers
from panoptic_tf.visualization.markup import Color, text

ColumnGroups = Sequence[Tuple[str, Sequence[Tuple[str, str]]]]
"""Headings, and the keys and headings of the columns under each."""

_TILES = (
    ("PQ", "panoptic quality"),
    ("PQ_things", "PQ of things"),
    ("PQ_stuff", "PQ of stuff"),
    ("SQ", "segmentation quality"),
    ("RQ", "recognition quality"),
    ("mIoU", "mean IoU"),
    ("AP", "mask AP"),
)
_COLUMN_GROUPS = (
    ("all", (("PQ", "PQ"), ("SQ", "SQ"), ("RQ", "RQ"))),
    ("things", (("PQ_things", "PQ"), ("SQ_things", "SQ"), ("RQ_things", "RQ"))),
    ("stuff", (("PQ_stuff", "PQ"), ("SQ_stuff", "SQ"), ("RQ_stuff", "RQ"))),
    ("semantic", (("mIoU", "mIoU"), ("fIoU", "fIoU"))),
    ("mask", (("AP", "AP"), ("AP50", "AP50"), ("AP75", "AP75"))),
    ("box", (("AP_box", "AP"), ("AP50_box", "AP50"), ("AP75_box", "AP75"))),
    ("cost", (("size_bytes", "size"), ("latency_ms", "latency"))),
)
_COVERAGE_GROUPS = (
    (
        "% of all pixels",
        (
            ("void_share", "void"),
            ("true_thing_share", "annotated things"),
            ("predicted_thing_share", "predicted things"),
        ),
    ),
    ("% of void", (("void_predicted_as_things", "predicted things"),)),
    ("segments", (("true_segments", "annotated"), ("predicted_segments", "predicted"))),
    ("things", (("true_things", "annotated"), ("predicted_things", "predicted"))),
)
_BESIDE_GROUPS = (
    ("PQ&dagger;", (("PQ_dagger", "all"), ("PQ_dagger_stuff", "stuff"))),
    *(
        (
            f"boundary, {split}",
            tuple((f"{name}_boundary{suffix}", name) for name in ("PQ", "SQ", "RQ")),
        )
        for split, suffix in (("all", ""), ("things", "_things"), ("stuff", "_stuff"))
    ),
    ("calibration error", (("ECE", "all"), ("ECE_things", "things"), ("ECE_stuff", "stuff"))),
)
_CATEGORY_COLUMNS = (
    *(("PQ", "PQ"), ("SQ", "SQ"), ("RQ", "RQ")),
    ("PQ_boundary", "boundary PQ"),
    ("IoU", "IoU"),
)
_GROUP_TITLES = {"worst": "Lowest PQ", "best": "Highest PQ"}


def render_report(
    *,
    title: str,
    metrics: Mapping[str, Any],
    subtitle: str = "",
    colors: Optional[Sequence[Color]] = None,
    gallery: Sequence[Mapping[str, Any]] = (),
    extras: Optional[Mapping[str, Mapping[str, Any]]] = None,
    warnings: Sequence[str] = (),
) -> str:
    """Renders the report.

    Args:
      title: headline.
      metrics: the content of a metrics.json: one object of metrics (it has the key `PQ`), or
        several by name of the form (`keras`, `saved_model`, ...), the first of which is the one
        the tiles and the categories show. Values are percent or None.
      subtitle: a line under the headline.
      colors: (red, green, blue) by category id, entry 0 for void; marks the categories.
      gallery: images, each a mapping of `image_id`, `pq` (percent or None), `panel` (PNG or JPEG
        bytes, or uint8 [H, W, 3]), and optionally `group` (`best` or `worst`; without it the
        better half are the best) and `note`.
      extras: tables of names and values by heading, such as the command and the settings.
      warnings: sentences that are to be read with the numbers.

    Returns:
      The text of the HTML file.

    Raises:
      ValueError: there are no metrics, or a picture is neither PNG, JPEG nor uint8 [H, W, 3].
    """
    forms = _named_forms(metrics)
    first = next(iter(forms.values()))
    categories = first.get("per_category") or ()
    tables = (("Beside PQ", _BESIDE_GROUPS), ("What is covered", _COVERAGE_GROUPS))
    others = ((heading, _forms_table(forms, groups)) for heading, groups in tables)
    sections = [
        report_details.errors_section(first),
        report_details.calibration_section(first),
        _categories_section(categories, colors),
        _gallery_section(gallery, categories, colors),
        *(_extra_section(heading, values) for heading, values in (extras or {}).items()),
    ]
    body = string.Template(markup.read("report.html")).substitute(
        warnings="\n".join(
            f'<p class="card warning">{text(sentence)}</p>' for sentence in warnings
        ),
        metrics=_forms_table(forms, _COLUMN_GROUPS),
        others="".join(f"<h3>{heading}</h3>{table}" for heading, table in others if table),
        sections="\n".join(section for section in sections if section),
    )
    return markup.page(
        title, subtitle=subtitle, tiles=_tiles(first), body=body, styles=["report.css"]
    )


def _named_forms(metrics: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    if "PQ" in metrics:
        return {"model": metrics}
    forms = {name: form for name, form in metrics.items() if isinstance(form, Mapping)}
    if not forms:
        raise ValueError("metrics must have the key 'PQ' or hold forms that have it, got neither.")
    return forms


# Sections


def _tiles(metrics: Mapping[str, Any]) -> str:
    tiles = []
    for key, name in _TILES:
        if report_numbers.is_number(metrics.get(key)) or key == "PQ":
            first = " first" if key == "PQ" else ""
            value = f"<b>{report_numbers.percent(metrics.get(key), 1)}</b><span>{name}</span>"
            tiles.append(f'<div class="card tile{first}">{value}</div>')
    return "".join(tiles)


def _forms_table(forms: Mapping[str, Mapping[str, Any]], column_groups: ColumnGroups) -> str:
    """A row for each form; columns without any value are left out, and a table without columns."""
    groups = []
    for group, columns in column_groups:
        present = [
            c for c in columns if any(report_numbers.is_number(f.get(c[0])) for f in forms.values())
        ]
        if present:
            groups.append((group, present))
    if not groups:
        return ""
    keys = [key for _, columns in groups for key, _ in columns]
    spans = "".join(f'<th colspan="{len(columns)}">{group}</th>' for group, columns in groups)
    head = ["form", *(name for _, columns in groups for _, name in columns)]
    first = next(iter(forms.values()))
    rows = []
    for name, form in forms.items():
        cells = [report_numbers.cell(key, form.get(key)) for key in keys]
        if "PQ" in keys and form is not first:
            cells[0] += report_numbers.delta(form.get("PQ"), first.get("PQ"))
        name = text(name)
        rows.append(_row([f'<td class="name" title="{name}">{name}</td>'], cells))
    return markup.table(head, rows, f"<th></th>{spans}")


def _categories_section(
    categories: Sequence[Mapping[str, Any]], colors: Optional[Sequence[Color]]
) -> str:
    if not categories:
        return ""
    percentages = [
        column
        for column in _CATEGORY_COLUMNS
        if column[0] != "PQ_boundary" or any(c.get(column[0]) is not None for c in categories)
    ]
    head = ["category", "", *(name for _, name in percentages), "TP", "FP", "FN"]
    rows: List[str] = []
    seen = [
        c
        for c in categories
        if report_numbers.is_number(c.get("PQ")) or report_numbers.is_number(c.get("IoU"))
    ]
    for group, is_thing in (("Things", True), ("Stuff", False)):
        members = [c for c in seen if bool(c.get("is_thing")) == is_thing]
        members.sort(key=lambda c: report_numbers.sort_key(c.get("PQ")), reverse=True)
        if members:
            rows.append(f'<tr class="group"><td colspan="{len(head)}">{group}</td></tr>')
        keys = [key for key, _ in percentages]
        rows.extend(_category_row(category, keys, colors) for category in members)
    others = len(categories) - len(seen)
    note = f'<p class="muted">{others} more: neither annotated nor predicted.</p>' if others else ""
    return f"<section><h2>Categories</h2>{markup.table(head, rows)}{note}</section>"


def _category_row(
    category: Mapping[str, Any], keys: Sequence[str], colors: Optional[Sequence[Color]]
) -> str:
    name = text(category.get("name", ""))
    swatch = _swatch(category, colors)
    cells = [report_numbers.percent(category.get(key), 1) for key in keys]
    cells += [report_numbers.count(category.get(key)) for key in ("tp", "fp", "fn")]
    leading = [
        f'<td class="name" title="{name}">{swatch}{name}</td>',
        f'<td class="bar">{_bar(category.get("PQ"))}</td>',
    ]
    return _row(leading, cells)


def _gallery_section(
    gallery: Sequence[Mapping[str, Any]],
    categories: Sequence[Mapping[str, Any]],
    colors: Optional[Sequence[Color]],
) -> str:
    if not gallery:
        return ""
    parts = ["<h2>Gallery</h2>", _legend(categories, colors)]
    for group, items in _split_gallery(gallery).items():
        if items:
            cards = "".join(_gallery_card(item, group) for item in items)
            parts.append(f"<h3>{_GROUP_TITLES[group]}</h3>")
            parts.append(f'<div class="gallery">{cards}</div>')
    return f"<section>{''.join(parts)}</section>"


def _split_gallery(
    gallery: Sequence[Mapping[str, Any]],
) -> Mapping[str, List[Mapping[str, Any]]]:
    """Returns the worst images, worst first, and the best images, best first."""
    scored = [item for item in gallery if report_numbers.is_number(item.get("pq"))]
    unscored = [item for item in gallery if not report_numbers.is_number(item.get("pq"))]
    groups: Mapping[str, List[Mapping[str, Any]]] = {"worst": [], "best": []}
    for rank, item in enumerate(sorted(scored, key=lambda item: item["pq"])):
        default = "worst" if rank < len(scored) // 2 else "best"
        groups["best" if item.get("group", default) == "best" else "worst"].append(item)
    groups["best"].reverse()
    groups["worst"].extend(unscored)
    return groups


def _gallery_card(item: Mapping[str, Any], group: str) -> str:
    image_id = item.get("image_id", "")
    note = f'<span class="note">{text(item["note"])}</span>' if item.get("note") else ""
    pq = report_numbers.percent(item.get("pq"), 1)
    return (
        f'<figure class="card"><figcaption><span class="chip {group}">PQ {pq}</span>'
        f'<span class="id">{text(image_id)}</span>{note}'
        f"</figcaption>{markup.image(item['panel'], f'image {image_id}')}</figure>"
    )


def _legend(categories: Sequence[Mapping[str, Any]], colors: Optional[Sequence[Color]]) -> str:
    if not colors or not categories:
        return ""
    seen = [c for c in categories if report_numbers.is_number(c.get("PQ"))]
    entries = (f"<span>{_swatch(c, colors)}{text(c.get('name', ''))}</span>" for c in seen)
    return f'<div class="legend">{"".join(entries)}</div>'


def _extra_section(heading: str, values: Mapping[str, Any]) -> str:
    entries = "".join(f"<dt>{text(k)}</dt><dd>{text(v)}</dd>" for k, v in values.items())
    return f'<section><h2>{text(heading)}</h2><div class="card"><dl>{entries}</dl></div></section>'


# Pieces


def _row(leading: Iterable[str], cells: Iterable[str]) -> str:
    return f"<tr>{''.join(leading)}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _bar(value: Any) -> str:
    return markup.bar(float(value) / 100) if report_numbers.is_number(value) else ""


def _swatch(category: Mapping[str, Any], colors: Optional[Sequence[Color]]) -> str:
    category_id = category.get("id")
    if not colors or not isinstance(category_id, int) or not 0 <= category_id < len(colors):
        return ""
    return markup.swatch(colors[category_id])

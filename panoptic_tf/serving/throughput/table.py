"""A measurement as lines of a terminal."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional

_NOTHING = "-"


class _Column(NamedTuple):
    title: str
    key: str
    text: Callable[[Any], str] = str


def _number(digits: int, scale: float = 1.0) -> Callable[[float], str]:
    return lambda value: f"{value * scale:,.{digits}f}"


_COLUMNS = (
    _Column("through", "through"),
    _Column("batch", "batch_size"),
    _Column("threads", "threads"),
    _Column("at once", "concurrency"),
    _Column("images/s", "images_per_second", _number(2)),
    _Column("CPU ms", "cpu_ms_per_image", _number(1)),
    _Column("p50 ms", "latency_ms_p50", _number(1)),
    _Column("p90 ms", "latency_ms_p90", _number(1)),
    _Column("p99 ms", "latency_ms_p99", _number(1)),
    _Column("requests", "requests"),
    _Column("first s", "first_request_seconds", _number(2)),
    _Column("load s", "load_seconds", _number(2)),
    _Column("MB", "peak_memory_bytes", _number(0, 1e-6)),
)


def format_report(report: Mapping[str, Any]) -> str:
    """Formats what `measuring.run` returns; lines without a trailing newline."""
    rows = [[column.title for column in _COLUMNS], *map(_cells, report["rows"])]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [_describe_machine(report["machine"]), _describe_model(report), ""]
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([*lines, *_errors(report["rows"])])


def _cells(row: Mapping[str, Any]) -> List[str]:
    values = ((column, row.get(column.key)) for column in _COLUMNS)
    return [_NOTHING if value is None else column.text(value) for column, value in values]


def _describe_machine(machine: Mapping[str, Any]) -> str:
    versions: Dict[str, Optional[str]] = {**machine["versions"], "Python": machine["python"]}
    parts = [
        f"{machine['cpu']}, {machine['cpus']} CPUs",
        " ".join(machine["cpu_flags"]),
        *machine["gpus"],
        ", ".join(f"{name} {version}" for name, version in versions.items()),
        f"load average {machine['load_average']}",
    ]
    return "\n".join(part for part in parts if part)


def _describe_model(report: Mapping[str, Any]) -> str:
    size = report["size_bytes"]
    shown = "" if size is None else f", {size / 1e6:,.1f} MB"
    return f"{report['model']}{shown}; images: {report['images']}"


def _errors(rows: List[Mapping[str, Any]]) -> List[str]:
    return [
        f"{row['through']}, batch {row['batch_size']}, threads {row['threads'] or _NOTHING}: "
        f"{row['error']}"
        for row in rows
        if "error" in row
    ]

"""What the tables of papers on shapes share: rows with one change each, at equal steps."""

from __future__ import annotations

import json
import os
import types
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

import common

from panoptic_tf.datasets import files, shapes_records

# The experiment's average is over more steps than a row has.
_TRAINER = {"optimizer_config": {"ema": {"average_decay": 0.99}}}


class Row(NamedTuple):
    """One row.

    Attributes:
      experiment: what is trained.
      overrides: of its task.
      trained_as: the row whose weights are evaluated; None trains this one's own. For switches of
        inference.
      runtime: overrides of the runtime in training.
    """

    experiment: str
    overrides: Dict[str, Any]
    trained_as: Optional[str] = None
    runtime: Mapping[str, Any] = types.MappingProxyType({})


def run(
    rows: Dict[str, Row],
    *,
    names: Sequence[str],
    columns: Sequence[str],
    output_dir: str,
    steps: int,
) -> None:
    """Trains and scores rows, writes the table after each and prints it.

    Rows that were scored already are kept, so that it goes on where it was stopped.

    Args:
      rows: by name; one comes after that which it is `trained_as`.
      names: rows to run, all where empty.
      columns: keys of the metrics.
      output_dir: gets the data, a folder for each row, and the table.
      steps: of each training.

    Raises:
      ValueError: an unknown name.
    """
    unknown = sorted(set(names) - set(rows))
    if unknown:
        raise ValueError(f"unknown rows {', '.join(unknown)}; known: {', '.join(rows)}.")
    records = shapes_records.write_records(os.path.join(output_dir, "data"))
    found = {}
    for name in names or rows:
        found[name] = _metrics(name, rows[name], records, output_dir, steps)
        text = "\n".join(_table(found, columns)) + "\n"
        files.write_bytes(os.path.join(output_dir, f"tables_{steps}.md"), text.encode())
    print(text)


def _metrics(
    name: str, row: Row, records: shapes_records.ShapesRecords, output_dir: str, steps: int
) -> Dict[str, Any]:
    folder = os.path.join(output_dir, name)
    path = os.path.join(folder, f"row_{steps}.json")
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    params = common.build_params(
        row.experiment,
        train_path=records.train,
        val_path=records.val,
        overrides={"task": row.overrides, "trainer": _TRAINER, "runtime": dict(row.runtime)},
        steps=steps,
    )
    costs: Dict[str, Any] = {"train_cpu_seconds": None}
    model_dir = os.path.join(output_dir, row.trained_as or name, "model")
    if row.trained_as is None:
        costs = common.train(params, model_dir)
    metrics = common.score(params, model_dir=model_dir, output_dir=folder, title=name, costs=costs)
    files.write_json(path, metrics)
    return metrics


def _table(found: Dict[str, Dict[str, Any]], columns: Sequence[str]) -> List[str]:
    """Lines of a Markdown table."""

    def cell(value: Any) -> str:
        return "-" if value is None else f"{value:.1f}"

    lines = [" | ".join(["| row", *columns]) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, metrics in found.items():
        lines.append(" | ".join([f"| {name}", *(cell(metrics[c]) for c in columns)]) + " |")
    return lines

"""Where a command writes, looked at or made before the work; what an evaluation prints."""

from __future__ import annotations

import os

from panoptic_tf.api.paths import check_can_write

__all__ = ["check_can_write", "make_output_dir", "print_evaluation"]


def make_output_dir(path: str) -> None:
    """Makes the folder of --output_dir, if there is none, and looks whether one can write there.

    Raises:
      ValueError: something else has its name, or it cannot be written to.
      OSError: it cannot be made.
    """
    path = path or "."
    try:
        os.makedirs(path, exist_ok=True)
    except FileExistsError as error:
        raise ValueError(f"--output_dir: {error.filename} is not a folder.") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise ValueError(f"--output_dir: {path} cannot be written to.")


def print_evaluation(result, folder: str) -> None:
    """Prints an `api.evaluation.EvaluationResult` as a table, what looks wrong in it, its files."""
    from panoptic_tf.metrics import summary

    print(summary.format_metrics(result.metrics))
    for text in result.warnings:
        print(f"warning: {text}")
    if result.metrics.get("PQ_ceiling") is not None:
        print(f"PQ of the ground truth at this output stride: {result.metrics['PQ_ceiling']:.2f}")
    for name in ("metrics.json", "report.html"):
        print(os.path.join(folder, name))

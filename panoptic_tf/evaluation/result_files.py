"""Scores result files in COCO panoptic format, whatever made them, against ground truth."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
from typing import Any, Dict, Iterator, Mapping, Optional, Sequence, Tuple

import numpy as np
from tqdm import tqdm

from panoptic_tf.datasets import coco_format
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.metrics import segments
from panoptic_tf.metrics.evaluator import PanopticEvaluator

_MAX_CHUNK = 32

Annotation = coco_format.PanopticAnnotation
Pair = Tuple[Annotation, Annotation]


def score_files(
    *,
    panoptic_json: str,
    predictions_json: str,
    panoptic_dir: Optional[str] = None,
    predictions_dir: Optional[str] = None,
    crowd_rule: str = "all",
    boundary_ratio: float = 0.0,
    num_processes: int = 1,
    show_progress: bool = False,
) -> Dict[str, Any]:
    """Scores predictions against ground truth, both in COCO panoptic format.

    Args:
      panoptic_json: the ground truth; `images` may be missing.
      predictions_json: the predictions; `images` and `categories` may be missing.
      panoptic_dir: PNGs of the ground truth; default the JSON file's path without `.json`.
      predictions_dir: PNGs of the predictions; default likewise.
      crowd_rule: `all` or `last`, see `PanopticQuality`.
      boundary_ratio: see `PanopticEvaluator`.
      num_processes: 1 stays in this process.
      show_progress: whether to draw a progress bar.

    Returns:
      The content of metrics.json; `per_category` also holds each category's `dataset_id`.
      Calibration is that of the segments that have a score.

    Raises:
      ValueError: a file is malformed, an image has no prediction, or a PNG and its JSON entry do
        not hold the same segments; the message names file, image and segment.
    """
    info, annotations = coco_format.read_panoptic_json(
        panoptic_json,
        panoptic_dir=panoptic_dir or os.path.splitext(panoptic_json)[0],
        require_images=False,
    )
    predictions = coco_format.read_predictions_json(
        predictions_json,
        predictions_dir=predictions_dir or os.path.splitext(predictions_json)[0],
        dataset_info=info,
        annotations=annotations,
    )
    pairs = list(zip(annotations, predictions))
    evaluator = _evaluator(info, crowd_rule, boundary_ratio)
    with tqdm(total=len(pairs), unit="image", desc="score", disable=not show_progress) as bar:
        for part in _score_chunks(pairs, num_processes, info, crowd_rule, boundary_ratio):
            evaluator.merge(part)
            bar.update(len(part.image_scores()))
    metrics = evaluator.result()
    for category, row in zip(info.categories, metrics["per_category"]):
        row["dataset_id"] = category.dataset_id
    return metrics


def _score_chunks(
    pairs: Sequence[Pair], num_processes: int, *settings: Any
) -> Iterator[PanopticEvaluator]:
    """Evaluators of consecutive parts, in order; `settings` are those of `score_pairs`."""
    size = min(_MAX_CHUNK, -(-len(pairs) // max(num_processes, 1))) or 1
    chunks = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    if num_processes <= 1 or len(chunks) <= 1:
        yield from (score_pairs(chunk, *settings) for chunk in chunks)
        return
    # A fork of a process with threads, TensorFlow's for example, may hang.
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(min(num_processes, len(chunks)), context)
    try:
        parts = [pool.submit(score_pairs, chunk, *settings) for chunk in chunks]
        for part in parts:
            yield part.result()
    finally:
        pool.shutdown(cancel_futures=True)


def score_pairs(
    pairs: Sequence[Pair], info: DatasetInfo, crowd_rule: str, boundary_ratio: float
) -> PanopticEvaluator:
    """Scores the (ground truth, prediction) pairs of some images."""
    evaluator = _evaluator(info, crowd_rule, boundary_ratio)
    contiguous_ids = info.contiguous_ids()
    for annotation, prediction in pairs:
        ground_truth = _read_labels(annotation, contiguous_ids)
        size = (int(ground_truth.size[0]), int(ground_truth.size[1]))
        prediction = dataclasses.replace(prediction, height=size[0], width=size[1])
        predicted = _read_labels(prediction, contiguous_ids)
        evaluator.update_labels(
            json.dumps(annotation.image_id), ground_truth, predicted, _scores(prediction)
        )
    return evaluator


def _evaluator(info: DatasetInfo, crowd_rule: str, boundary_ratio: float) -> PanopticEvaluator:
    return PanopticEvaluator(
        num_categories=info.num_categories,
        thing_ids=info.thing_ids,
        category_names=info.names,
        crowd_rule=crowd_rule,
        compute_ap=False,
        boundary_ratio=boundary_ratio,
    )


def _scores(prediction: Annotation) -> Optional[np.ndarray]:
    """float64 [S + 1] by label, NaN of void and of segments without a score; or None."""
    if all(segment.score is None for segment in prediction.segments):
        return None
    return np.array([None, *(segment.score for segment in prediction.segments)], np.float64)


def _read_labels(annotation: Annotation, contiguous_ids: Mapping[int, int]) -> segments.LabelMap:
    source = f"{annotation.png_file}: image_id {annotation.image_id!r}"
    expected = (annotation.height, annotation.width)

    def check_size(size: Tuple[int, int]) -> None:
        if all(expected) and size != expected:
            raise ValueError(
                f"{source} must be {expected} (height, width) as the ground truth says, got {size}."
            )

    id_map = coco_format.read_id_map(annotation.png_file, check_size=check_size)
    return segments.label_id_map(
        id_map,
        ids=[s.id for s in annotation.segments],
        categories=[contiguous_ids[s.category_id] for s in annotation.segments],
        is_crowd=[s.is_crowd for s in annotation.segments],
        source=source,
    )

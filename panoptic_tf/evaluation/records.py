"""Scores an exported model on records, the way it will be used: one image at a time through it."""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np
import tensorflow as tf

from panoptic_tf.datasets import dataset_info as dataset_info_lib
from panoptic_tf.datasets import segments
from panoptic_tf.datasets.size_limit import SizeLimit
from panoptic_tf.inputs import reading
from panoptic_tf.inputs.failures import explain_failure
from panoptic_tf.inputs.shards import find_shards
from panoptic_tf.metrics.evaluator import PanopticEvaluator
from panoptic_tf.serving import decoding
from panoptic_tf.serving.predictor import Predictor
from panoptic_tf.structures import GroundTruth

Arrays = Dict[str, np.ndarray]
OnExample = Callable[["EvaluatedImage"], None]


class EvaluatedImage(NamedTuple):
    """One image as it passes by; arrays without batch dimension, in the image's own size.

    Attributes:
      image_id: the data set's own id.
      file_name: name of the image in the data set.
      image: uint8 [H, W, 3].
      ground_truth: keys of `structures.GroundTruth`.
      prediction: keys of `structures.Prediction`.
      pq: panoptic quality of this image alone, percent, or None.
    """

    image_id: Any
    file_name: str
    image: np.ndarray
    ground_truth: Arrays
    prediction: Arrays
    pq: Optional[float] = None


def evaluate_records(
    predictor: Predictor,
    input_path: str,
    *,
    crowd_rule: str = "all",
    compute_ap: bool = True,
    boundary_ratio: float = 0.0,
    with_instances: bool = False,
    max_examples: int = 0,
    allow_partial: bool = False,
    on_example: Optional[OnExample] = None,
) -> Tuple[Dict[str, Any], Dict[str, float]]:
    """Predicts every image of the records and scores it.

    Args:
      predictor: the model.
      input_path: file pattern of the records.
      crowd_rule: see `metrics.panoptic_quality`.
      compute_ap: whether to compute AP.
      boundary_ratio: see `PanopticEvaluator`.
      with_instances: whether the ground truth of AP is the records' overlapping instances.
      max_examples: only the first so many; 0 is all.
      allow_partial: see `shards.find_shards`.
      on_example: called after each image, for progress, pictures or result files.

    Returns:
      The contents of metrics.json, in which `skipped_images` have more pixels than the predictor's
      `max_pixels`, and milliseconds per image: `median`, `p90`. The first image,
      which pays for initialisation, is not timed unless it is the only one.

    Raises:
      ValueError: the files are no whole data set, a record cannot be read, or they have other
        categories than the model.
    """
    info = predictor.dataset_info
    evaluator = PanopticEvaluator(
        num_categories=info.num_categories,
        thing_ids=info.thing_ids,
        category_names=info.names,
        crowd_rule=crowd_rule,
        compute_ap=compute_ap,
        boundary_ratio=boundary_ratio,
    )
    seconds: List[float] = []
    limit = SizeLimit(predictor.max_pixels)
    for example in _read(input_path, info, max_examples, with_instances, allow_partial, limit):
        prediction = predictor.predict_arrays(example.image)
        seconds.append(predictor.last_seconds)
        evaluator.update(example.ground_truth, prediction)
        if on_example is not None:
            pq = evaluator.image_scores()[-1][1]
            on_example(example._replace(prediction=prediction, pq=pq))
    num_skipped = limit.report(input_path)
    if not seconds:
        what = f"image of at most {predictor.max_pixels:,} pixels" if num_skipped else "record"
        raise ValueError(f"the files of {input_path!r} hold no {what}.")
    times = 1000.0 * np.asarray(seconds[1:] or seconds)
    latency = {"median": float(np.median(times)), "p90": float(np.percentile(times, 90))}
    return {**evaluator.result(), "skipped_images": num_skipped}, latency


def count_records(input_path: str, max_examples: int = 0) -> int:
    """Number of records, for a progress bar."""
    shards = find_shards(input_path, allow_partial=True)
    count = shards.num_records
    if count is None:
        count = sum(1 for _ in tf.data.TFRecordDataset(shards.paths))
    return min(count, max_examples) if max_examples else count


def _read(
    input_path: str,
    info: dataset_info_lib.DatasetInfo,
    max_examples: int,
    with_instances: bool,
    allow_partial: bool,
    limit: SizeLimit,
) -> Iterator[EvaluatedImage]:
    paths = find_shards(input_path, allow_partial=allow_partial).paths
    dataset_info_lib.check_beside(paths[0], info)
    examples = reading.read_examples(paths, max_examples=max_examples, size_limit=limit)
    try:
        for example in examples.as_numpy_iterator():
            name = example["file_name"].decode()
            source = f"{input_path}: {name}"
            ground_truth = _ground_truth(example, info, source)
            if with_instances and example["has_instances"]:
                ground_truth.update(_stored_instances(example))
            yield EvaluatedImage(
                image_id=json.loads(example["image_id"]),
                file_name=name,
                image=decoding.decode_image(
                    example["image_bytes"], name=source, max_pixels=limit.max_pixels
                ),
                ground_truth=ground_truth,
                prediction={},
            )
    except (tf.errors.OpError, ValueError) as error:
        reason = explain_failure(
            error,
            input_path=input_path,
            num_categories=info.num_categories,
            with_instances=with_instances,
            max_examples=max_examples,
            allow_partial=allow_partial,
        )
        if reason is None:
            raise
        raise ValueError(reason) from error


def _ground_truth(example: Arrays, info: dataset_info_lib.DatasetInfo, source: str) -> Arrays:
    categories = example["segment_categories"]
    if categories.size and not 1 <= categories.min() <= categories.max() <= info.num_categories:
        raise ValueError(
            f"{source} has category ids {categories.min()}..{categories.max()}, the model knows "
            f"1..{info.num_categories}."
        )
    masks = segments.rows_to_masks(
        example["id_map"],
        categories=categories.tolist(),
        is_crowd=example["segment_is_crowd"].tolist(),
        thing_ids=info.thing_ids,
    )
    keys = (GroundTruth.CATEGORY_MASK, GroundTruth.INSTANCE_MASK, GroundTruth.CROWD_MASK)
    return {
        **dict(zip(keys, masks)),
        GroundTruth.IMAGE_SIZE: np.asarray(masks[0].shape, np.int32),
        GroundTruth.IMAGE_ID: example["image_id"],
    }


def _stored_instances(example: Arrays) -> Arrays:
    return {
        GroundTruth.INSTANCE_RLES: example["instance_rles"],
        GroundTruth.INSTANCE_CATEGORIES: example["instance_categories"],
        GroundTruth.INSTANCE_IS_CROWD: example["instance_is_crowd"],
        GroundTruth.NUM_INSTANCES: np.asarray(len(example["instance_rles"]), np.int32),
    }

"""The records of a data config: what the input pipeline has to know, and their categories."""

from __future__ import annotations

from typing import Any, Dict, Optional

import numpy as np
import tensorflow as tf
from absl import logging

from panoptic_tf.datasets.dataset_info import DatasetInfo, check_beside
from panoptic_tf.inputs import reading, repeat_factors
from panoptic_tf.inputs.augmentation import Augmentation
from panoptic_tf.inputs.category_counts import CategoryCounts, count_categories
from panoptic_tf.inputs.data_service import DataService
from panoptic_tf.inputs.shards import find_shards
from panoptic_tf.metrics import coverage
from panoptic_tf.systems.class_weights import ClassWeights
from panoptic_tf.systems.config import DataConfig

_LOOKED_AT = 32  # records


def arguments(data: DataConfig, info: DatasetInfo) -> Dict[str, Any]:
    """Arguments that the datasets of `inputs.pipeline` and `inputs.failures` share."""
    return {
        "input_path": data.input_path,
        "num_categories": info.num_categories,
        "with_instances": data.with_instances,
        "max_examples": data.max_examples,
        "allow_partial": data.allow_partial,
        "max_bad_records": data.max_bad_records,
        "settings": _settings(data),
    }


def data_service(data: DataConfig) -> Optional[DataService]:
    """The tf.data service that makes the batches of training, or None.

    Raises:
      ValueError: it has no address, or what is asked for does not go with it.
    """
    if not data.enable_tf_data_service:
        return None
    enabled, address = f"{_settings(data)}enable_tf_data_service", data.tf_data_service_address
    if not data.is_training:
        raise ValueError(f"{enabled} must be false: an evaluation reads its records itself.")
    if not address or "://" not in address:
        raise ValueError(
            f"{enabled} needs {_settings(data)}tf_data_service_address (--tf_data_service), "
            f"grpc://host:port of a dispatcher, got {address!r}."
        )
    if data.seed is not None:
        raise ValueError(
            f"{enabled} does not go together with {_settings(data)}seed: the order in which "
            "workers return batches is not reproducible. Leave one of them out."
        )
    if data.max_bad_records:
        raise ValueError(
            f"{enabled} does not go together with {_settings(data)}max_bad_records, which counts "
            "in Python. Convert the bad records again, or leave one of them out."
        )
    return DataService(address, data.tf_data_service_job_name)


def check(data: DataConfig, info: DatasetInfo, source: str) -> None:
    """Looks at the files, and at the categories that lie beside them.

    Args:
      data: names the records.
      info: the categories of the model.
      source: what `task.dataset_info` says.

    Raises:
      ValueError: the files are no whole data set (see `shards.find_shards`), the categories differ,
        or a value of the augmentation or `repeat_factor_threshold` is out of its range, or things
        are to be pasted and no category is one.
      ImportError: `augmentation.policy` needs what is not installed.
    """
    try:
        augmentation = Augmentation(**data.augmentation.as_dict())
    except ValueError as error:
        raise ValueError(f"{_settings(data)}{error}") from error
    augmentation.check_things(info.thing_ids, _settings(data))
    if not 0.0 <= data.repeat_factor_threshold <= 1.0:
        raise ValueError(
            f"{_settings(data)}repeat_factor_threshold must be in 0..1, got "
            f"{data.repeat_factor_threshold}; 0 is off."
        )
    check_beside(
        data.input_path,
        info,
        advice=f"task.dataset_info is {source!r}: set it to {{path}}.",
    )
    find_shards(
        data.input_path, name=f"{_settings(data)}input_path", allow_partial=data.allow_partial
    )


def learn_counts(
    data: DataConfig, info: DatasetInfo, class_weights: ClassWeights
) -> Optional[np.ndarray]:
    """Counts the categories of the training records, if class weights or sampling ask for it.

    Args:
      data: names the records.
      info: the categories of the model.
      class_weights: takes the counts.

    Returns:
      Repeat factors by category id, float32 [N + 1], or None where images are not repeated.
    """
    threshold = data.repeat_factor_threshold
    counts = _count(data, info) if threshold or class_weights.wants_counts else None
    class_weights.learn(counts)
    return _repeat_factors(data, info, counts) if threshold and counts else None


def _count(data: DataConfig, info: DatasetInfo) -> CategoryCounts:
    paths = find_shards(
        data.input_path, name=f"{_settings(data)}input_path", allow_partial=data.allow_partial
    ).paths
    return count_categories(
        paths,
        num_categories=info.num_categories,
        max_examples=data.max_examples,
        skip_bad_records=data.max_bad_records > 0,
    )


def _repeat_factors(
    data: DataConfig, info: DatasetInfo, counts: CategoryCounts
) -> Optional[np.ndarray]:
    """The factors of `inputs.repeat_factors`, logged; None where all are 1."""
    found = repeat_factors.repeat_factors(counts, data.repeat_factor_threshold)
    if not (found > 1).any():
        logging.info(
            "no category is in fewer than %g of the training images "
            "(%srepeat_factor_threshold): none is repeated.",
            data.repeat_factor_threshold,
            _settings(data),
        )
        return None
    most = int(np.argmax(found))
    logging.info(
        "%d of %d categories are in fewer than %g of the training images, which come more often; "
        "the largest repeat factor is %.2f (%s).",
        int((found > 1).sum()),
        info.num_categories,
        data.repeat_factor_threshold,
        found[most],
        info.names[most],
    )
    return found


def log_void(data: DataConfig, info: DatasetInfo) -> None:
    """Warns where almost nothing but things is labelled in the first images, and much is void."""
    paths = sorted(tf.io.gfile.glob(data.input_path))
    covered = coverage.Coverage(num_categories=info.num_categories, thing_ids=info.thing_ids)
    try:
        for example in reading.read_examples(paths, max_examples=_LOOKED_AT):
            categories = tf.concat([[0], example["segment_categories"]], axis=0)
            mask = tf.gather(categories, example["id_map"]).numpy()
            covered.update_masks(mask, np.zeros_like(mask))
    except (tf.errors.OpError, IndexError):
        return  # Reading them says which record is bad.
    found = covered.result()
    shares = {name: found[name] for name in ("void_share", "true_thing_share")}
    for text in coverage.warnings_of(shares):
        logging.warning("%s: of the first images, %s", data.input_path, text)


def _settings(data: DataConfig) -> str:
    """What the names of its settings begin with."""
    return "task.train_data." if data.is_training else "task.validation_data."

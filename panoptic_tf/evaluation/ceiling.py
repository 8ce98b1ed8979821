"""The ceiling of a system: what the ground truth scores through its targets and post-processor.

It says what the output stride costs, so it belongs beside every PQ. A network can end a little
above it: its logits may place borders within a cell better than the share of the cell does.
"""

from __future__ import annotations

from typing import Any, Dict

import tensorflow as tf

from panoptic_tf.datasets.size_limit import SizeLimit
from panoptic_tf.inputs import geometry, reading, samples
from panoptic_tf.inputs.bad_records import BadRecords
from panoptic_tf.inputs.shards import find_shards
from panoptic_tf.ops import forms
from panoptic_tf.structures import GroundTruth, Tensors
from panoptic_tf.systems.task import PanopticTask


def evaluate_ceiling(
    task: PanopticTask,
    input_path: str,
    *,
    max_examples: int = 0,
    allow_partial: bool = False,
    max_bad_records: int = 0,
) -> Dict[str, Any]:
    """Scores the ground truth of every record through the system.

    Images over `task.evaluation.max_pixels` are left out, as in an evaluation.

    Args:
      task: the system.
      input_path: file pattern of the records.
      max_examples: only the first so many; 0 is all.
      allow_partial: see `shards.find_shards`.
      max_bad_records: how many records that cannot be decoded are skipped.

    Returns:
      Metrics, as `metrics.json` holds them.

    Raises:
      ValueError: the files are no whole data set.
      tf.errors.OpError: a record cannot be decoded, see `PanopticTask.explain_failure`.
    """
    network_size = tuple(task.task_config.model.input_size)
    things = task.dataset_info.thing_ids
    generate = task.build_target_generator()

    def prepare(example: Tensors):
        # Instances of the map, which do not overlap: the metrics of the ceiling are the map's.
        sample = samples.to_sample(example, things, with_instances=False)
        sample = sample._replace(image=tf.cast(sample.image, tf.float32))
        where = geometry.fitting_geometry(tf.shape(sample.image)[:2], network_size)
        moved = geometry.transform_sample(sample, where, network_size)
        truth = {
            GroundTruth.CATEGORY_MASK: sample.category_mask,
            GroundTruth.INSTANCE_MASK: sample.instance_mask,
            GroundTruth.CROWD_MASK: sample.crowd_mask,
            GroundTruth.IMAGE_ID: sample.image_id,
        }
        features, labels = generate(moved)
        targets = {**features, **labels}
        batch = tf.nest.map_structure(lambda x: x[tf.newaxis], (targets, moved.image_info))
        with forms.use(forms.Form.CPU):  # tf.data runs there.
            prediction = task.ideal_prediction(*batch)
        return truth, {key: value[0] for key, value in prediction.items()}

    evaluator = task.build_evaluator()
    shards = find_shards(input_path, allow_partial=allow_partial)
    records = reading.read_records(shards.paths, max_examples=max_examples)
    records = SizeLimit(task.task_config.evaluation.max_pixels).filter(records)
    bad = BadRecords(shards.paths, max_bad_records=max_bad_records, num_records=shards.num_records)
    decode = samples.build_decoder(num_categories=task.dataset_info.num_categories)
    for truth, prediction in bad.decode(records, decode).map(prepare).as_numpy_iterator():
        evaluator.update(truth, prediction)
    return evaluator.result()

"""The ceiling of a system: what the ground truth scores through its targets and post-processor.

It says what the output stride costs, so it belongs beside every PQ. A network can end a little
above it: its logits may place borders within a cell better than the share of the cell does.
"""

from __future__ import annotations

from typing import Any, Dict

import tensorflow as tf

from panoptic_tf.inputs import geometry, pipeline, reading
from panoptic_tf.ops import forms
from panoptic_tf.structures import GroundTruth, Tensors
from panoptic_tf.systems.task import PanopticTask


def evaluate_ceiling(
    task: PanopticTask, input_path: str, *, max_examples: int = 0
) -> Dict[str, Any]:
    """Scores the ground truth of every record through the system.

    Args:
      task: the system.
      input_path: file pattern of the records.
      max_examples: only the first so many; 0 is all.

    Returns:
      Metrics, as `metrics.json` holds them.
    """
    network_size = tuple(task.task_config.model.input_size)
    things = task.dataset_info.thing_ids
    generate = task.build_target_generator()

    def prepare(example: Tensors):
        # Instances of the map, which do not overlap: the metrics of the ceiling are the map's.
        sample = pipeline.sample_from_example(example, things)
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
    paths = sorted(tf.io.gfile.glob(input_path))
    examples = reading.read_examples(paths, max_examples=max_examples)
    for truth, prediction in examples.map(prepare).as_numpy_iterator():
        evaluator.update(truth, prediction)
    return evaluator.result()

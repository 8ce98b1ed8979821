"""Training steps and inference networks in the form for accelerators: traced, not computed."""

from __future__ import annotations

import contextlib
from typing import Any, Iterator, List, Tuple
from unittest import mock

import tensorflow as tf

from panoptic_tf.ops import forms
from panoptic_tf.structures import PanopticSample

FORM = forms.Form.ACCELERATOR

COCO_EXPERIMENTS = {
    "panoptic_deeplab": "panoptic_deeplab_resnet50_coco",
    "panoptic_fpn": "panoptic_fpn_resnet50_coco",
    "panoptic_fcn": "panoptic_fcn_resnet50_coco",
    "mask_transformer": "mask2former_resnet50_coco",
}
"""Of each system the one whose step is looked at, at its full size."""


def build(task: Any) -> Any:
    """The task's model, which the functions below take."""
    task.form = FORM
    with forms.use(FORM):
        return task.build_model()


def training_step(task: Any, model: Any, batch: int) -> Tuple[Any, int]:
    """Losses, gradients and an optimiser's step at the task's training size.

    Returns:
      The concrete function, and how many of its operators are the forward pass: they come first.
    """
    with forms.use(FORM), forward_lengths() as lengths:
        optimizer = tf.keras.optimizers.SGD(0.1, jit_compile=False)
        optimizer.build(model.trainable_variables)  # here, not inside the step: that traces twice
        step = tf.function(lambda *inputs: task.train_step(inputs, model, optimizer))
        function = step.get_concrete_function(*_training_specs(task, batch))
    (forward,) = lengths
    return function, forward


def inference(task: Any, model: Any, batch: int) -> Any:
    """The inference network as a concrete function."""
    height, width = task.task_config.model.input_size
    features = {
        "image": tf.TensorSpec([batch, height, width, 3]),
        "image_info": tf.TensorSpec([batch, 4, 2]),
    }
    with forms.use(FORM):
        network = tf.function(lambda inputs: model(inputs, training=False), autograph=False)
        return network.get_concrete_function(features)


def _training_specs(task: Any, batch: int) -> Tuple[Any, Any]:
    """What the pipeline would hand to a step: (features, labels)."""
    size = tuple(task.task_config.model.train_size)
    sample = PanopticSample(
        image=tf.TensorSpec([*size, 3]),
        image_info=tf.TensorSpec([4, 2]),
        category_mask=tf.TensorSpec(size, tf.int32),
        instance_mask=tf.TensorSpec(size, tf.int32),
        crowd_mask=tf.TensorSpec(size, tf.bool),
        image_id=tf.TensorSpec([], tf.string),
    )
    generate = tf.function(task.build_target_generator(), autograph=False)
    additional, labels = generate.get_concrete_function(sample).structured_outputs
    features = {"image": sample.image, "image_info": sample.image_info, **additional}
    return tf.nest.map_structure(
        lambda t: tf.TensorSpec([batch, *t.shape], t.dtype), (features, labels)
    )


@contextlib.contextmanager
def forward_lengths() -> Iterator[List[int]]:
    """Notes how many operators a graph has where a tape is asked for gradients, but in loops."""
    lengths = []
    gradient = tf.GradientTape.gradient

    def noting(tape: tf.GradientTape, *args: Any, **kwargs: Any) -> Any:
        graph = tf.compat.v1.get_default_graph()
        if type(graph).__name__ != "WhileBodyFuncGraph":
            lengths.append(len(graph.get_operations()))
        return gradient(tape, *args, **kwargs)

    with mock.patch.object(tf.GradientTape, "gradient", noting):
        yield lengths

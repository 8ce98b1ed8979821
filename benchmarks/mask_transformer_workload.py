"""What the speed of mask transformers is measured on: weights, images, ground truth, drawn logits.

`transformers` draws the same for itself (`references/transformers_mask_transformer.py --time`), and
with `--dump` writes its weights for `--weights`:

python benchmarks/network.py --system=mask_transformer --weights=<dump>/model.safetensors \\
    --reference_command="other/bin/python benchmarks/references/transformers_mask_transformer.py \\
    --model=mask2former_resnet50 --time --threads={threads} --repetitions={repetitions} \\
    --precision={precision}"

Random weights find no objects, so the post-processing gets drawn logits of 100 queries, a fifth of
which are kept.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Sequence, Tuple

import numpy as np
import speed
import tensorflow as tf
import workloads
from absl import flags
from official.core import exp_factory
from references import mask_transformer_cases as cases

from panoptic_tf import checkpoints, systems  # noqa: F401  (registers the experiments)
from panoptic_tf.structures import Prediction, Tensors
from panoptic_tf.systems.model import PanopticModel

EXPERIMENT = "mask2former_resnet50_coco"
REFERENCE = ""
SEGMENTS = 14
"""Of each training image."""

_WEIGHTS = flags.DEFINE_string(
    "weights", None, "File of published names; for mask_transformer, without it random weights."
)

count_network = workloads.count_nothing


def get_params(experiment: str, size: Sequence[int]) -> Any:
    """An experiment of COCO at one size; a step does all its work and leaves the weights alone."""
    if not experiment.endswith("_coco"):
        raise ValueError(f"--experiment must be one of COCO: {experiment}.")
    params = exp_factory.get_exp_config(experiment)
    workloads.set_size(params, size)
    # transformers has no encoder in its pixel decoder, and the reference no dropout.
    if experiment.startswith("maskformer"):
        params.task.model.pixel_decoder.num_layers = 0
        params.task.model.decoder.dropout = 0.0
    rates = params.trainer.optimizer_config.learning_rate.get()
    if experiment.startswith("eomt"):
        rates.initial_learning_rate = 1e-12
    else:
        rates.values = [1e-12] * len(rates.values)
    return params


def build_network(experiment: str, size: Sequence[int]) -> Dict[str, np.ndarray]:
    """The workload of the network and of the training step.

    Returns:
      `image` float32 [1, H, W, 3] for inference; what `workloads.draw_training` returns, of other
      images and labels; `weights/<name>` for each variable.
    """
    task, model = workloads.build_model(get_params(experiment, size))
    if _WEIGHTS.value:
        checkpoints.load_weights(_WEIGHTS.value, model.weights, modules="all", network=model)
    arrays = workloads.draw_training(task, size)
    truth = cases.draw_truth((SEGMENTS, SEGMENTS), tuple(size))
    arrays["labels/segment_map"] = truth.segment_map
    for name, drawn in (("classes", truth.classes), ("valid", 1.0)):
        labels = np.zeros_like(arrays[f"labels/segment_{name}"])
        labels[:, :SEGMENTS] = drawn
        arrays[f"labels/segment_{name}"] = labels
    return {
        **arrays,
        "image": cases.draw_images(1, tuple(size)),
        "train_image": cases.draw_images(2, tuple(size)),
        **workloads.keep_weights(model),
    }


def build_postprocess(experiment: str, size: Sequence[int], centers: int) -> Dict[str, np.ndarray]:
    """The workload of the post-processing: `raw/class_logits` and `raw/mask_logits`."""
    del experiment, centers
    return {f"raw/{key}": value for key, value in cases.draw_contest(tuple(size)).items()}


def build_raw_network(model: PanopticModel) -> tf.keras.Model:
    """The network up to class and mask logits."""
    network = model.inference_network
    return tf.keras.Model(network.input, network.get_layer("postprocessor").input)


def network_parts(model: PanopticModel, inputs: Tensors) -> Dict[str, Callable[[], Any]]:
    """The pixel decoder, and the transformer decoder; none of EoMT, which has neither."""
    if "pixel_decoder" not in model.parts:
        return {}
    features = model.parts["backbone"](inputs["image"])
    pixel_decoder, decoder = model.parts["pixel_decoder"], model.parts["transformer_decoder"]
    decoded = pixel_decoder(features)
    return {
        "pixel_decoder": lambda: pixel_decoder(features, training=False),
        "transformer_decoder": lambda: decoder(decoded, training=False),
    }


def count_training(find_outputs: Callable[[], Tensors]) -> Dict[str, Any]:
    """What a training step has of one kind, as marks."""
    return {"predictions": np.ones(find_outputs()["class_logits"].shape[1])}


def prepare_postprocess(
    params: Any, workload: Dict[str, np.ndarray]
) -> Tuple[Callable[[], Tensors], Callable[[Tensors], Dict[str, Any]]]:
    """From drawn logits to panoptic segments, as the reference; and what there is, as marks."""
    panoptic_only = {"output_detections": False, "output_semantic": False}
    params.override({"task": {"model": {"postprocessor": panoptic_only}}})
    _, model = workloads.build_model(params)
    postprocessor = model.inference_network.get_layer("postprocessor")
    raw = speed.select_tensors(workload, "raw/")
    info = tf.constant(workloads.image_info(params.task.model.input_size)[np.newaxis])

    def count(prediction: Tensors) -> Dict[str, Any]:
        return {"segments": prediction[Prediction.SEGMENT_CATEGORY] > 0}

    return tf.function(lambda: postprocessor(raw, info), autograph=False), count

"""Small forms of the systems, and batches for them without a file.

A new system is one more row of `ROWS`: every test of `test_contract.py` runs on it.
"""

import collections
import dataclasses
import json
import math
import pathlib
import re
from typing import Any, Dict, List, Tuple

import numpy as np
import tensorflow as tf
from official.core import exp_factory, task_factory

from panoptic_tf import systems  # noqa: F401  (registers tasks and experiments)
from panoptic_tf.datasets import converter, shapes, shapes_writer
from panoptic_tf.inputs import geometry, normalize
from panoptic_tf.ops import forms
from panoptic_tf.structures import PanopticSample
from panoptic_tf.systems import optimization


@dataclasses.dataclass(frozen=True)
class Row:
    """One system in a form that runs in a moment, at 64x64, on the categories of shapes.

    Attributes:
      system: name of the folder below `panoptic_tf.systems`.
      experiment: what the overrides are applied to.
      overrides: of `task`; they make the network tiny. Residual stages have at least 16 channels:
        on CPUs with AVX512, oneDNN of TensorFlow 2.15 corrupts memory in the gradient of a 1x1
        convolution with stride 2 on 8 channels and an odd batch.
      without_norm: of `task`; without statistics over the batch, dropout and draws.
      without_gradient: variables that have none at first, since all they go to starts at zero.
    """

    system: str
    experiment: str
    overrides: Dict[str, Any]
    without_norm: Dict[str, Any]
    without_gradient: Tuple[str, ...] = ()


_TINY_BRANCH = {
    "aspp_channels": 8,
    "decoder_channels": 8,
    "low_level_channels": [8, 8],
    "head_channels": 8,
}

ROWS = (
    Row(
        system="panoptic_deeplab",
        experiment="panoptic_deeplab_shapes",
        overrides={
            "model": {
                "train_size": [64, 64],
                "input_size": [64, 64],
                "backbone": {
                    "options": {
                        "block": "basic",
                        "num_blocks": [1, 1, 1, 1],
                        "widths": [16, 16, 16, 16],
                        "stem": "deep",
                        "stem_width": 8,
                    }
                },
                "semantic": _TINY_BRANCH,
                "instance": _TINY_BRANCH,
                "postprocessor": {"top_k": 8, "stuff_area": 16},
            },
        },
        without_norm={"model": {"norm": "none", "backbone": {"norm": "none"}, "aspp_dropout": 0.0}},
    ),
    Row(
        system="panoptic_fpn",
        experiment="panoptic_fpn_shapes",
        overrides={
            "model": {
                "train_size": [64, 64],
                "input_size": [64, 64],
                "backbone": {
                    "options": {
                        "block": "basic",
                        "num_blocks": [1, 1, 1, 1],
                        "widths": [16, 16, 16, 16],
                        "stem": "deep",
                        "stem_width": 8,
                    }
                },
                "fpn": {"filters": 32},
                "rpn": {"post_nms_top_k_train": 32, "post_nms_top_k": 16},
                "roi": {
                    "box_fc_dims": [32],
                    "mask_pool_size": 7,
                    "mask_filters": [16],
                    "sampler": {"count": 16},
                },
                "semantic": {"filters": 32, "thing_classes": "other"},
                "postprocessor": {
                    "max_detections": 8,
                    "stuff_area": 16,
                    "output_detections": False,
                },
            },
            "targets": {"max_instances": 8},
        },
        without_norm={
            "model": {
                "backbone": {"norm": "none"},
                "fpn": {"norm": "none"},
                "semantic": {"norm": "none"},
                "roi": {"sampler": {"count": 80, "positive_fraction": 0.5}},  # 40 there are.
            },
            "weight_decay": 0.1,
        },
    ),
    Row(
        system="panoptic_fcn",
        experiment="panoptic_fcn_shapes",
        overrides={
            "model": {
                "train_size": [64, 64],
                "input_size": [64, 64],
                "backbone": {
                    "options": {
                        "block": "basic",
                        "num_blocks": [1, 1, 1, 1],
                        "widths": [16, 16, 16, 16],
                        "stem": "deep",
                        "stem_width": 8,
                    }
                },
                "fpn": {"filters": 32},
                # Two channels in each group of the norm: levels 6 and 7 have one cell.
                "position_head": {"num_convs": 1, "filters": 64},
                "kernel_head": {"num_convs": 1, "filters": 64},
                "encoder": {"num_convs": 1, "filters": 16, "semantic_filters": 32},
                "selector": {"top_k": 8},
                "postprocessor": {
                    "max_instances": 8,
                    "stuff_area": 16,
                    "output_detections": False,
                },
            },
            "targets": {"max_instances": 8},
        },
        without_norm={
            "model": {
                "backbone": {"norm": "none"},
                "fpn": {"norm": "none"},
                "position_head": {"norm": "none"},
                "kernel_head": {"norm": "none"},
                "encoder": {"norm": "none", "semantic_norm": "none"},
            },
            "weight_decay": 0.1,
        },
    ),
    Row(
        system="mask_transformer",
        experiment="mask2former_shapes",
        overrides={
            "model": {
                "train_size": [64, 64],
                "input_size": [64, 64],
                "channels": 32,
                "mask_stride": 4,  # As published; test_mask_transformer.py has the finer ones.
                "backbone": {
                    "options": {
                        "block": "basic",
                        "num_blocks": [1, 1, 1, 1],
                        "widths": [16, 16, 16, 16],
                        "stem": "deep",
                        "stem_width": 8,
                    }
                },
                "pixel_decoder": {"num_layers": 1, "hidden_channels": 32},
                "decoder": {"num_queries": 16, "num_layers": 3, "hidden_channels": 32},
                "postprocessor": {
                    "score_threshold": 0.5,
                    "max_instances": 8,
                    "output_detections": False,
                },
            },
            "targets": {"max_segments": 16},
            "losses": {"num_points": 128},
        },
        without_norm={
            "model": {"backbone": {"norm": "none"}},
            "losses": {"mask_loss": "whole"},  # Points are drawn, under XLA others.
            "weight_decay": 0.1,
        },
        without_gradient=("pixel_decoder/level_embedding:0",),
    ),
)

SNAPSHOT_DIR = pathlib.Path(__file__).parent / "systems" / "snapshots"

# Shrunk to where only the shapes of activations differ, not those of variables.
SNAPSHOTS: Dict[str, Dict[str, Any]] = {
    "panoptic_deeplab_shapes": {"model": {"train_size": [64, 64], "input_size": [64, 64]}},
    "panoptic_deeplab_small": {"model": {"train_size": [64, 64], "input_size": [64, 64]}},
    "panoptic_deeplab_resnet52_coco": {
        "model": {"train_size": [64, 64], "input_size": [64, 64], "aspp_pool_size": [4, 4]}
    },
    "panoptic_fpn_shapes": {"model": {"train_size": [64, 64], "input_size": [64, 64]}},
    "panoptic_fpn_small": {"model": {"train_size": [64, 64], "input_size": [64, 64]}},
    "panoptic_fpn_resnet50_coco": {"model": {"train_size": [64, 64], "input_size": [64, 64]}},
    "panoptic_fcn_shapes": {"model": {"train_size": [64, 64], "input_size": [64, 64]}},
    "panoptic_fcn_small": {"model": {"train_size": [64, 64], "input_size": [64, 64]}},
    "panoptic_fcn_resnet50_coco": {"model": {"train_size": [64, 64], "input_size": [64, 64]}},
    "mask2former_shapes": {"model": {"train_size": [64, 64], "input_size": [64, 64]}},
    "mask2former_small": {"model": {"train_size": [64, 64], "input_size": [64, 64]}},
    # Of another size in inference.
    "mask2former_resnet50_coco": {"model": {"train_size": [64, 64], "input_size": [64, 96]}},
    "mask2former_swin_tiny_coco": {"model": {"train_size": [64, 64], "input_size": [64, 64]}},
    "maskformer_resnet50_coco": {"model": {"train_size": [64, 64], "input_size": [64, 64]}},
    "eomt_small_coco": {},  # It has a position for each patch.
}


def get_params(experiment: str, *overrides: Dict[str, Any]):
    """The config of an experiment with overrides of its task, one after another."""
    params = exp_factory.get_exp_config(experiment)
    for override in overrides:
        params.override({"task": override})
    return params


def get_task(params):
    """A task whose steps have the form that the trainer gives them here."""
    task = task_factory.get_task(params.task)
    task.form = forms.Form.CPU
    return task


def row_task(row: Row, *overrides: Dict[str, Any]):
    """The tiny task of a row."""
    return get_task(get_params(row.experiment, row.overrides, *overrides))


def describe_variables(model: tf.keras.Model) -> Dict[str, List[int]]:
    """{name: shape} of the training network's variables."""
    weights = model.training_network.weights
    described = {w.name: w.shape.as_list() for w in weights}
    assert len(described) == len(weights), "two variables have one name"
    return described


# What a frozen batch norm of the backbone holds is no parameter in the references.
FROZEN_NORM = "^backbone/.*/(moving_mean|moving_variance|gamma|beta)"


def count_parameters(experiment: str, *, but: str) -> Dict[str, int]:
    """{part: number} of the variables in a snapshot, but for the names that a pattern is found in.

    `test_contract.py` compares the snapshots with the networks.
    """
    variables = json.loads((SNAPSHOT_DIR / f"{experiment}.json").read_text())
    counts = collections.Counter()
    for name, shape in variables.items():
        if not re.search(but, name):
            counts[name.split("/")[0]] += math.prod(shape)
    return dict(counts)


def write_records(folder, *, num_shards: int = 1) -> str:
    """Writes records of four images of shapes, and returns the pattern of their files."""
    split = str(folder / "train")
    json_path = shapes_writer.write_split(split, seed=0, num_images=4, size=64, show_progress=False)
    converter.convert_dataset(
        "coco_panoptic",
        panoptic_json=json_path,
        panoptic_dir=f"{split}/panoptic",
        image_dir=f"{split}/images",
        output_dir=str(folder / "records"),
        num_shards=num_shards,
        num_processes=1,
    )
    return str(folder / "records" / "train-*")


def draw_sample(seed: int, size: int = 64) -> PanopticSample:
    """An image of shapes as the input pipeline would hand it to the target generator."""
    drawn = shapes.generate_image(5, seed, size)
    categories, crowds = np.zeros([2, 1 + drawn.id_map.max()], np.int32)
    for segment in drawn.segments:
        categories[segment["id"]] = segment["category_id"]
        crowds[segment["id"]] = segment["iscrowd"]
    image, image_info = geometry.fit_and_pad(tf.constant(drawn.image), (size, size))
    category_mask = categories[drawn.id_map]
    is_thing = (category_mask >= 1) & (category_mask <= len(shapes.THING_NAMES))
    return PanopticSample(
        image=image,
        image_info=image_info,
        category_mask=tf.constant(category_mask),
        instance_mask=tf.constant(np.where(is_thing, drawn.id_map, 0).astype(np.int32)),
        crowd_mask=tf.constant(crowds[drawn.id_map] > 0),
        image_id=tf.constant(json.dumps(seed)),
    )


def without_instances(sample: PanopticSample) -> PanopticSample:
    """The same picture, its things void."""
    return sample._replace(
        category_mask=tf.where(sample.instance_mask > 0, 0, sample.category_mask),
        instance_mask=tf.zeros_like(sample.instance_mask),
        crowd_mask=tf.zeros_like(sample.crowd_mask),
    )


def all_void(sample: PanopticSample) -> PanopticSample:
    """The same picture without annotation."""
    nothing = without_instances(sample)
    return nothing._replace(category_mask=tf.zeros_like(sample.category_mask))


def make_batch(task, samples):
    """(features, labels) as the training pipeline makes them of these samples."""
    generator = task.build_target_generator()
    elements = []
    for sample in samples:
        additional, labels = generator(sample)
        features = normalized(task, sample.image, sample.image_info)
        elements.append(({**features, **additional}, labels))
    return tf.nest.map_structure(lambda *values: tf.stack(values), *elements)


def step_in_graph(task, model, optimizer, metrics=None):
    """A training step of a batch, in a graph."""
    optimization.create_variables(optimizer, model.trainable_variables)
    return tf.function(
        lambda *batch: task.train_step(batch, model, optimizer, metrics), autograph=False
    )


def fit_images(task, images):
    """Images of any size in frames of the network's: uint8 [B, H, W, 3] and info [B, 4, 2]."""
    size = tuple(task.task_config.model.input_size)
    fitted = [geometry.fit_and_pad(tf.constant(image), size) for image in images]
    return tuple(tf.stack(values) for values in zip(*fitted))


def normalized(task, images, image_info):
    """What the network takes of images in frames, of a batch or of one."""
    settings = task.task_config.normalization.as_dict()
    pixels = normalize.normalize_image(images, image_info, **settings)
    return {"image": pixels, "image_info": image_info}


def export_arguments(task) -> Dict[str, Any]:
    """What every export needs to know of a task beside its network."""
    normalization = task.task_config.normalization
    return dict(
        dataset_info=task.dataset_info,
        mean=list(normalization.mean),
        std=list(normalization.std),
        channel_order=normalization.channel_order,
        input_size=tuple(task.task_config.model.input_size),
    )

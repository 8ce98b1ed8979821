"""Config that every system shares: backbone, data, normalisation, augmentation, evaluation.

No postponed annotations here: the config base class reads them.
"""

import dataclasses
from typing import Any, Dict, List, Optional

from official.core import config_definitions as cfg
from official.modeling import hyperparams

from panoptic_tf.backbones import factory as backbone_factory
from panoptic_tf.datasets import images


@dataclasses.dataclass
class Options(hyperparams.Config):
    """Any keys: the backbone that receives them checks them."""

    def _override(self, override_dict: Dict[str, Any], is_strict: bool = True) -> None:
        super()._override(override_dict, is_strict=False)


@dataclasses.dataclass
class Backbone(hyperparams.Config):
    """Arguments of `backbones.factory.build_backbone`, which documents them.

    Attributes:
      deformable_stages: stages of a ResNet, of 2 to 5, with deformable 3x3 convolutions.
      deformable_version: of these, 1 or 2.
      options: further arguments of the backbone itself, such as `widths` of a ResNet or `padding`
        of a MobileNet.
    """

    name: str = "resnet50"
    norm: str = "batch"
    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-5
    output_stride: int = 32
    multi_grid: Optional[List[int]] = None
    stride_in_1x1: bool = False
    frozen_stages: int = 0
    deformable_stages: List[int] = dataclasses.field(default_factory=list)
    deformable_version: int = 2
    options: Options = dataclasses.field(default_factory=Options)

    @property
    def is_frozen(self) -> bool:
        """Whether some of it keeps the values it starts with, and so needs trained ones."""
        return self.norm == "frozen_batch" or self.frozen_stages > 0


@dataclasses.dataclass
class Normalization(hyperparams.Config):
    """(image - mean) / std on 0..255 after reordering the channels; defaults: ImageNet, RGB."""

    mean: List[float] = dataclasses.field(default_factory=lambda: [123.675, 116.28, 103.53])
    std: List[float] = dataclasses.field(default_factory=lambda: [58.395, 57.12, 57.375])
    channel_order: str = "RGB"


@dataclasses.dataclass
class AddonsAugmentation(hyperparams.Config):
    """Keyword arguments of `addons.augment_sample`, which documents them."""

    rotation: float = 10.0
    rotation_probability: float = 0.5
    shear: float = 0.1
    shear_probability: float = 0.5
    cutout: float = 0.25
    cutout_probability: float = 0.5
    sharpness: float = 0.5
    sharpness_probability: float = 0.5
    equalize_probability: float = 0.1


@dataclasses.dataclass
class CopyPaste(hyperparams.Config):
    """Arguments of `inputs.copy_paste.CopyPaste`, which documents them."""

    probability: float = 0.0
    max_instances: int = 20


@dataclasses.dataclass
class Augmentation(hyperparams.Config):
    """Fields of `inputs.augmentation.Augmentation`, which documents them."""

    scale_min: float = 0.5
    scale_max: float = 2.0
    flip_horizontally: bool = True
    flip_vertically: bool = False
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    policy: str = "core"
    addons: AddonsAugmentation = dataclasses.field(default_factory=AddonsAugmentation)
    copy_paste: CopyPaste = dataclasses.field(default_factory=CopyPaste)


@dataclasses.dataclass
class DataConfig(cfg.DataConfig):
    """Where records come from and how training changes them.

    Of the inherited fields `run_checks` refuses those that nothing reads.

    Attributes:
      max_examples: use only the first so many records; 0 uses all.
      allow_partial: take what `input_path` matches, though shards or records of it are missing.
      max_bad_records: skip up to so many records that cannot be decoded, each with a warning.
      with_instances: use the records' overlapping instances, as the published numbers do: in
        training for what a system learns of instances, in evaluation as the ground truth of AP.
      repeat_factor_threshold: in training, images with a category that a smaller share of the
        images has come more often; 0 is off. See `inputs.repeat_factors`.
      augmentation: of training; evaluation fits the whole image in.
    """

    input_path: str = ""
    global_batch_size: int = 1
    is_training: bool = False
    shuffle_buffer_size: int = 1000
    max_examples: int = 0
    allow_partial: bool = False
    max_bad_records: int = 0
    with_instances: bool = False
    repeat_factor_threshold: float = 0.0
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)


@dataclasses.dataclass
class Evaluation(hyperparams.Config):
    """What is measured.

    Attributes:
      crowd_rule: `all` crowds of a category forgive a prediction, or only the `last` (panopticapi).
      report_mask_ap: measure mask AP, which takes longer than the rest together, and box AP where
        boxes are detected.
      boundary_ratio: measure Boundary PQ at boundaries this wide, as a share of the image's
        diagonal: 0.02 is the paper's, 0 leaves it out.
      max_pixels: limit of height times width of an image; larger ones are left out and counted.
    """

    crowd_rule: str = "all"
    report_mask_ap: bool = True
    boundary_ratio: float = 0.0
    max_pixels: int = images.MAX_PIXELS


@dataclasses.dataclass
class Model(hyperparams.Config):
    """What the network of every system has.

    Attributes:
      train_size: (height, width) of a training crop.
      input_size: (height, width) that images are fitted into for inference.
      output_size: (height, width) of the predicted masks; empty is `input_size`.
      backbone: see `Backbone`.
    """

    train_size: List[int] = dataclasses.field(default_factory=lambda: [1024, 1024])
    input_size: List[int] = dataclasses.field(default_factory=lambda: [1344, 1344])
    output_size: List[int] = dataclasses.field(default_factory=list)
    backbone: Backbone = dataclasses.field(default_factory=Backbone)


@dataclasses.dataclass
class ClassWeights(hyperparams.Config):
    """How much the pixels of each category count in the semantic loss; see `class_weights`.

    Attributes:
      rule: `none`, as published; `list`, what `values` says; or `frequency`: by the number of
        pixels that each category has in the training records.
      values: of the rule `list`, one for each category in the order of `dataset_info`.
      statistics: of the rule `frequency`, a file that `doctor --output_json` wrote about the
        training records; empty: the records are read when a training starts.
      power: of the rule `frequency`: 1 is median frequency balancing, 0.5 its square root.
      smallest, largest: range that the weights of the rule `frequency` are clipped to.
    """

    rule: str = "none"
    values: List[float] = dataclasses.field(default_factory=list)
    statistics: str = ""
    power: float = 1.0
    smallest: float = 0.1
    largest: float = 10.0


@dataclasses.dataclass
class Task(cfg.TaskConfig):
    """What the task of every system has.

    Attributes:
      dataset_info: a built-in data set or the path of a `dataset_info.json`.
      init_checkpoint_modules: `all`, `backbone` or `matching`; see `checkpoints.load_weights`.
      weight_decay: L2 regularisation of all but normalisation, added to the gradients; 0 leaves
        decay to the optimiser.
    """

    model: Model = dataclasses.field(default_factory=Model)
    train_data: DataConfig = dataclasses.field(default_factory=lambda: DataConfig(is_training=True))
    validation_data: DataConfig = dataclasses.field(default_factory=DataConfig)
    dataset_info: str = "coco_panoptic"
    init_checkpoint_modules: str = "all"
    weight_decay: float = 0.0
    normalization: Normalization = dataclasses.field(default_factory=Normalization)
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)


@dataclasses.dataclass
class EarlyStopping(hyperparams.Config):
    """When a training ends before its last step, since its evaluations get no better.

    Attributes:
      patience: how many evaluations in a row may be no better than the best one before; 0: never
        stop early.
      min_delta: by how much a better one has to be better, in the unit of the metric.
      metric: a key of `metrics.json` that holds a number.
      metric_comp: `higher` or `lower`: what is better.
    """

    patience: int = 0
    min_delta: float = 0.0
    metric: str = "PQ"
    metric_comp: str = "higher"


@dataclasses.dataclass
class TrainerConfig(cfg.TrainerConfig):
    """The Model Garden's trainer, and when it stops.

    Attributes:
      best_checkpoint_export_subdir: folder in the run's that keeps the checkpoint of the best
        evaluation; empty: none.
      best_checkpoint_eval_metric: by which key of `metrics.json`.
      early_stopping: see `EarlyStopping`.
    """

    best_checkpoint_eval_metric: str = "PQ"
    early_stopping: EarlyStopping = dataclasses.field(default_factory=EarlyStopping)


def build_backbone(config: Backbone, input_size: List[int]):
    """The backbone of a config; its variables are named `backbone/...`."""
    arguments = config.as_dict()
    options = arguments.pop("options") or {}
    deformable = {key: arguments.pop(key) for key in ("deformable_stages", "deformable_version")}
    if config.deformable_stages:  # Only ResNets know of them.
        arguments.update(deformable)
    return backbone_factory.build_backbone(**arguments, **options, input_size=tuple(input_size))

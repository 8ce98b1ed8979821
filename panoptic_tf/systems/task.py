"""The task of every system: one train step, one validation step, metrics streamed on the host."""

from __future__ import annotations

import abc
import types
from typing import Any, Callable, Dict, List, Optional, Tuple

import tensorflow as tf
from absl import logging
from official.core import base_task

from panoptic_tf import checkpoints
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.datasets.size_limit import SizeLimit
from panoptic_tf.inputs import pipeline
from panoptic_tf.inputs.augmentation import Augmentation
from panoptic_tf.inputs.failures import explain_failure
from panoptic_tf.metrics import coverage
from panoptic_tf.metrics.evaluator import PanopticEvaluator
from panoptic_tf.ops import forms
from panoptic_tf.structures import Tensors
from panoptic_tf.systems import config as base_config
from panoptic_tf.systems import optimization, scoring, task_records, weight_settings
from panoptic_tf.systems.class_weights import ClassWeights
from panoptic_tf.systems.model import PanopticModel
from panoptic_tf.systems.variable_factors import name_of

Loss = Callable[[Tensors, Tensors], Tensors]

# Settings of weights that a backbone alone has.
_OF_BACKBONES = ("normalization.", "model.backbone.")


class PanopticTask(base_task.Task):
    """What the trainer needs of a system; a system fills in five small methods.

    Attributes:
      image_listeners: called with (ground truth, prediction, PQ) of every evaluated image, from a
        thread.
      form: of the operations of its steps; the trainer sets what its devices want.
      class_weights: of the semantic loss.
      xla: whether XLA compiles the network, the losses and the gradients of a training step.
      gather: an object of every process that evaluates, in their order; the trainer sets it where
        there are several.
    """

    def __init__(self, params, logging_dir: Optional[str] = None, name: Optional[str] = None):
        super().__init__(params, logging_dir=logging_dir, name=name)
        self._dataset_info = DatasetInfo.load(params.dataset_info)
        self.class_weights = ClassWeights(params.losses.class_weights, self._dataset_info)
        self._loss = self.build_loss()
        self._size_limit = SizeLimit(params.evaluation.max_pixels)
        self.form = forms.Form.ACCELERATOR
        self.xla = False
        self.gather: Callable[[Any], List[Any]] = lambda content: [content]
        # Inside an object: of a dictionary tf.Module makes something that json does not take.
        self._evaluation = types.SimpleNamespace(result={})
        self.image_listeners: List[scoring.ImageListener] = []
        self._trained_names: Tuple[str, ...] = ()

    @property
    def last_result(self) -> Dict[str, Any]:
        """The metrics of the last evaluation, as `metrics.json` holds them."""
        return self._evaluation.result

    # What a system fills in.

    @abc.abstractmethod
    def build_networks(self) -> Tuple[tf.keras.Model, tf.keras.Model]:
        """The training and the inference network over shared layers."""

    @abc.abstractmethod
    def build_loss(self) -> Loss:
        """Maps (labels, outputs) to `{'loss': total, 'loss/<part>': ...}`."""

    @abc.abstractmethod
    def build_target_generator(self) -> pipeline.TargetGenerator:
        """The targets of training."""

    @abc.abstractmethod
    def loss_names(self) -> Tuple[str, ...]:
        """Names of the parts of the loss."""

    @abc.abstractmethod
    def ideal_prediction(self, targets: Tensors, image_info: tf.Tensor) -> Tensors:
        """What the post-processor makes of the best outputs there are at the heads' stride.

        Args:
          targets: features and labels of the target generator, batched.
          image_info: float32 [B, 4, 2].

        Returns:
          Keys of `structures.Prediction`.
        """

    def loss_factors(self, step: tf.Tensor) -> Tensors:
        """Factors of the loss parts at a step; a part without one counts fully.

        Args:
          step: int64 [], steps done.
        """
        del step
        return {}

    def float_layers(self) -> Tuple[str, ...]:
        """Layers that stay float32 in an int8 network: the last of each head, and positions.

        Returns:
          Ends of their names, as regular expressions.
        """
        return ("predictor", "offset")

    # What the trainer calls.

    @property
    def dataset_info(self) -> DatasetInfo:
        """The categories the model predicts."""
        return self._dataset_info

    def create_optimizer(self, optimizer_config, runtime_config=None, dp_config=None):
        """See base class, whose averages do not go together with the loss scaling of float16.

        It is for the model that was built last, which its factors `by_variable` must fit.
        """
        is_scaled = runtime_config and runtime_config.mixed_precision_dtype == "float16"
        ema = optimizer_config.ema if is_scaled else None
        config = optimizer_config if ema is None else optimizer_config.replace(ema=None)
        optimizer = super().create_optimizer(config, runtime_config, dp_config)
        optimization.set_factors(optimizer, config, self._trained_names)
        if ema is None:
            return optimizer
        return optimization.LossScaledMovingAverage(optimizer, **ema.as_dict())

    def build_model(self) -> PanopticModel:
        """Both networks in one model."""
        # No AutoGraph here and in the steps: it would walk through all of Keras, which takes longer
        # than building and tracing themselves. The Keras of TensorFlow 2.15, which stays `tf.keras`
        # where it was used before this package was imported, loses arguments without it.
        build_networks = self.build_networks
        if tf.keras.layers.Layer.__module__.startswith("tf_keras."):
            build_networks = tf.autograph.experimental.do_not_convert(build_networks)
        with forms.use(self.form):
            model = PanopticModel(*build_networks())
        self._trained_names = tuple(map(name_of, model.trainable_variables))
        return model

    def initialize(self, model: tf.keras.Model) -> None:
        """Loads `init_checkpoint` where a run starts: see `checkpoints.load_weights`.

        Raises:
          ValueError: something is frozen without a checkpoint to start from, the checkpoint cannot
            be read or does not fit, or the modules are not known.
        """
        config = self.task_config
        self.check_start()
        if not config.init_checkpoint:
            return
        loaded = checkpoints.load_weights(
            config.init_checkpoint,
            model.weights,
            modules=config.init_checkpoint_modules,
            network=model,
        )
        self._check_frozen(model, loaded)
        settings = dict(loaded.description.settings)
        if config.init_checkpoint_modules == "backbone":
            settings = {k: v for k, v in settings.items() if k.startswith(_OF_BACKBONES)}
        others = weight_settings.differing(config, settings)
        if others:
            logging.warning(
                "%s was trained with another configuration than this experiment has. To train on "
                "as it was: --params_override='%s'",
                config.init_checkpoint,
                checkpoints.as_overrides(others),
            )

    def check_start(self) -> None:
        """Makes sure that a run has weights to start from, before anything slow is built.

        Raises:
          ValueError: something is frozen without a checkpoint to start from.
        """
        backbone = self.task_config.model.backbone
        if backbone.is_frozen and not self.task_config.init_checkpoint:
            raise ValueError(
                "task.init_checkpoint is empty, but this experiment freezes parts of the backbone "
                f"(norm {backbone.norm!r}, frozen_stages {backbone.frozen_stages}). Give trained "
                "weights, or set task.model.backbone.norm=batch and frozen_stages=0."
            )

    def _check_frozen(self, model: tf.keras.Model, loaded: checkpoints.Loaded) -> None:
        """Refuses what would stay random for good.

        Raises:
          ValueError: the checkpoint has nothing for what this experiment freezes.
        """
        absent = {*loaded.match.missing, *loaded.match.unequal}
        if not self.task_config.model.backbone.is_frozen or not absent:
            return
        names = (v.name.partition(":")[0] for v in model.parts["backbone"].non_trainable_variables)
        frozen = sorted(absent.intersection(names))
        if frozen:
            raise ValueError(
                f"{self.task_config.init_checkpoint} has nothing that fits {frozen[0]} and "
                f"{len(frozen) - 1} more, which this experiment freezes. Set "
                "task.model.backbone.norm=batch and frozen_stages=0, or give other weights."
            )

    def build_inputs(
        self, params: base_config.DataConfig, input_context: Optional[Any] = None
    ) -> tf.data.Dataset:
        """The training or the evaluation dataset of a data config."""
        task_records.check(params, self.dataset_info, self.task_config.dataset_info)
        batch_size = params.global_batch_size
        if input_context is not None:
            batch_size = input_context.get_per_replica_batch_size(batch_size)
        shared = {
            **task_records.arguments(params, self.dataset_info),
            "thing_ids": self.dataset_info.thing_ids,
            "normalization": pipeline.Normalization(**self.task_config.normalization.as_dict()),
            "batch_size": batch_size,
            "input_context": input_context,
        }
        model = self.task_config.model
        if not params.is_training:
            return pipeline.build_evaluation_dataset(
                network_size=tuple(model.input_size), size_limit=self._size_limit, **shared
            )
        factors = task_records.learn_counts(params, self.dataset_info, self.class_weights)
        self._loss = self.build_loss()  # Class weights may come from the records.
        return pipeline.build_training_dataset(
            network_size=tuple(model.train_size),
            factors=factors,
            augmentation=Augmentation(**params.augmentation.as_dict()),
            target_generator=self.build_target_generator(),
            shuffle_buffer_size=params.shuffle_buffer_size,
            cache=params.cache,
            seed=params.seed,
            service=task_records.data_service(params),
            **shared,
        )

    def check_inputs(self, params: base_config.DataConfig) -> None:
        """Looks at the files of a data config, before anything slow is built.

        Raises:
          ValueError, ImportError: see `task_records.check` and `ClassWeights.check_statistics`.
        """
        task_records.check(params, self.dataset_info, self.task_config.dataset_info)
        if params.is_training:
            self.class_weights.check_statistics()
            task_records.log_void(params, self.dataset_info)

    def explain_failure(self, error: Exception, params: base_config.DataConfig) -> Optional[str]:
        """Which record or file of a data config an error comes from, or None."""
        return explain_failure(error, **task_records.arguments(params, self.dataset_info))

    def build_metrics(self, training: bool = True) -> List[tf.keras.metrics.Metric]:
        """Running means of the loss parts in training; evaluation streams through the host."""
        if not training:
            return []
        return [tf.keras.metrics.Mean(name) for name in self.loss_names()]

    @tf.autograph.experimental.do_not_convert
    def train_step(self, inputs, model, optimizer, metrics=None) -> Tensors:
        """One step on one replica.

        Losses are normalised over all replicas, so gradients are summed over replicas.
        """
        self.class_weights.check_known()
        features, labels = inputs
        losses, gradients = self._compiled(self._losses_and_gradients)(
            features, labels, model, optimizer
        )
        variables = model.trainable_variables
        gradients = optimization.add_weight_decay(
            gradients, variables, weight_decay=self.task_config.weight_decay, optimizer=optimizer
        )
        optimizer.apply_gradients(list(zip(gradients, variables)))
        # A replica holds its share of the global loss; means over replicas are logged.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        logs = {name: value * replicas for name, value in losses.items()}
        for metric in metrics or []:
            metric.update_state(logs[metric.name])
        return {self.loss: logs[self.loss]}

    def _compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function as `xla` wants it."""
        form = forms.Form.ACCELERATOR if self.xla else self.form

        # In here: a replica has a thread of its own.
        def trace(*arguments: Any) -> Any:
            with forms.use(form):
                return function(*arguments)

        if not self.xla:
            return trace

        if isinstance(tf.distribute.get_strategy(), tf.distribute.TPUStrategy):
            return trace  # It compiles the whole step.
        return tf.function(trace, jit_compile=True, autograph=False)

    def _losses_and_gradients(
        self, features: Tensors, labels: Tensors, model: PanopticModel, optimizer: Any
    ) -> Tuple[Tensors, List[tf.Tensor]]:
        is_scaled = hasattr(optimizer, "get_scaled_loss")
        with tf.GradientTape() as tape:
            outputs = model(features, training=True)
            losses = self._total(self._loss(labels, outputs), optimizer.iterations)
            objective = losses[self.loss]
            if is_scaled:
                objective = optimizer.get_scaled_loss(objective)
        gradients = tape.gradient(objective, model.trainable_variables)
        return losses, optimizer.get_unscaled_gradients(gradients) if is_scaled else gradients

    def _total(self, losses: Tensors, step: tf.Tensor) -> Tensors:
        factors = self.loss_factors(step)
        if not factors:
            return losses
        scaled = {name: losses[name] * factors.get(name, 1.0) for name in self.loss_names()}
        return {self.loss: tf.add_n(list(scaled.values())), **scaled}

    @tf.autograph.experimental.do_not_convert
    def validation_step(self, inputs, model, metrics=None) -> Tensors:
        """Predictions and ground truth of one replica, for `aggregate_logs`."""
        del metrics
        features, labels = inputs
        with forms.use(self.form):
            return {"prediction": _predict(model, features), "ground_truth": labels}

    def aggregate_logs(self, state=None, step_outputs=None):
        """Hands the images of a step to the evaluator; runs on the host."""
        if state is None:
            state = scoring.BackgroundScoring(self.build_evaluator(), self.image_listeners)
        state.add(step_outputs)
        return state

    def reduce_aggregated_logs(self, aggregated_logs, global_step=None) -> Dict[str, float]:
        """The scalars of an evaluation; what a data set has nothing of is left out."""
        own_skipped = self._size_limit.report(self.task_config.validation_data.input_path)
        parts = self.gather((aggregated_logs.finish(), own_skipped))
        total = self.build_evaluator()
        for evaluator, _ in parts:
            total.merge(evaluator)
        self._evaluation.result = {
            **total.result(),
            "skipped_images": sum(skipped for _, skipped in parts),
        }
        if global_step is not None:
            # A variable with a copy on each replica is no number yet.
            self.last_result["step"] = global_step = int(tf.convert_to_tensor(global_step))
        logging.info("evaluation at step %s: PQ %s", global_step, self.last_result["PQ"])
        for text in coverage.warnings_of(self.last_result):
            logging.warning("evaluation at step %s: %s", global_step, text)
        return {k: v for k, v in self.last_result.items() if isinstance(v, float)}

    def check_evaluated(self) -> None:
        """Makes sure that an evaluation has had something to measure.

        Raises:
          ValueError: there was no image.
        """
        if not self.last_result:
            raise ValueError(
                f"the files of {self.task_config.validation_data.input_path!r} hold no record of "
                f"an image of at most {self._size_limit.max_pixels:,} pixels "
                "(task.evaluation.max_pixels)."
            )

    def build_evaluator(self) -> PanopticEvaluator:
        """An empty evaluator for this data set."""
        postprocessor = getattr(self.task_config.model, "postprocessor", None)
        return PanopticEvaluator(
            num_categories=self.dataset_info.num_categories,
            thing_ids=self.dataset_info.thing_ids,
            category_names=self.dataset_info.names,
            crowd_rule=self.task_config.evaluation.crowd_rule,
            compute_ap=self.task_config.evaluation.report_mask_ap,
            boundary_ratio=self.task_config.evaluation.boundary_ratio,
            stuff_area=getattr(postprocessor, "stuff_area", 0),
        )


def _predict(model: tf.keras.Model, features: Tensors) -> Tensors:
    """Predictions; a replica that is left without an image in the last step still runs on one.

    Fused convolutions refuse an empty batch.
    """
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return model(features, training=False)
    count = tf.shape(features["image"])[0]
    missing = tf.maximum(1 - count, 0)

    def at_least_one(values: tf.Tensor) -> tf.Tensor:
        return tf.concat([values, tf.ones([missing, *values.shape[1:]], values.dtype)], axis=0)

    prediction = model({k: at_least_one(v) for k, v in features.items()}, training=False)
    return {key: value[:count] for key, value in prediction.items()}

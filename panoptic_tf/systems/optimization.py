"""Optimisers and schedules that the experiments share.

Beside those of `official.modeling.optimization`, `muon` is that of `muon` and `addons/<name>` is
one of tensorflow-addons.
"""

import dataclasses
import functools
import re
from typing import Any, Dict, List, Optional, Sequence

import tensorflow as tf
from official.modeling import optimization
from official.modeling.optimization import ema_optimizer, optimizer_factory
from official.modeling.optimization.configs import optimization_config, optimizer_config

from panoptic_tf import addons
from panoptic_tf.systems import muon, variable_factors
from panoptic_tf.systems.config import TrainerConfig
from panoptic_tf.systems.variable_factors import VariableFactors

_PREFIX = "addons/"


@dataclasses.dataclass
class AddonsOptimizer(optimizer_config.BaseOptimizerConfig):
    """Arguments of `addons.build_optimizer`, which documents them."""

    options: Optional[Dict[str, Any]] = None
    inner: str = "Adam"
    inner_options: Optional[Dict[str, Any]] = None


@dataclasses.dataclass
class MuonConfig(optimizer_config.AdamWeightDecayConfig):
    """Arguments of `muon.Muon`, which documents them."""

    name: str = "Muon"
    rms_rate: float = 0.2
    momentum: float = 0.95
    nesterov: bool = True
    ns_steps: int = 5
    exclude_from_muon: List[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class OptimizerConfig(optimization_config.OptimizerConfig):
    """One of the optimisers; of the type `addons/<name>`, whose fields are `addons`."""

    muon: MuonConfig = dataclasses.field(default_factory=MuonConfig)
    addons: AddonsOptimizer = dataclasses.field(default_factory=AddonsOptimizer)

    def get(self):
        """See base class."""
        return self.addons if self._is_of_addons() else super().get()

    def as_dict(self):
        """See base class."""
        if not self._is_of_addons():
            return super().as_dict()
        return {"type": self.type, "addons": self.addons.as_dict()}

    def _is_of_addons(self) -> bool:
        if self.type == "addons" or (
            str(self.type).startswith(_PREFIX)
            and self.type[len(_PREFIX) :] not in addons.OPTIMIZERS
        ):
            raise ValueError(
                "trainer.optimizer_config.optimizer.type must be a field of official's optimizer "
                f"config or one of addons/{{{', '.join(addons.OPTIMIZERS)}}}, got {self.type!r}."
            )
        return str(self.type).startswith(_PREFIX)


@dataclasses.dataclass
class OptimizationConfig(optimization.OptimizationConfig):
    """Optimiser, schedule, warm-up and averages.

    Attributes:
      by_variable: factors of learning rate and weight decay for the variables whose names match a
        pattern; where several match, their factors are multiplied.
    """

    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    by_variable: List[VariableFactors] = dataclasses.field(default_factory=list)

    def _set(self, k: str, v: Any) -> None:
        if k == "by_variable":
            # An override is the whole list; the base class would merge rows of the same number.
            self.__dict__[k] = []
        super()._set(k, v)


optimizer_factory.register_optimizer_cls("muon", muon.Muon)
for _name in addons.OPTIMIZERS:
    optimizer_factory.register_optimizer_cls(
        _PREFIX + _name, functools.partial(addons.build_optimizer, _name)
    )


def set_factors(optimizer: Any, config: OptimizationConfig, names: Sequence[str]) -> None:
    """Makes an optimiser step by the factors `by_variable` of its config.

    Args:
      optimizer: as `PanopticTask.create_optimizer` builds it.
      config: of it.
      names: of the trainable variables of the model that it is for.

    Raises:
      ValueError: a row is malformed, its pattern matches no variable, or the optimiser cannot; see
        `variable_factors`.
    """
    if not config.by_variable:
        return
    table = variable_factors.FactorTable(config.by_variable)
    table.check_matching(names)
    options = config.optimizer.get().as_dict()
    for name in ("options", "inner_options"):  # Those of addons.
        options.update(options.pop(name, None) or {})
    variable_factors.set_factors(
        optimizer,
        table,
        optimizer_type=config.optimizer.type,
        weight_decay=bool(options.get("weight_decay") or options.get("weight_decay_rate")),
    )


def add_weight_decay(
    gradients: List[tf.Tensor],
    variables: List[tf.Variable],
    *,
    weight_decay: float,
    optimizer: Any,
) -> List[tf.Tensor]:
    """Adds this replica's share of L2 regularisation, of all variables but those of normalisation.

    Args:
      gradients: of the variables, which replicas will sum.
      variables: trained ones.
      weight_decay: the gradient of a variable gets this times the variable, and its factor.
      optimizer: whose factors `by_variable` count.
    """
    share = weight_decay / tf.distribute.get_strategy().num_replicas_in_sync
    if not share:
        return gradients
    table = variable_factors.table_of(optimizer)

    def add(gradient: tf.Tensor, variable: tf.Variable) -> tf.Tensor:
        factor = table.of(variable).weight_decay
        if not factor or re.search("(gamma|beta)$", variable_factors.name_of(variable)):
            return gradient
        return gradient + share * factor * variable

    return list(map(add, gradients, variables))


class LossScaledMovingAverage(optimization.ExponentialMovingAverage):
    """The averages of weights that a `LossScaleOptimizer` of Keras' legacy kind steps.

    A step that is skipped, since its gradients overflow, leaves the averages as they are too.
    """

    def get_scaled_loss(self, loss: tf.Tensor) -> tf.Tensor:
        """The loss, float32 [], times the loss scale."""
        return self._optimizer.get_scaled_loss(loss)

    def get_unscaled_gradients(self, gradients: List[tf.Tensor]) -> List[tf.Tensor]:
        """The gradients of a scaled loss, divided by the loss scale."""
        return self._optimizer.get_unscaled_gradients(gradients)

    def apply_gradients(self, grads_and_vars, name: Optional[str] = None):
        """See base class."""
        if not self._optimizer.dynamic:
            return super().apply_gradients(grads_and_vars, name)
        scale = self._optimizer.loss_scale
        result = self._optimizer.apply_gradients(grads_and_vars, name)
        strategy = tf.distribute.get_strategy()
        ema_optimizer.maybe_merge_call(self._update_where_applied, strategy, scale)
        return result

    def _update_where_applied(self, strategy: tf.distribute.Strategy, scale: Any) -> None:
        """Updates the averages, given the loss scale before the step.

        A step that is skipped starts the count of good ones again and does not raise the scale.
        """
        scale = strategy.experimental_local_results(scale)[0]
        is_raised = self._optimizer.loss_scale > scale
        is_applied = tf.logical_or(self._optimizer.dynamic_counter > 0, is_raised)
        tf.cond(is_applied, lambda: self.update_average(strategy), lambda: None)

    # Those of the base class reach for attributes that a LossScaleOptimizer does not have.
    @property
    def learning_rate(self):
        """Of the optimiser inside: a number or a schedule."""
        return self._optimizer.learning_rate

    def _create_all_weights(self, var_list):
        self._optimizer._create_all_weights(var_list)


def create_variables(optimizer: Any, variables: Sequence[tf.Variable]) -> None:
    """Makes the variables that a legacy optimizer has for these, before its first step.

    Several replicas in one process cannot create them inside of a training loop, and TensorFlow
    traces a step that creates some twice. Does nothing to the other optimizers of Keras.
    """
    if hasattr(optimizer, "_create_all_weights"):
        optimizer._create_all_weights(variables)


def averaged_adamw_config(
    *,
    train_steps: int,
    learning_rate: float,
    warmup_steps: int,
    steps_per_loop: int,
    validation_interval: int,
    by_variable: Sequence[VariableFactors] = (),
    muon_options: Optional[Dict[str, Any]] = None,
) -> TrainerConfig:
    """What small networks are trained with: AdamW, a cosine to 0, weights averaged over steps.

    Args:
      train_steps, warmup_steps, steps_per_loop, validation_interval, by_variable: see
        `trainer_config`.
      learning_rate: after the warm-up.
      muon_options: fields of the optimiser `muon`, for kernels; None: AdamW is for them as well.
    """
    return trainer_config(
        train_steps=train_steps,
        optimizer="adamw" if muon_options is None else "muon",
        optimizer_options=adamw_options(
            weight_decay=1e-4,
            clip_norm=5.0,
            exclude_from_weight_decay=["gamma", "beta", "bias"],
            **(muon_options or {}),
        ),
        schedule="cosine",
        schedule_options={"initial_learning_rate": learning_rate, "alpha": 0.0},
        warmup_steps=warmup_steps,
        ema={"average_decay": 0.999, "trainable_weights_only": False},
        steps_per_loop=steps_per_loop,
        checkpoint_interval=500,
        validation_interval=validation_interval,
        by_variable=by_variable,
    )


def adamw_options(*, weight_decay: float, clip_norm: float, **others: Any) -> Dict[str, Any]:
    """Fields of the optimiser `adamw` that clip the gradient of the whole model, once.

    Args:
      weight_decay: decoupled (arXiv:1711.05101): a step takes learning rate times it of a weight.
      clip_norm: largest norm of the gradients of all variables together, summed over replicas.
      **others: further fields, such as `beta_2`.
    """
    return {
        "weight_decay_rate": weight_decay,
        "gradient_clip_norm": 0.0,  # It would clip each replica's gradients by themselves.
        "global_clipnorm": clip_norm,
        **others,
    }


def trainer_config(
    *,
    train_steps: int,
    optimizer: str,
    optimizer_options: Dict[str, Any],
    schedule: str,
    schedule_options: Dict[str, Any],
    warmup_steps: int = 0,
    ema: Optional[Dict[str, Any]] = None,
    steps_per_loop: int = 100,
    checkpoint_interval: int = 1000,
    validation_interval: int = 10000,
    by_variable: Sequence[VariableFactors] = (),
) -> TrainerConfig:
    """A trainer config with one optimiser and one schedule of `official.modeling.optimization`.

    Args:
      train_steps: of the whole run.
      optimizer: `adam_experimental`, `adamw_experimental`, `sgd`, `addons/RectifiedAdam`, ...
      optimizer_options: its fields, of `addons/...` those of `AddonsOptimizer`; `global_clipnorm`
        clips gradients.
      schedule: `polynomial`, `cosine`, `stepwise` or `constant`.
      schedule_options: its fields; `decay_steps` is `train_steps` where that is a field.
      warmup_steps: of a linear warm-up from 0.
      ema: fields of the exponential moving average of the weights, None: no average.
      steps_per_loop: steps between two looks at the loss.
      checkpoint_interval: steps between checkpoints.
      validation_interval: steps between evaluations.
      by_variable: factors of learning rate and weight decay by names of variables.
    """
    if schedule in ("polynomial", "cosine"):
        schedule_options = {"decay_steps": train_steps, **schedule_options}
    settings: Dict[str, Any] = {
        "optimizer": {"type": optimizer, optimizer.split("/")[0]: optimizer_options},
        "learning_rate": {"type": schedule, schedule: schedule_options},
        "warmup": {
            "type": "linear",
            "linear": {"warmup_steps": warmup_steps, "warmup_learning_rate": 0},
        },
    }
    if not warmup_steps:
        del settings["warmup"]
    if ema is not None:
        settings["ema"] = ema
    if by_variable:
        settings["by_variable"] = list(by_variable)
    return TrainerConfig(
        train_steps=train_steps,
        steps_per_loop=steps_per_loop,
        summary_interval=steps_per_loop,
        checkpoint_interval=checkpoint_interval,
        validation_interval=validation_interval,
        optimizer_config=OptimizationConfig(settings),
    )

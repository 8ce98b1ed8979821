"""Learning rate and weight decay by variable: factors for those whose names match.

The Model Garden's optimisers know one learning rate, and some of them names without decay. Here any
optimiser first steps as it does; then, of the change of a variable, only the factor is kept:

    w <- w + factor * (step(w) - w)

With a constant factor that is the step of a learning rate of factor times the one of the schedule,
for every optimiser whose step is proportional to the learning rate: also for momentum that holds
the rate (it adds up steps), adaptive moments (which do not know it), trust ratios and decoupled
decay. Clipping and loss scaling come before it, averages of weights after it, as without factors.
"""

# No postponed annotations here: the config base class reads them.
import dataclasses
import functools
import inspect
import math
import re
from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Tuple

import tensorflow as tf
from official.modeling import hyperparams

SETTING = "trainer.optimizer_config.by_variable"

_LegacyOptimizer = tf.keras.optimizers.legacy.Optimizer

# One goes back part of the way every few steps, the other shrinks weights to 0.
_NOT_PROPORTIONAL = ("addons/Lookahead", "addons/ProximalAdagrad")

_MOST_NAMES = 5


@dataclasses.dataclass
class VariableFactors(hyperparams.Config):
    """What variables of some names have otherwise than the rest.

    Attributes:
      pattern: regular expression that is looked for anywhere in a variable's name, for example
        `^backbone/` or `/(gamma|beta)$`; names are `backbone/stem/conv/kernel` and the like.
      learning_rate: factor of the learning rate, and so of decoupled decay, which is proportional
        to it (that of `addons/AdamW` and `addons/SGDW` is not, and is scaled all the same); 0
        leaves the variables as they are.
      weight_decay: factor of the weight decay, that of the optimiser and `task.weight_decay`.
    """

    pattern: str = ""
    learning_rate: float = 1.0
    weight_decay: float = 1.0

    def _override(self, override_dict: Dict[str, Any], is_strict: bool = True) -> None:
        # As an element of a list it would take any key.
        super()._override(override_dict, is_strict=True)


class Factors(NamedTuple):
    """Of one variable."""

    learning_rate: float = 1.0
    weight_decay: float = 1.0


class FactorTable:
    """Factors by name of the variable: the products of those of all patterns that match."""

    def __init__(self, rows: Sequence[VariableFactors] = ()):
        """See the class.

        Raises:
          ValueError: a pattern is empty or no regular expression, or a factor is no number of 0 and
            above.
        """
        for i, row in enumerate(rows):
            _check(f"{SETTING}[{i}]", row)
        self._rows: List[Tuple[re.Pattern, Factors]] = [
            (re.compile(row.pattern), Factors(row.learning_rate, row.weight_decay)) for row in rows
        ]

    def of(self, variable: Any) -> Factors:
        """The factors of a variable or of a replica's copy of it."""
        name = name_of(variable)
        matching = [factors for pattern, factors in self._rows if pattern.search(name)]
        return Factors(*(math.prod(column) for column in zip(*matching)))

    @property
    def changes_decay(self) -> bool:
        """Whether some variable may have another weight decay than the rest."""
        return any(factors.weight_decay != 1.0 for _, factors in self._rows)

    def check_matching(self, names: Sequence[str]) -> None:
        """Makes sure that every pattern is about something.

        Args:
          names: of the trainable variables of a model.

        Raises:
          ValueError: a pattern matches none of them.
        """
        names = sorted(names)
        for i, (pattern, _) in enumerate(self._rows):
            if not any(map(pattern.search, names)):
                shown = names[:: max(1, len(names) // _MOST_NAMES)][:_MOST_NAMES]
                raise ValueError(
                    f"{SETTING}[{i}].pattern {pattern.pattern!r} matches none of the {len(names)} "
                    f"trainable variables of the model, such as {', '.join(shown)}."
                )


def name_of(variable: Any) -> str:
    """The name of a variable, without `:0` and the number of a replica's copy."""
    return re.sub(r"(/replica_\d+)?(:\d+)?$", "", variable.name)


def set_factors(
    optimizer: Any, table: FactorTable, *, optimizer_type: str, weight_decay: bool
) -> None:
    """Makes an optimiser step by the factors of a table; its slots stay what they are.

    Args:
      optimizer: of Keras, legacy or not, that has not stepped yet; it may be wrapped for averages
        and loss scaling.
      table: by name.
      optimizer_type: what the config calls it, for the error message.
      weight_decay: whether it has a decay of its own.

    Raises:
      ValueError: a step of the optimiser is not proportional to its learning rate, or its decay
        cannot be told from its step.
    """
    if optimizer_type in _NOT_PROPORTIONAL:
        raise ValueError(
            f"{SETTING} is set, but a step of {optimizer_type} is not proportional to its learning "
            "rate. Take another optimizer, or leave it empty."
        )
    inner = _innermost(optimizer)
    kind, is_legacy = type(inner), isinstance(inner, _LegacyOptimizer)
    has_decay_apart = not is_legacy or hasattr(kind, "_decay_weights_op")
    if weight_decay and not has_decay_apart and table.changes_decay:
        raise ValueError(
            f"{SETTING} has factors of the weight decay, but {optimizer_type} mixes decay and "
            "gradient. Take adamw or adamw_experimental, decay by task.weight_decay, or leave the "
            "factors 1."
        )
    # Its class is changed, since it may be without a way to build it once more with its options.
    base = _LegacySteps if is_legacy else _Steps
    inner.__class__ = type(kind.__name__, (base, kind), {"factor_table": table})


def table_of(optimizer: Any) -> FactorTable:
    """What `set_factors` has set; where it has not, all factors are 1."""
    return getattr(_innermost(optimizer), "factor_table", FactorTable())


def _innermost(optimizer: Any) -> Any:
    while hasattr(optimizer, "_optimizer"):
        optimizer = optimizer._optimizer
    return optimizer


def _check(name: str, row: VariableFactors) -> None:
    try:
        is_pattern = bool(row.pattern) and bool(re.compile(row.pattern))
    except (re.error, TypeError):
        is_pattern = False
    if not is_pattern:
        raise ValueError(f"{name}.pattern must be a regular expression, got {row.pattern!r}.")
    for field in Factors._fields:
        value = getattr(row, field)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not 0.0 <= value < math.inf:
            raise ValueError(f"{name}.{field} must be a factor of at least 0, got {value!r}.")


def _keep_share(variable: tf.Variable, share: float, update: Callable[[], Any]) -> Any:
    """Runs an update of a variable, eagerly or in a function; of its change only a share stays."""
    if share == 1.0:
        return update()
    if share == 0.0:
        return tf.no_op()
    before = tf.identity(variable)
    update()
    return variable.assign(before + share * (variable - before), read_value=False)


class _LegacySteps:
    """Over a legacy optimiser of Keras, which applies gradients variable by variable."""

    factor_table: FactorTable

    def _resource_apply_dense(self, grad, var, apply_state=None):
        step = _bind_state(super()._resource_apply_dense, apply_state)
        share = self.factor_table.of(var).learning_rate
        return _keep_share(var, share, lambda: step(grad, var))

    # Every sparse gradient comes here first.
    def _resource_apply_sparse_duplicate_indices(self, grad, handle, indices, **kwargs):
        step = super()._resource_apply_sparse_duplicate_indices
        share = self.factor_table.of(handle).learning_rate
        return _keep_share(handle, share, lambda: step(grad, handle, indices, **kwargs))

    # Of optimisers with decoupled decay, which call it.
    def _decay_weights_op(self, var, *args, **kwargs):
        decay = super()._decay_weights_op
        share = self.factor_table.of(var).weight_decay
        return _keep_share(var, share, lambda: decay(var, *args, **kwargs))

    def _decay_weights_sparse_op(self, var, *args, **kwargs):
        decay = super()._decay_weights_sparse_op
        share = self.factor_table.of(var).weight_decay
        return _keep_share(var, share, lambda: decay(var, *args, **kwargs))


def _bind_state(step: Callable[..., Any], apply_state: Any) -> Callable[..., Any]:
    """With what Keras prepares for all variables, where the optimiser takes it."""
    if "apply_state" not in inspect.signature(step).parameters:
        return step
    return functools.partial(step, apply_state=apply_state)


class _Steps:
    """Over an optimiser of Keras since 2.11, which decays all variables before it updates any."""

    factor_table: FactorTable
    # Of the optimiser.
    weight_decay: Any
    learning_rate: Any
    _use_weight_decay: Callable[[tf.Variable], bool]

    def _apply_weight_decay(self, variables):
        """Is part of `update_step`."""

    def update_step(self, gradient, variable):
        """See base class."""
        step = super().update_step
        factors = self.factor_table.of(variable)

        def update() -> None:
            if self.weight_decay and factors.weight_decay and self._use_weight_decay(variable):
                decay = factors.weight_decay * self.weight_decay
                rate = tf.cast(self.learning_rate, variable.dtype)
                variable.assign_sub(decay * rate * variable)
            step(gradient, variable)

        _keep_share(variable, factors.learning_rate, update)

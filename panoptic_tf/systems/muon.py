"""Muon: steps of kernels that move along all of their singular directions alike.

Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024
(https://kellerjordan.github.io/posts/muon/); the size of a step is that of arXiv:2502.16982. Ours,
since Keras 2 has none; the names of the arguments are those of `keras.optimizers.Muon` of Keras 3.
"""

from __future__ import annotations

import math
import re
from typing import Any, Sequence

import tensorflow as tf
from official.modeling.optimization import legacy_adamw

from panoptic_tf.systems import variable_factors

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration: chosen for speed, so that singular values end in 0.68..1.21."""


def orthogonalize(matrix: tf.Tensor, num_steps: int = 5) -> tf.Tensor:
    """Brings the singular values of a matrix near 1 and leaves its singular vectors.

    Newton-Schulz: X <- a X + b (X X^T) X + c (X X^T)^2 X, from the matrix divided by its Frobenius
    norm.

    Args:
      matrix: float32 [rows, columns].
      num_steps: of the iteration.

    Returns:
      float32 [rows, columns]. After five steps, singular values that were above 0.0015 of the norm
      are in 0.68..1.21; zeros stay zeros.
    """
    a, b, c = _COEFFICIENTS
    rows, columns = matrix.shape
    is_tall = rows > columns
    x = tf.transpose(matrix) if is_tall else matrix
    x = tf.math.divide_no_nan(x, tf.norm(x))
    # Multiplying the polynomials first costs half, but goes wrong with products in bfloat16.
    for _ in range(num_steps):
        gram = tf.matmul(x, x, transpose_b=True)
        x = a * x + tf.matmul(b * gram + c * tf.matmul(gram, gram), x)
    return tf.transpose(x) if is_tall else x


class Muon(legacy_adamw.AdamWeightDecay):
    """Muon for kernels, AdamW for everything else.

    A kernel [..., output channels] is the matrix [product of the rest, output channels]. With its
    gradient G, momentum M and the learning rate:

        M <- momentum * M + G
        kernel <- kernel - rate * (weight decay * kernel
                                   + rms_rate * sqrt(max(rows, columns)) * orthogonalize(G'))

    where G' is `G + momentum * M` with Nesterov's momentum, else M. The root mean square of such a
    step is `rms_rate` times the rate, where AdamW's is 0.2 to 0.4 times it.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        *,
        rms_rate: float = 0.2,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        exclude_from_muon: Sequence[str] = (),
        name: str = "Muon",
        **adamw: Any,
    ):
        """See the class.

        Args:
          learning_rate: a number or a schedule, of both.
          rms_rate: root mean square of a kernel's step, over the learning rate.
          momentum: of kernels, 0..1.
          nesterov: which kind of momentum.
          ns_steps: of `orthogonalize`.
          exclude_from_muon: regular expressions; kernels whose names match one take AdamW's step.
            Made for hidden layers: the first one and predictors are usually left out.
          name: of the optimiser.
          **adamw: of official's `AdamWeightDecay`. Its weight decay is that of kernels as well.

        Raises:
          ValueError: `exclude_from_muon` has something else than regular expressions.
        """
        super().__init__(learning_rate, name=name, **adamw)
        self.rms_rate = rms_rate
        self.momentum = momentum
        self.nesterov = nesterov
        self.ns_steps = ns_steps
        self.exclude_from_muon = tuple(exclude_from_muon or ())
        for pattern in self.exclude_from_muon:
            try:
                re.compile(pattern)
            except (re.error, TypeError) as error:
                raise ValueError(
                    "trainer.optimizer_config.optimizer.muon.exclude_from_muon must be regular "
                    f"expressions, got {pattern!r} ({error})."
                ) from error

    def takes(self, variable: tf.Variable) -> bool:
        """Whether a variable is a kernel that takes Muon's step."""
        name = variable_factors.name_of(variable)
        return (
            name.split("/")[-1] == "kernel"
            and min(_matrix_shape(variable)) > 1
            and not any(re.search(pattern, name) for pattern in self.exclude_from_muon)
        )

    def get_config(self):
        """See base class."""
        return {
            **super().get_config(),
            "rms_rate": self.rms_rate,
            "momentum": self.momentum,
            "nesterov": self.nesterov,
            "ns_steps": self.ns_steps,
            "exclude_from_muon": list(self.exclude_from_muon),
        }

    def _create_slots(self, var_list):
        for variable in filter(self.takes, var_list):
            self.add_slot(variable, "momentum")
        super()._create_slots([v for v in var_list if not self.takes(v)])

    def _resource_apply_dense(self, grad, var, apply_state=None):
        if not self.takes(var):
            return super()._resource_apply_dense(grad, var, apply_state)
        rate, kwargs = self._get_lr(var.device, var.dtype.base_dtype, apply_state)
        momentum = self.get_slot(var, "momentum")
        total = momentum.assign(self.momentum * momentum + grad)
        direction = grad + self.momentum * total if self.nesterov else total
        shape = _matrix_shape(var)
        step = orthogonalize(tf.reshape(direction, shape), self.ns_steps)
        size = rate * self.rms_rate * math.sqrt(max(shape))
        with tf.control_dependencies([self._decay_weights_op(var, rate, **kwargs)]):
            return var.assign_sub(size * tf.reshape(step, var.shape), read_value=False)

    def _resource_apply_sparse(self, grad, var, indices, apply_state=None):
        if not self.takes(var):
            return super()._resource_apply_sparse(grad, var, indices, apply_state)
        grad = tf.convert_to_tensor(tf.IndexedSlices(grad, indices, tf.shape(var)))
        return self._resource_apply_dense(grad, var, apply_state)


def _matrix_shape(variable: tf.Variable) -> tuple[int, int]:
    """(rows, columns) of a variable as a matrix; (1, 1) if it is none."""
    if len(variable.shape) < 2:
        return 1, 1
    return math.prod(variable.shape[:-1]), variable.shape[-1]

"""Less memory for a little more time: a gradient that computes again what it needs."""

from __future__ import annotations

from typing import Any, Callable, Tuple

import tensorflow as tf


def recompute(function: Callable[..., tf.Tensor], *tensors: tf.Tensor) -> tf.Tensor:
    """function(*tensors), of which the gradient keeps the tensors alone.

    For what is large and cheap to compute: padding, copies, sums and products by element. What the
    gradient does not read, such as the result of a convolution, is not computed again. In a graph;
    eagerly the gradient is the usual one.

    Args:
      function: differentiable; its gradient reaches `tensors`, not what it reads besides.
      *tensors: of any float dtypes.

    Returns:
      What the function returns, one tensor.
    """
    if tf.executing_eagerly():
        return function(*tensors)

    @tf.custom_gradient
    def call(*tensors: tf.Tensor) -> Tuple[tf.Tensor, Callable[[tf.Tensor], Any]]:
        def gradient(upstream: tf.Tensor) -> Any:
            # Not before the gradient arrives, and not merged with what was computed before.
            with tf.control_dependencies([upstream]):
                again = [tf.identity(tensor) for tensor in tensors]
                outputs = function(*again)
            return tf.gradients(outputs, again, upstream)

        return function(*tensors), gradient

    return call(*tensors)

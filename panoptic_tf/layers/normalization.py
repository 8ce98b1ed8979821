"""Normalisation by name: one call instead of an `if` in every network."""

from __future__ import annotations

from typing import Any, Callable, Optional, Sequence, Tuple

import tensorflow as tf

from panoptic_tf.ops.recompute import recompute

NORMS: Tuple[str, ...] = ("batch", "frozen_batch", "sync_batch", "group", "none")


@tf.keras.utils.register_keras_serializable(package="panoptic_tf")
class FrozenBatchNorm(tf.keras.layers.Layer):
    """Batch normalisation that never learns.

    y = gamma * (x - mean) / sqrt(variance + epsilon) + beta. The four vectors are loaded, not
    trained, and have the names of batch normalisation's. The running variance starts at
    1 - epsilon, so that the layer starts as the identity.

    Args:
      epsilon: added to the variance.
      **kwargs: of the Keras layer.
    """

    def __init__(self, *, epsilon: float = 1e-5, **kwargs: Any):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates gamma, beta, moving_mean and moving_variance, [C] each."""
        variance = tf.keras.initializers.Constant(1.0 - self.epsilon)
        self.gamma = self._vector("gamma", "ones", input_shape)
        self.beta = self._vector("beta", "zeros", input_shape)
        self.moving_mean = self._vector("moving_mean", "zeros", input_shape)
        self.moving_variance = self._vector("moving_variance", variance, input_shape)
        super().build(input_shape)

    def _vector(self, name: str, initializer: Any, input_shape: tf.TensorShape) -> tf.Variable:
        return self.add_weight(
            name=name,
            shape=(int(input_shape[-1]),),
            initializer=initializer,
            trainable=False,
            dtype=tf.float32,
            experimental_autocast=False,
        )

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Scales and shifts [..., C]."""
        scale, shift = scale_and_shift(self)
        return inputs * tf.cast(scale, inputs.dtype) + tf.cast(shift, inputs.dtype)


@tf.keras.utils.register_keras_serializable(package="panoptic_tf")
class SyncBatchNorm(tf.keras.layers.BatchNormalization):
    """Keras's batch normalisation over all replicas, of which a gradient keeps less.

    y = gamma * (x - mean) / sqrt(variance + epsilon) + beta, the variance being the mean of
    (x - mean)^2. One replica takes the fused operator; several exchange the sums of x and x^2 once
    in each direction, and their variance is E(x^2) - mean^2.

    Args:
      **kwargs: of the Keras layer.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**{**kwargs, "synchronized": True})

    def call(
        self,
        inputs: tf.Tensor,
        training: Optional[bool] = None,
        then: Callable[..., tf.Tensor] = lambda y: y,
        others: Sequence[tf.Tensor] = (),
    ) -> tf.Tensor:
        """then(y, *others); in training the gradient keeps x and the others, but not y.

        Args:
          inputs: x, float32, float16 or bfloat16 [B, H, W, C].
          training: of Keras.
          then: differentiable, from y, of the dtype of x, to a tensor; see `recompute`.
          others: read by `then`.
        """
        if is_constant(self, training):
            return then(super().call(inputs, training=training), *others)
        if tf.distribute.get_strategy().num_replicas_in_sync == 1:
            return self._call_fused(inputs, then, others)

        def normalize(
            x: tf.Tensor, scale: tf.Tensor, shift: tf.Tensor, *others: tf.Tensor
        ) -> tf.Tensor:
            y = tf.cast(x, tf.float32) * scale + shift
            return then(tf.cast(y, x.dtype), *others)

        return recompute(normalize, inputs, *self._scale_and_shift(inputs), *others)

    def _call_fused(
        self, x: tf.Tensor, then: Callable[..., tf.Tensor], others: Sequence[tf.Tensor]
    ) -> tf.Tensor:
        """What `call` does, of the moments of one replica."""

        def run(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, *others: tf.Tensor) -> Any:
            norm = tf.raw_ops.FusedBatchNormV3(
                x=x, scale=gamma, offset=beta, mean=[], variance=[], epsilon=self.epsilon
            )
            mean, variance = norm.batch_mean, _without_correction(norm.batch_variance, x)

            def gradient(upstream: tf.Tensor, *of_moments: tf.Tensor) -> Tuple[Any, ...]:
                del of_moments  # Nothing but the running averages reads them.
                with tf.control_dependencies([upstream]):  # See `recompute`.
                    again = [tf.identity(tensor) for tensor in (x, *others)]
                    scale = gamma * tf.math.rsqrt(variance + self.epsilon)
                    y = tf.cast(again[0], tf.float32) * scale + (beta - mean * scale)
                    y = tf.cast(y, x.dtype)
                    output = then(y, *again[1:])
                of_y, *of_others = tf.gradients(output, [y, *again[1:]], upstream)
                of_norm = tf.raw_ops.FusedBatchNormGradV3(
                    y_backprop=of_y,
                    x=x,
                    scale=gamma,
                    reserve_space_1=norm.reserve_space_1,
                    reserve_space_2=norm.reserve_space_2,
                    reserve_space_3=norm.reserve_space_3,
                    epsilon=self.epsilon,
                )
                return (*of_norm[:3], *of_others)

            return (then(norm.y, *others), mean, variance), gradient

        tensors = (x, tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta), *others)
        if tf.executing_eagerly():  # See `recompute`.
            output, *moments = run(*tensors)[0]
        else:
            output, *moments = tf.custom_gradient(run)(*tensors)
        self._move_averages(*moments)
        return output

    def _scale_and_shift(self, x: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
        """Float32 [C] each, of this batch; the running averages move."""
        mean, variance = _moments(x)
        self._move_averages(mean, variance)
        scale = self.gamma * tf.math.rsqrt(variance + self.epsilon)
        return scale, self.beta - mean * scale

    def _move_averages(self, mean: tf.Tensor, variance: tf.Tensor) -> None:
        self.add_update(lambda: self._move(self.moving_mean, mean))
        self.add_update(lambda: self._move(self.moving_variance, variance))

    def _move(self, average: tf.Variable, value: tf.Tensor) -> None:
        average.assign_sub((average - value) * (1.0 - self.momentum))


def _without_correction(variance: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """The mean of squared differences; the fused operator divides by one less than their number."""
    count = tf.cast(tf.size(x) // x.shape[-1], tf.float32)
    return variance * (tf.maximum(count - 1.0, 1.0) / count)


def _moments(x: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
    """Mean and variance of [B, H, W, C] over all axes but the last and all replicas."""
    found = _sums(x)
    replica = tf.distribute.get_replica_context()
    if replica is not None:  # As in a step; not where a network is built.
        found = replica.all_reduce(tf.distribute.ReduceOp.SUM, found)
    channels = x.shape[-1]
    total, total_of_squares, count = tf.split(found, [channels, channels, 1])
    count = tf.stop_gradient(count)
    mean = total / count
    # Rounding may leave less than nothing.
    return mean, tf.maximum(total_of_squares / count - tf.square(mean), 0.0)


@tf.custom_gradient
def _sums(x: tf.Tensor) -> Tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Sums of x and of its squares over [B, H, W], and how many: float32 [C + C + 1].

    The gradient keeps x as it comes and takes few passes over it.
    """
    axes, channels = [0, 1, 2], x.shape[-1]
    values = tf.cast(x, tf.float32)
    count = tf.cast([tf.size(x) // channels], tf.float32)
    sums = [tf.reduce_sum(values, axes), tf.reduce_sum(tf.square(values), axes), count]

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        of_sum, of_square, _ = tf.split(upstream, [channels, channels, 1])
        return tf.cast(tf.cast(x, tf.float32) * (2.0 * of_square) + of_sum, x.dtype)

    return tf.concat(sums, axis=0), gradient


BATCH_NORMS = (FrozenBatchNorm, tf.keras.layers.BatchNormalization)


def is_learning_over_replicas(norm: tf.keras.layers.Layer, training: Optional[bool]) -> bool:
    """Whether a norm is a `SyncBatchNorm` that normalises by the batch."""
    return isinstance(norm, SyncBatchNorm) and not is_constant(norm, training)


def is_constant(norm: tf.keras.layers.Layer, training: Optional[bool]) -> bool:
    """Whether a norm is a batch norm that scales and shifts by what it has learned."""
    is_learning = training is True and not isinstance(norm, FrozenBatchNorm) and norm.trainable
    return isinstance(norm, BATCH_NORMS) and not is_learning


def scale_and_shift(norm: tf.keras.layers.Layer) -> Tuple[tf.Tensor, tf.Tensor]:
    """The two vectors of y = x * scale + shift, float32 [C] each, of a constant batch norm."""
    scale = norm.gamma * tf.math.rsqrt(norm.moving_variance + norm.epsilon)
    return scale, norm.beta - norm.moving_mean * scale


@tf.keras.utils.register_keras_serializable(package="panoptic_tf")
class GroupNorm(tf.keras.layers.Layer):
    """Group normalisation (arXiv:1803.08494): moments over space and the channels of a group.

    Statistics are float32 under every policy. All tensors stay at rank 4 or below, which TensorFlow
    Lite's builtin operators need.

    Args:
      groups: number of groups; must divide the channels.
      epsilon: added to the variance.
      **kwargs: of the Keras layer.
    """

    def __init__(self, *, groups: int = 32, epsilon: float = 1e-5, **kwargs: Any):
        super().__init__(**kwargs)
        self._groups = groups
        self._epsilon = epsilon

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates gamma and beta, [C] each.

        Raises:
          ValueError: the groups do not divide the channels.
        """
        channels = int(input_shape[-1])
        if channels % self._groups:
            raise ValueError(
                f"{self.name}: group normalisation needs channels divisible by its "
                f"{self._groups} groups, got {channels} channels."
            )
        options = {"shape": (channels,), "dtype": tf.float32, "experimental_autocast": False}
        self.gamma = self.add_weight(name="gamma", initializer="ones", **options)
        self.beta = self.add_weight(name="beta", initializer="zeros", **options)
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training: Optional[bool] = None) -> tf.Tensor:
        """Normalises [B, H, W, C]."""

        def normalize(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> Any:
            return normalize_groups(x, gamma, beta, groups=self._groups, epsilon=self._epsilon)

        tensors = (
            tf.cast(inputs, tf.float32),
            tf.convert_to_tensor(self.gamma),
            tf.convert_to_tensor(self.beta),
        )
        # Not in an exported graph, which would carry the gradient along.
        outputs = (
            tf.custom_gradient(normalize)(*tensors) if training is True else normalize(*tensors)[0]
        )
        return tf.cast(outputs, inputs.dtype)


def normalize_groups(
    x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, *, groups: int, epsilon: float
) -> Tuple[tf.Tensor, Callable[[tf.Tensor], Tuple[tf.Tensor, tf.Tensor, tf.Tensor]]]:
    """y = gamma * (x - mean) / sqrt(variance + epsilon) + beta, and its gradient in few passes.

    Args:
      x: float32 [B, H, W, C].
      gamma: float32 [C].
      beta: float32 [C].
      groups: must divide C.
      epsilon: added to the variance.

    Returns:
      y: float32 [B, H, W, C].
      gradient: from that of y to those of x, gamma and beta.
    """
    cells = [1, 2]
    mean = _spread(tf.reduce_mean(x, cells), groups)
    variance = _spread(tf.reduce_mean(tf.math.squared_difference(x, mean), cells), groups)
    inverse = tf.math.rsqrt(variance + epsilon)  # [B, 1, 1, C]
    scale = inverse * gamma
    y = x * scale + (beta - mean * scale)

    def gradient(dy: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        # With n = (x - mean) * inverse and means m over a group:
        # dx = inverse * (gamma * dy - m(gamma * dy) - n * m(gamma * dy * n))
        count = tf.cast(tf.shape(x)[1] * tf.shape(x)[2], tf.float32)
        sum_dy = tf.reduce_sum(dy, cells)  # [B, C]
        sum_dy_x = tf.reduce_sum(dy * x, cells)
        sum_dy_n = (sum_dy_x - mean[:, 0, 0] * sum_dy) * inverse[:, 0, 0]
        along = _spread(gamma * sum_dy_n / count, groups) * inverse
        constant = _spread(gamma * sum_dy / count, groups)
        dx = dy * scale + (x * (-along * inverse) + (along * mean - constant) * inverse)
        return dx, tf.reduce_sum(sum_dy_n, axis=0), tf.reduce_sum(sum_dy, axis=0)

    return y, gradient


def _spread(x: tf.Tensor, groups: int) -> tf.Tensor:
    """[B, C] -> the mean of each channel's group, [B, 1, 1, C]."""
    size = x.shape[-1] // groups
    mean = tf.reduce_mean(tf.reshape(x, [-1, groups, size]), axis=2, keepdims=True)
    return tf.reshape(tf.tile(mean, [1, 1, size]), [-1, 1, 1, groups * size])


def build_norm(
    norm: str,
    *,
    name: str = "norm",
    momentum: float = 0.9,
    epsilon: float = 1e-5,
    groups: int = 32,
) -> tf.keras.layers.Layer:
    """Builds a normalisation layer.

    Args:
      norm: `batch`, `frozen_batch` (affine, never trained), `sync_batch` (moments over all
        replicas), `group`, or `none` (the identity, without variables).
      name: of the layer.
      momentum: share of the old running statistics kept at each step (0.9 here is 0.1 in PyTorch).
      epsilon: added to the variance.
      groups: of group normalisation.

    Raises:
      ValueError: unknown `norm`.
    """
    if norm == "batch":
        return tf.keras.layers.BatchNormalization(momentum=momentum, epsilon=epsilon, name=name)
    if norm == "sync_batch":
        return SyncBatchNorm(momentum=momentum, epsilon=epsilon, name=name)
    if norm == "frozen_batch":
        return FrozenBatchNorm(epsilon=epsilon, name=name)
    if norm == "group":
        return GroupNorm(groups=groups, epsilon=epsilon, name=name)
    if norm == "none":
        return tf.keras.layers.Activation("linear", name=name)
    raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}.")

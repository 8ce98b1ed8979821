"""The reason of an error, without what TensorFlow, Keras and gin add."""

import gin
import pytest
import tensorflow as tf

from panoptic_tf.experiments import errors

REASON = "pool_size (40, 40) does not fit. Use a smaller one."


class Refusing(tf.keras.layers.Layer):
    """Raises, in code that AutoGraph rewrites where it is traced."""

    def call(self, inputs):
        if tf.reduce_sum(inputs) > 0:
            inputs += 1
        raise ValueError(REASON)


class Outer(tf.keras.layers.Layer):
    """Calls a layer."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, inputs):
        return self.inner(inputs)


@gin.configurable
def configurable_of_the_tests():
    """Raises, and gin adds a line."""
    raise ValueError(REASON)


def described(function, *arguments):
    with pytest.raises(errors.of_input()) as error_info:
        function(*arguments)
    return errors.describe(error_info.value)


@pytest.mark.parametrize("make_inputs", [tf.zeros, tf.keras.Input], ids=["eager", "traced"])
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_reason_of_layers(make_inputs, depth):
    layer = Refusing()
    for _ in range(depth):
        layer = Outer(layer)
    assert described(layer, make_inputs([3])) == REASON


@pytest.mark.parametrize("in_one_line", [True, False])
def test_what_we_say_before_it_stays(in_one_line):
    def wrap():
        try:
            Outer(Refusing())(tf.keras.Input([3]))
        except ValueError as error:
            text = " ".join(str(error).split()) if in_one_line else error
            raise ValueError(f"the network cannot be built: {text}") from error

    assert described(wrap) == f"the network cannot be built: {REASON}"


def test_reason_without_the_lines_of_gin():
    assert described(configurable_of_the_tests) == REASON


def test_reason_of_operations():
    def decode(content):
        return tf.io.decode_png(content)

    text = "Unknown image file format"
    for function in (decode, tf.function(decode)):
        assert described(function, tf.constant(b"abc")).startswith(text)
    dataset = tf.data.Dataset.from_tensors(b"abc").map(decode)
    assert described(list, dataset).startswith(text)


@pytest.mark.parametrize(
    "error, text",
    [
        (FileNotFoundError(2, "No such file or directory", "a"), "a: No such file or directory"),
        (
            OSError(28, "cannot write a: No space left on device"),
            "cannot write a: No space left",
        ),
        (OSError("no SavedModel at a"), "no SavedModel at a"),
        (MemoryError(), "out of memory"),
        (ValueError(), "ValueError"),
        (
            tf.errors.ResourceExhaustedError(None, None, "run/ckpt-5_temp/part; No space left"),
            "run/ckpt-5_temp/part: No space left",
        ),
        (
            tf.errors.PermissionDeniedError(
                None,
                None,
                "{{function_node __wrapped__SaveV2}} run; Read-only [Op:SaveV2]",
            ),
            "run: Read-only",
        ),
    ],
)
def test_errors_of_the_machine_name_the_file(error, text):
    def fail():
        raise error

    assert described(fail).startswith(text)
    assert "[Op:" not in described(fail)


def test_checkpoint_that_does_not_fit_names_variables_without_their_values(tmp_path):
    path = tf.train.Checkpoint(a=tf.Variable(1.0)).write(str(tmp_path / "ckpt"))
    other = tf.train.Checkpoint(b=tf.Variable(tf.zeros([400]), name="second"))

    def restore():
        try:
            other.restore(path).assert_existing_objects_matched()
        except AssertionError as error:
            raise ValueError(f"it does not fit: {error}") from error

    message = described(restore)
    assert "second:0 (400,)" in message and "numpy" not in message


def test_long_messages_are_cut():
    many = errors.describe(ValueError("\n".join(map(str, range(100)))))
    assert many.splitlines() == ["0", "1", "2", "... and 97 lines more."]
    long = errors.describe(ValueError("a" * 5000 + "end"))
    assert len(long) < 1100 and long.endswith("end")

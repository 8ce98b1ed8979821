"""Functions as TFLite runs them, converted with its builtin operators only."""

import tensorflow as tf


def runner(concrete, module=None):
    """The signature runner of a concrete function, whose variables a module holds."""
    module = module or tf.Module()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    return tf.lite.Interpreter(model_content=converter.convert()).get_signature_runner()

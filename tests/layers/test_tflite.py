import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.layers import aspp, convolution, coordinates, fpn, semantic_fpn


@pytest.mark.slow
def test_layers_convert_with_builtin_operators_only():
    inputs = tf.keras.Input([8, 8, 32], batch_size=1)
    x = convolution.SeparableConvNormAct(32, 5, norm="group", name="separable")(inputs)
    x = coordinates.Coordinates(name="coordinates")(x)
    levels = {"2": x, "3": x[:, ::2, ::2]}
    pyramid = fpn.FPN(32, max_level=3, extra_levels="max_pool", name="fpn")(levels)
    branch = semantic_fpn.SemanticFPN(32, max_level=3, name="semantic_fpn")(pyramid)
    pooled = aspp.ASPP(8, dilation_rates=(2, 4, 6), use_separable_conv=True, name="aspp")(branch)
    windowed = aspp.ASPP(8, pool_size=(4, 4), name="aspp_window")(branch)
    model = tf.keras.Model(inputs, tf.concat([pooled, windowed], axis=-1))

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    interpreter = tf.lite.Interpreter(model_content=converter.convert())
    interpreter.allocate_tensors()
    image = np.random.default_rng(0).normal(size=[1, 8, 8, 32]).astype(np.float32)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    result = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(result, model(image), atol=1e-4)

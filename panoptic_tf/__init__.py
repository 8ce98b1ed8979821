"""panoptic_tf: panoptic segmentation in TensorFlow, from annotations to a served model.

Importing the package is light: TensorFlow starts when something of it is used.
"""

from panoptic_tf import _keras2

__version__ = "0.1.0"
__all__ = ["PanopticResult", "Predictor", "__version__"]

_keras2.use_keras_2()


def __getattr__(name: str):
    if name in ("Predictor", "PanopticResult"):
        from panoptic_tf.serving import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module 'panoptic_tf' has no attribute {name!r}")

"""panoptic_tf: panoptic segmentation in TensorFlow, from annotations to a served model.

Importing the package is light: TensorFlow starts when something of it is used. docs/python.md shows
what `init`, `convert`, `train`, `evaluate`, `export` and `Predictor` do.
"""

import importlib
from typing import TYPE_CHECKING

from panoptic_tf import _keras2

if TYPE_CHECKING:
    from panoptic_tf.api.converting import convert
    from panoptic_tf.api.evaluation import EvaluationResult, evaluate
    from panoptic_tf.api.exporting import export
    from panoptic_tf.api.own_data import InitResult, init
    from panoptic_tf.api.training import TrainResult, train
    from panoptic_tf.serving.predictor import PanopticResult, Predictor

__version__ = "0.1.0"
__all__ = [
    "EvaluationResult",
    "InitResult",
    "PanopticResult",
    "Predictor",
    "TrainResult",
    "__version__",
    "convert",
    "evaluate",
    "export",
    "init",
    "train",
]

_keras2.use_keras_2()

_MODULES = {
    "EvaluationResult": "api.evaluation",
    "InitResult": "api.own_data",
    "PanopticResult": "serving.predictor",
    "Predictor": "serving.predictor",
    "TrainResult": "api.training",
    "convert": "api.converting",
    "evaluate": "api.evaluation",
    "export": "api.exporting",
    "init": "api.own_data",
    "train": "api.training",
}


def __getattr__(name: str):
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'panoptic_tf' has no attribute {name!r}")

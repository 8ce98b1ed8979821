"""Keeps `tf.keras` on the Keras 2 API, which every network here is written for.

TensorFlow 2.16 and later give Keras 3 as `tf.keras` unless `TF_USE_LEGACY_KERAS=1` is set before
`tf.keras` is first touched.
"""

import os
import sys


def use_keras_2() -> None:
    """Selects Keras 2 for this process.

    Raises:
      ImportError: Keras 3 was already loaded as `tf.keras`.
    """
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    tensorflow = sys.modules.get("tensorflow")
    loaded = getattr(tensorflow, "__dict__", {}).get("keras")
    version = getattr(loaded, "__version__", None)
    if isinstance(version, str) and version.startswith("3."):
        raise ImportError(
            f"panoptic_tf needs the Keras 2 API, but tf.keras is Keras {version}: TensorFlow was "
            "imported first. Import panoptic_tf before tensorflow, or set TF_USE_LEGACY_KERAS=1."
        )

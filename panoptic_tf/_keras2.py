"""Keeps `tf.keras` on the Keras 2 API, which every network here is written for.

TensorFlow 2.16 and later give Keras 3 as `tf.keras` unless `TF_USE_LEGACY_KERAS=1` is set before
`tf.keras` is first touched.
"""

import os
import sys
import types


def use_keras_2() -> None:
    """Selects Keras 2 for this process.

    Raises:
      ImportError: Keras 3 was already loaded as `tf.keras`.
    """
    loaded = vars(sys.modules["tensorflow"]).get("keras") if "tensorflow" in sys.modules else None
    if type(loaded) is not types.ModuleType:  # It is loaded lazily, at its first use.
        os.environ["TF_USE_LEGACY_KERAS"] = "1"
        return
    # Keras 2 stays the one that it is: TensorFlow would load the other copy where the variable
    # came later.
    version = getattr(loaded, "__version__", "2")  # That of TensorFlow 2.15 does not say.
    if version.startswith("3."):
        raise ImportError(
            f"panoptic_tf needs the Keras 2 API, but tf.keras is Keras {version}: TensorFlow was "
            "imported first. Import panoptic_tf before tensorflow, or set TF_USE_LEGACY_KERAS=1."
        )

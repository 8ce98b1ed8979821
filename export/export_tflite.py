"""Exports a trained experiment as one .tflite file, post-processing included.

panoptic-tf export-tflite --experiment=panoptic_deeplab_shapes \
    --checkpoint_path=runs/shapes --tflite_path=runs/shapes/model_float32.tflite

prints the path.
"""

from __future__ import annotations

from absl import app, flags

from panoptic_tf.export import common
from panoptic_tf.serving import tflite

common.define_flags()
_TFLITE_PATH = flags.DEFINE_string("tflite_path", None, "File to write.", required=True)
_QUANTIZATION = flags.DEFINE_enum(
    "quantization",
    "none",
    tflite.QUANTIZATIONS,
    "none: float32. float16: weights stored in half. dynamic: weights in 8 bits.",
)


def main(argv) -> None:
    """Runs the binary."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    network, arguments = common.load_network()
    path = tflite.export_tflite(
        network, tflite_path=_TFLITE_PATH.value, quantization=_QUANTIZATION.value, **arguments
    )
    print(path)


if __name__ == "__main__":
    app.run(main)

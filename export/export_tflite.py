"""Exports a trained experiment as one .tflite file, post-processing included.

panoptic-tf export-tflite --checkpoint_path=runs/shapes --tflite_path=model_float32.tflite

prints the path.

int8 needs the training records, of which it takes the first images to calibrate with:

panoptic-tf export-tflite --checkpoint_path=runs/shapes --tflite_path=model_int8.tflite \\
    --quantization=int8 --calibration_path='data/train-*'

--quantization_report=layers.csv lists the error of every layer that it quantised.

--with_runner writes panoptic_tf_lite.py beside the file, which runs it without TensorFlow.
--part=network is the network without post-processing, --part=semantic its semantic logits alone,
with the metadata that MediaPipe reads.
"""

from __future__ import annotations

from absl import app, flags

from panoptic_tf.experiments import cli
from panoptic_tf.export import common

_TFLITE_PATH = flags.DEFINE_string("tflite_path", None, "File to write.", required=True)
_QUANTIZATION = flags.DEFINE_enum(
    "quantization",
    "none",
    ["none", "float16", "dynamic", "int8"],
    "none: float32. float16: weights stored in half. dynamic: weights in 8 bits. int8: weights and "
    "activations of the network in 8 bits; its heads' last layers and the post-processing float32.",
)
_CALIBRATION_PATH = flags.DEFINE_string(
    "calibration_path", None, "Pattern of training records; int8 needs it."
)
_NUM_CALIBRATION_IMAGES = flags.DEFINE_integer(
    "num_calibration_images", 200, "Images that int8 is calibrated with."
)
_FLOAT_LAYERS = flags.DEFINE_string(
    "float_layers",
    None,
    "Regular expression; layers in whose name it is found stay float32 in an int8 file; default "
    "the last layers of the system's heads.",
)
_REPORT = flags.DEFINE_string(
    "quantization_report", None, "CSV file for the error of each int8 layer, the worst first."
)
_PART = common.define_part()
_WITH_RUNNER = flags.DEFINE_bool(
    "with_runner",
    False,
    "Write panoptic_tf_lite.py beside the file, the module that runs it without TensorFlow.",
)
common.define_flags()


def main(argv) -> None:
    """Runs the binary."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    from panoptic_tf.api import exporting

    path = exporting.export_tflite(
        tflite_path=_TFLITE_PATH.value,
        quantization=_QUANTIZATION.value,
        part=_PART.value,
        with_runner=_WITH_RUNNER.value,
        calibration_path=_CALIBRATION_PATH.value,
        num_calibration_images=_NUM_CALIBRATION_IMAGES.value,
        float_layers=_FLOAT_LAYERS.value,
        quantization_report=_REPORT.value,
        **common.options(),
    )
    print(path)


if __name__ == "__main__":
    cli.run_script(__file__, main)

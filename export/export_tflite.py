"""Exports a trained experiment as one .tflite file, post-processing included.

panoptic-tf export-tflite --experiment=panoptic_deeplab_shapes \
    --checkpoint_path=runs/shapes --tflite_path=runs/shapes/model_float32.tflite

prints the path.

int8 needs the training records, of which it takes the first images to calibrate with:

panoptic-tf export-tflite --experiment=panoptic_deeplab_shapes --quantization=int8 \
    --calibration_path='data/train-*' --checkpoint_path=runs/shapes --tflite_path=model_int8.tflite

--quantization_report=layers.csv lists the error of every layer that it quantised.
"""

from __future__ import annotations

import re
from typing import Any, Dict, Optional

from absl import app, flags

from panoptic_tf.experiments import cli
from panoptic_tf.experiments.outputs import check_can_write
from panoptic_tf.export import common
from panoptic_tf.inputs.shards import find_shards
from panoptic_tf.serving import calibration, quantization, tflite
from panoptic_tf.systems.task import PanopticTask

common.define_flags()
_TFLITE_PATH = flags.DEFINE_string("tflite_path", None, "File to write.", required=True)
_QUANTIZATION = flags.DEFINE_enum(
    "quantization",
    "none",
    tflite.QUANTIZATIONS,
    "none: float32. float16: weights stored in half. dynamic: weights in 8 bits. int8: weights and "
    "activations of the network in 8 bits; its heads' last layers and the post-processing float32.",
)
_CALIBRATION_PATH = flags.DEFINE_string(
    "calibration_path", None, "Pattern of training records; int8 needs it."
)
_NUM_CALIBRATION_IMAGES = flags.DEFINE_integer(
    "num_calibration_images", calibration.NUM_IMAGES, "Images that int8 is calibrated with."
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


def main(argv) -> None:
    """Runs the binary."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    _check_flags()
    check_can_write("tflite_path", _TFLITE_PATH.value)
    if _REPORT.value:
        check_can_write("quantization_report", _REPORT.value)
    network, task, arguments = common.load_network()
    path = tflite.export_tflite(
        network,
        tflite_path=_TFLITE_PATH.value,
        quantization=_QUANTIZATION.value,
        int8_options=_int8_options(task, arguments),
        **arguments,
    )
    print(path)


def _check_flags() -> None:
    """Before the network is loaded, which takes a while.

    Raises:
      UsageError: int8 without records, records without int8, or no regular expression.
      ValueError: no file of records.
    """
    is_int8 = _QUANTIZATION.value == "int8"
    if is_int8 and not _CALIBRATION_PATH.value:
        raise app.UsageError(
            "--quantization=int8 needs --calibration_path, the pattern of the training records."
        )
    if is_int8:
        find_shards(_CALIBRATION_PATH.value, name="calibration_path", allow_partial=True)
    try:
        re.compile(_FLOAT_LAYERS.value or "")
    except re.error as error:
        raise app.UsageError(f"--float_layers={_FLOAT_LAYERS.value}: {error}.") from error
    for flag in (_CALIBRATION_PATH, _REPORT):
        if flag.value and not is_int8:
            raise app.UsageError(f"--{flag.name} needs --quantization=int8.")


def _int8_options(task: PanopticTask, arguments: Dict[str, Any]) -> Optional[quantization.Options]:
    if _QUANTIZATION.value != "int8":
        return None
    read_inputs = calibration.read_inputs(
        _CALIBRATION_PATH.value,
        dataset_info=arguments["dataset_info"],
        input_size=arguments["input_size"],
        num_images=_NUM_CALIBRATION_IMAGES.value,
    )
    float_layers = _FLOAT_LAYERS.value
    if float_layers is None:
        float_layers = quantization.pattern_of(task.float_layers())
    return quantization.Options(read_inputs, float_layers, _REPORT.value)


if __name__ == "__main__":
    cli.run_script(__file__, main)

"""Exports a trained experiment as a SavedModel for TensorFlow Serving and `Predictor`.

panoptic-tf export-saved-model --experiment=panoptic_deeplab_shapes \
    --checkpoint_path=runs/shapes --export_dir=runs/shapes/saved_model

writes <export_dir>/<version>/ and prints its path.
"""

from __future__ import annotations

import os
from typing import List

from absl import app, flags

from panoptic_tf.experiments import cli, limits
from panoptic_tf.experiments.outputs import check_can_write
from panoptic_tf.export import common
from panoptic_tf.ops import forms
from panoptic_tf.serving import export

common.define_flags()
_EXPORT_DIR = flags.DEFINE_string("export_dir", None, "Folder of the versions.", required=True)
_VERSION = flags.DEFINE_integer(
    "version", None, "Name of the version's folder; default the next free one.", lower_bound=0
)
_INPUT_TYPE = flags.DEFINE_enum(
    "input_type", "image_bytes", export.INPUT_TYPES, "The signature that serving_default is."
)
_MAX_PIXELS = limits.define_max_pixels("larger ones are returned as not valid, undecoded")
_WARMUP_BATCH_SIZES = flags.DEFINE_list(
    "warmup_batch_sizes", ["1"], "One warm-up request each; list the server's allowed batch sizes."
)
_TARGET = flags.DEFINE_enum(
    "target",
    forms.Form.CPU.value,
    [forms.Form.CPU.value, forms.Form.ACCELERATOR.value],
    "What it will be served on; the results are the same, the speed is not.",
)


def main(argv) -> None:
    """Runs the binary."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    version = "" if _VERSION.value is None else str(_VERSION.value)
    check_can_write("export_dir", os.path.join(_EXPORT_DIR.value, version, "saved_model.pb"))
    batch_sizes = _batch_sizes()
    network, _, arguments = common.load_network()
    path = export.export_saved_model(
        network,
        export_dir=_EXPORT_DIR.value,
        version=_VERSION.value,
        input_type=_INPUT_TYPE.value,
        max_pixels=_MAX_PIXELS.value,
        warmup_batch_sizes=batch_sizes,
        form=forms.Form(_TARGET.value),
        **arguments,
    )
    print(path)


def _batch_sizes() -> List[int]:
    sizes = _WARMUP_BATCH_SIZES.value
    if not all(size.strip().isdecimal() and int(size) for size in sizes):
        raise app.UsageError(
            f"--warmup_batch_sizes must be whole numbers above 0, got {','.join(sizes)!r}."
        )
    return [int(size) for size in sizes]


if __name__ == "__main__":
    cli.run_script(__file__, main)

"""Exports a trained experiment as a SavedModel for TensorFlow Serving and `Predictor`.

panoptic-tf export-saved-model --checkpoint_path=runs/shapes --export_dir=runs/shapes/saved_model

writes <export_dir>/<version>/ and prints its path.
"""

from __future__ import annotations

from typing import List

from absl import app, flags

from panoptic_tf.experiments import cli, limits
from panoptic_tf.export import common

_EXPORT_DIR = flags.DEFINE_string("export_dir", None, "Folder of the versions.", required=True)
_VERSION = flags.DEFINE_integer(
    "version", None, "Name of the version's folder; default the next free one.", lower_bound=0
)
_INPUT_TYPE = flags.DEFINE_enum(
    "input_type",
    "image_bytes",
    ["image_bytes", "image_tensor", "panoptic_png"],
    "The signature that serving_default is.",
)
_MAX_PIXELS = limits.define_max_pixels("larger ones are returned as not valid, undecoded")
_MAX_PNG_PIXELS = flags.DEFINE_integer(
    "max_png_pixels",
    25_000_000,  # serving.decoding.MAX_PNG_PIXELS, without its imports
    "The same of the signature panoptic_png, which also encodes as many pixels; the lower of the "
    "two counts.",
    lower_bound=1,
)
_WARMUP_BATCH_SIZES = flags.DEFINE_list(
    "warmup_batch_sizes", ["1"], "One warm-up request each; list the server's allowed batch sizes."
)
_TARGET = flags.DEFINE_enum(
    "target",
    "cpu",
    ["cpu", "accelerator"],
    "What it will be served on; the results are the same, the speed is not.",
)
_PRECISION = flags.DEFINE_enum(
    "precision",
    "float32",
    ["float32", "bfloat16"],
    "What the network computes in. bfloat16 is faster on CPUs with its matrix products (amx_bf16, "
    "avx512_bf16 in lscpu) and slower on others; post-processing and outputs are float32.",
)
common.define_flags()


def main(argv) -> None:
    """Runs the binary."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    batch_sizes = _batch_sizes()
    from panoptic_tf.api import exporting

    path = exporting.export_saved_model(
        export_dir=_EXPORT_DIR.value,
        version=_VERSION.value,
        input_type=_INPUT_TYPE.value,
        max_pixels=_MAX_PIXELS.value,
        max_png_pixels=_MAX_PNG_PIXELS.value,
        warmup_batch_sizes=batch_sizes,
        target=_TARGET.value,
        precision=_PRECISION.value,
        **common.options(),
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

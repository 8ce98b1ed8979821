"""Exports a trained experiment as one .onnx file, post-processing included.

panoptic-tf export-onnx --checkpoint_path=runs/shapes --onnx_path=model.onnx

prints the path. Before the file is written, ONNX Runtime runs it beside the network on drawn
images, and the two must agree. --part=network is the network without post-processing,
--part=semantic its semantic logits alone. It needs `pip install 'panoptic-tf[onnx]'`.
"""

from __future__ import annotations

from absl import app, flags

from panoptic_tf.experiments import cli
from panoptic_tf.export import common

_ONNX_PATH = flags.DEFINE_string("onnx_path", None, "File to write.", required=True)
_PART = common.define_part()
common.define_flags()


def main(argv) -> None:
    """Runs the binary."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    from panoptic_tf.api import exporting

    print(exporting.export_onnx(onnx_path=_ONNX_PATH.value, part=_PART.value, **common.options()))


if __name__ == "__main__":
    cli.run_script(__file__, main)

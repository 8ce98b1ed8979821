"""Counts parameters, multiply-adds and activations of an experiment's network, part by part.

panoptic-tf analyze --experiment=panoptic_deeplab_resnet52_coco --input_image_size=800,1333

Nothing is trained, loaded or executed. What is counted is printed below the table.
"""

from __future__ import annotations

from typing import Any, Dict, Optional, Tuple

from absl import app, flags

from panoptic_tf.datasets import files
from panoptic_tf.experiments import cli, common, outputs

common.define_experiment_flags(folder="Folder of a run, whose params.yaml is read.")
_INPUT_IMAGE_SIZE = flags.DEFINE_list(
    "input_image_size",
    None,
    "height,width of the image; default is the experiment's input_size. The network's input is the "
    "image padded to multiples of --size_divisor.",
)
_SIZE_DIVISOR = flags.DEFINE_integer(
    "size_divisor", 32, "See --input_image_size; 1 takes the size as it is.", lower_bound=1
)
_OUTPUT_JSON = flags.DEFINE_string("output_json", None, "Where to write the counts; optional.")
common.define_device_flags()


def main(argv) -> None:
    """Runs the binary."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    if _OUTPUT_JSON.value:
        outputs.check_can_write("output_json", _OUTPUT_JSON.value)
    report = _analyze()
    if _OUTPUT_JSON.value:
        files.write_json(_OUTPUT_JSON.value, report)
    print(_format(report))


def _analyze() -> Dict[str, Any]:
    from panoptic_tf.api import settings
    from panoptic_tf.evaluation import analysis

    found = settings.configure(saved_dir=flags.FLAGS.model_dir, **common.experiment_options())
    image_size = common.parse_size(_INPUT_IMAGE_SIZE.value)
    result = analysis.analyze(found.params, _padded(image_size))
    return {
        "experiment": found.experiment,
        "image_size": list(image_size or result.input_size),
        **result.as_dict(),
    }


def _padded(size: Optional[Tuple[int, int]]) -> Optional[Tuple[int, int]]:
    if size is None:
        return None
    divisor = _SIZE_DIVISOR.value
    height, width = (-(-side // divisor) * divisor for side in size)
    return height, width


def _format(report: Dict[str, Any]) -> str:
    rows = {**report["parts"], "total": report["total"], "postprocessor": report["postprocessor"]}
    width = max(len(name) for name in rows)
    lines = [
        "{}, image {}x{}, network input {}x{}".format(
            report["experiment"], *report["image_size"], *report["input_size"]
        ),
        "",
        f"{'':{width}}   parameters    buffers  multiply-adds  activations",
    ]
    for name, cost in rows.items():
        lines.append(
            f"{name:{width}} {cost['parameters']:12,} {cost['buffers']:10,} "
            f"{cost['multiply_adds'] / 1e9:12.3f} G {cost['activations'] / 1e6:10.3f} M"
        )
    lines += [f"not counted: {message}" for message in report["not_counted"]]
    return "\n".join([*lines, "", report["counting_rule"]])


if __name__ == "__main__":
    cli.run_script(__file__, main)

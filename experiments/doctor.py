"""Examines a data set: what is in it, what is wrong with it.

panoptic-tf doctor --input_path='data/coco/train-*'
panoptic-tf doctor --panoptic_json=... --panoptic_dir=... --image_dir=... [--instances_json=...]
panoptic-tf doctor --format=yolo --source=data.yaml    or any other format of `convert`

Prints a table, and ends with status 1 if there are problems.
"""

import os
from typing import List

from absl import app, flags

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from panoptic_tf.datasets import doctor, files, importers, source_doctor  # noqa: E402
from panoptic_tf.experiments import cli, formats, limits  # noqa: E402
from panoptic_tf.metrics import coverage  # noqa: E402
from panoptic_tf.metrics.panoptic_quality import PanopticQuality  # noqa: E402

_INPUT_PATH = flags.DEFINE_string("input_path", None, "Glob of the shards that `convert` wrote.")
_FORMAT = formats.define_flags(None)
_SPLIT = flags.DEFINE_string(
    "split", None, "Split of formats that have their own; default what they call train."
)
_MAX_PIXELS = limits.define_max_pixels("larger ones are a problem and not decoded")
_OUTPUT_JSON = flags.DEFINE_string("output_json", None, "Where to write the report; optional.")
_MAX_PROBLEMS = flags.DEFINE_integer("max_problems", 50, "Problems that are printed.")


def main(argv):
    """Examines what the flags name."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}.")
    report = _examine()
    report["notes"] += _warnings(report)
    if _OUTPUT_JSON.value:
        files.write_json(_OUTPUT_JSON.value, report)
    print(_format(report))
    if report["problems"]:
        raise SystemExit(1)


def _examine():
    options = formats.options()
    common = {"max_pixels": _MAX_PIXELS.value, "build_quality": PanopticQuality}
    panoptic_json = options["panoptic_json"]
    kinds = [_INPUT_PATH.value, panoptic_json, _FORMAT.value not in (None, "coco_panoptic")]
    if sum(map(bool, kinds)) != 1:
        raise app.UsageError("Give one of --input_path, --panoptic_json and --format=... .")
    if _INPUT_PATH.value:
        if options["instances_json"]:
            raise app.UsageError("--instances_json goes with --panoptic_json; records hold theirs.")
        return doctor.examine_records(input_path=_INPUT_PATH.value, **common)
    if panoptic_json:
        return doctor.examine_coco_panoptic(
            panoptic_json=panoptic_json,
            panoptic_dir=options["panoptic_dir"] or os.path.splitext(panoptic_json)[0],
            image_dir=options["image_dir"],
            instances_json=options["instances_json"],
            **common,
        )
    source = importers.read(
        _FORMAT.value, split=_SPLIT.value, max_pixels=_MAX_PIXELS.value, **options
    )
    return source_doctor.examine_source(source, build_quality=PanopticQuality)


def _warnings(report) -> List[str]:
    things = sum(c["pixel_share"] for c in report["per_category"] if c["is_thing"])
    shares = {"void_share": report["void_share"], "true_thing_share": things}
    return coverage.warnings_of(shares)


def _describe_instances(report) -> List[str]:
    if not report["images_with_instances"]:
        return []
    return [f"instances {report['num_instances']} that may overlap"]


def _format(report) -> str:
    width = max([len(c["name"]) for c in report["per_category"]] + [8])
    lines = [f"{'category':{width}} kind    images  segments  crowds   pixels"]
    for category in report["per_category"]:
        if category["segments"]:
            lines.append(
                f"{category['name']:{width}} {'thing' if category['is_thing'] else 'stuff'} "
                f"{category['images']:8} {category['segments']:9} {category['crowds']:7} "
                f"{category['pixel_share']:8.2%}"
            )
    quality = report["ground_truth_PQ"]
    lines += [
        "",
        f"images    {report['num_images']}",
        f"segments  {report['num_segments']}, crowds {report['num_crowds']}",
        *_describe_instances(report),
        f"void      {report['void_share']:.2%} of the pixels, crowd {report['crowd_share']:.2%}",
        f"PQ of the ground truth against itself  {'-' if quality is None else f'{quality:.2f}'}",
    ]
    lines += [f"note: {note}" for note in report["notes"]]
    problems, shown = report["problems"], _MAX_PROBLEMS.value
    lines += [f"problem: {problem}" for problem in problems[:shown]]
    if len(problems) > shown:
        lines.append(f"... and {len(problems) - shown} more; --output_json has them all.")
    return "\n".join(lines + ["", f"{len(problems)} problems"])


if __name__ == "__main__":
    cli.run_script(__file__, main)

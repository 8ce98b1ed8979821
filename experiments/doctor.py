"""Examines a data set: what is in it, what is wrong with it; mends what has one right answer.

panoptic-tf doctor --input_path='data/coco/train-*'
panoptic-tf doctor --panoptic_json=... --panoptic_dir=... --image_dir=... [--instances_json=...]
panoptic-tf doctor --format=yolo --source=data.yaml    or any other format of `convert`
panoptic-tf doctor --panoptic_json=... --panoptic_dir=... --image_dir=... --fix_to=mended

Prints a table, and ends with status 1 if there are problems.
"""

import os
import shlex
from typing import Any, Dict, List

from absl import app, flags

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from panoptic_tf.datasets import files  # noqa: E402
from panoptic_tf.experiments import cli, examining, formats, outputs  # noqa: E402
from panoptic_tf.metrics import coverage  # noqa: E402

examining.define_flags()
_OUTPUT_JSON = flags.DEFINE_string("output_json", None, "Where to write the report; optional.")
_OUTPUT_HTML = flags.DEFINE_string(
    "output_html", None, "Where to write the page of `inspect`; optional."
)
_FIX_TO = flags.DEFINE_string(
    "fix_to",
    None,
    "Folder, empty or new, for a corrected copy of annotations in COCO panoptic or COCO instances "
    "format; the copy is then examined.",
)
_MAX_PROBLEMS = flags.DEFINE_integer("max_problems", 50, "Problems that are printed.")


def main(argv):
    """Examines what the flags name."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}.")
    from panoptic_tf.evaluation.data_page import DataPage

    examining.check_flags()
    for flag in (_OUTPUT_JSON, _OUTPUT_HTML):
        if flag.value:
            outputs.check_can_write(flag.name, flag.value)
    page = DataPage() if _OUTPUT_HTML.value else None
    mended = _mend() if _FIX_TO.value else {}
    report = examining.examine(page.add if page else None, **mended)
    report["notes"] += coverage.warnings_of_data(report)
    print(_format(report))
    if _OUTPUT_JSON.value:
        files.write_json(_OUTPUT_JSON.value, report)
    if page:
        title, command = examining.title(), examining.command()
        page.save(_OUTPUT_HTML.value, report, title=title, command=command)
    if report["problems"]:
        raise SystemExit(1)


def _mend() -> Dict[str, Any]:
    """Writes the mended copy, prints what was changed; returns the flags that name the copy."""
    from panoptic_tf.datasets import images, mending_instances, mending_panoptic

    images.decode_on_cpu()
    options = formats.options()
    folder = os.path.abspath(_FIX_TO.value)
    key = "source" if flags.FLAGS.format == "coco_instances" else "panoptic_json"
    if not options[key] or flags.FLAGS.input_path:
        raise app.UsageError(
            "--fix_to corrects --panoptic_json or --format=coco_instances --source."
        )
    name = os.path.basename(options[key])
    mended = {key: os.path.join(folder, name)}
    if key == "source":
        if not options["image_dir"]:
            raise app.UsageError("--fix_to of COCO instances needs --image_dir.")
        changes = mending_instances.mend_coco_instances(
            options[key],
            folder,
            image_dir=options["image_dir"],
            max_pixels=flags.FLAGS.max_pixels,
        )
    else:
        changes = mending_panoptic.mend_coco_panoptic(
            options[key],
            folder,
            panoptic_dir=examining.panoptic_dir(options),
            image_dir=options["image_dir"],
            max_pixels=flags.FLAGS.max_pixels,
        )
        mended["panoptic_dir"] = os.path.splitext(mended[key])[0]
    shown = _MAX_PROBLEMS.value
    for change in changes[:shown]:
        print(f"mended: {change}")
    if len(changes) > shown:
        print(f"... and {len(changes) - shown} more; changes.json has them all.")
    named = shlex.join(f"--{flag}={value}" for flag, value in mended.items())
    print(f"{len(changes)} changes; the copy is {named}\n")
    return mended


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

"""The flags that say which data set is examined, for the commands that examine one.

What imports TensorFlow is imported where it is used, so that `--help` is quick.
"""

from __future__ import annotations

import os
import shlex
import sys
from typing import TYPE_CHECKING, Any, Dict, Optional

from absl import app, flags

from panoptic_tf.experiments import formats, limits

if TYPE_CHECKING:
    from panoptic_tf.datasets.examination import Look


def define_flags() -> None:
    """Defines --input_path, --format with what formats take, --split and --max_pixels."""
    flags.DEFINE_string("input_path", None, "Glob of the shards that `convert` wrote.")
    formats.define_flags(None)
    flags.DEFINE_string(
        "split", None, "Split of formats that have their own; default what they call train."
    )
    limits.define_max_pixels("larger ones are a problem and not decoded")


def check_flags() -> None:
    """Checks that the flags name one data set.

    Raises:
      app.UsageError: they name none, or more than one.
    """
    options = formats.options()
    is_other = flags.FLAGS.format not in (None, "coco_panoptic")
    if sum(map(bool, (flags.FLAGS.input_path, options["panoptic_json"], is_other))) != 1:
        raise app.UsageError("Give one of --input_path, --panoptic_json and --format=... .")
    if flags.FLAGS.input_path and options["instances_json"]:
        raise app.UsageError("--instances_json goes with --panoptic_json; records hold theirs.")


def examine(look: Optional[Look] = None, **changes: Any) -> Dict[str, Any]:
    """Examines the data set that the flags name, see `doctor`, without the GPUs.

    Args:
      look: see `examination.Examination`.
      **changes: values that stand for those of the formats' flags.

    Raises:
      app.UsageError: the flags name none, or more than one.
    """
    from panoptic_tf.datasets import doctor, images, importers, source_doctor
    from panoptic_tf.datasets.importers import photographs
    from panoptic_tf.metrics.panoptic_quality import PanopticQuality

    check_flags()
    images.decode_on_cpu()
    input_path = flags.FLAGS.input_path
    options = {**formats.options(), **changes}
    common = {"build_quality": PanopticQuality, "look": look}
    max_pixels = flags.FLAGS.max_pixels
    if input_path:
        return doctor.examine_records(input_path=input_path, max_pixels=max_pixels, **common)
    if options["panoptic_json"]:
        return doctor.examine_coco_panoptic(
            panoptic_json=options["panoptic_json"],
            panoptic_dir=panoptic_dir(options),
            image_dir=options["image_dir"],
            instances_json=options["instances_json"],
            exif=options["exif"] or photographs.AUTO,
            max_pixels=max_pixels,
            **common,
        )
    source = importers.read(
        flags.FLAGS.format, split=flags.FLAGS.split, max_pixels=max_pixels, **options
    )
    return source_doctor.examine_source(source, **common)


def panoptic_dir(options: Dict[str, Any]) -> str:
    """Folder of the id PNGs: as it is given, or beside the JSON file."""
    return options["panoptic_dir"] or os.path.splitext(options["panoptic_json"])[0]


def command() -> str:
    """What was typed, quoted where a shell needs it."""
    name, *arguments = sys.argv  # The name is that of the command: panoptic-tf inspect.
    return f"{name} {shlex.join(arguments)}"


def title() -> str:
    """What to call the data set on a page."""
    options = formats.options()
    path = flags.FLAGS.input_path or options["panoptic_json"] or options["source"] or "data"
    return os.path.basename(os.path.normpath(path)) or path

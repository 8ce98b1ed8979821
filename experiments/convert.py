"""Converts an annotated data set to TFRecord shards.

panoptic-tf convert --format=coco_panoptic --image_dir=val2017 \\
  --panoptic_json=annotations/panoptic_val2017.json --panoptic_dir=annotations/panoptic_val2017 \\
  --output_dir=data/coco --split=val [--instances_json=annotations/instances_val2017.json]

An interrupted conversion is resumed by the same command. docs/data.md describes the formats, which
flags each of them takes, and what is written.
"""

import os

from absl import app, flags

# Every worker process imports TensorFlow; its start-up messages would break the progress bar.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from panoptic_tf.datasets import unlabelled  # noqa: E402
from panoptic_tf.experiments import cli, formats, limits, runners  # noqa: E402

_FORMAT = formats.define_flags("coco_panoptic")
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Folder to write to.", required=True)
_SPLIT = flags.DEFINE_string(
    "split",
    "train",
    "Beginning of the shards' names; or names and shares, by a hash of the images' ids: "
    "train:0.8,val:0.2.",
)
_SPLIT_GROUP = flags.DEFINE_string(
    "split_group",
    None,
    "Regular expression whose first group, found in an image's file name, names what the shares of "
    "--split do not divide: a scene, a patient.",
)
_NUM_SHARDS = flags.DEFINE_integer(
    "num_shards", None, "Number of shards; default one per 512 images.", lower_bound=1
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "Worker processes; default one per CPU.", lower_bound=1
)
_MAX_PIXELS = limits.define_max_pixels("a larger one ends the conversion")
_UNLABELLED = flags.DEFINE_enum(
    "unlabelled",
    "auto",
    list(unlabelled.POLICIES),
    "Unlabelled pixels: void, or a stuff category background; auto: background where no category "
    "is stuff; skip: as auto, and images without any label are left out.",
)
_MAP = flags.DEFINE_string(
    "map",
    None,
    "YAML file of other categories: merged, renamed, dropped, things or stuff; see docs/data.md.",
)
_OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Replace a finished conversion of other annotations."
)
runners.define_flags()


def main(argv):
    """Converts what the flags name."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}.")
    from panoptic_tf.api import converting
    from panoptic_tf.datasets import images

    images.decode_on_cpu()
    manifests = converting.convert(
        _FORMAT.value,
        _OUTPUT_DIR.value,
        split=_SPLIT.value,
        split_group=_SPLIT_GROUP.value,
        num_shards=_NUM_SHARDS.value,
        num_processes=_NUM_PROCESSES.value,
        overwrite=_OVERWRITE.value,
        unlabelled_policy=_UNLABELLED.value,
        map=_MAP.value,
        beam_options=runners.beam_options(),
        max_pixels=_MAX_PIXELS.value,
        **formats.options(),
    )
    for manifest in manifests:
        num_records = sum(shard.num_records for shard in manifest.shards)
        shards = os.path.join(_OUTPUT_DIR.value, f"{manifest.split}-*")
        num_instances = manifest.source.get("num_instances")
        instances = "" if num_instances is None else f" and {num_instances} overlapping instances"
        print(f"{num_records} images{instances} in {len(manifest.shards)} shards: {shards}")
        if manifest.source.get("num_skipped"):
            print(f"{manifest.source['num_skipped']} images without any label are left out")


if __name__ == "__main__":
    cli.run_script(__file__, main)

"""Converts an annotated data set to TFRecord shards.

panoptic-tf convert --format=coco_panoptic --image_dir=val2017 \
  --panoptic_json=annotations/panoptic_val2017.json --panoptic_dir=annotations/panoptic_val2017 \
  --output_dir=data/coco --split=val [--instances_json=annotations/instances_val2017.json]

An interrupted conversion is resumed by the same command. docs/data.md describes what is read and
written.
"""

import os

from absl import app, flags

# Every worker process imports TensorFlow; its start-up messages would break the progress bar.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from panoptic_tf.datasets import converter, images, unlabelled  # noqa: E402
from panoptic_tf.experiments import cli, limits  # noqa: E402

_FORMAT = flags.DEFINE_enum(
    "format", "coco_panoptic", ["coco_panoptic"], "Format of the annotations; Cityscapes as well."
)
_IMAGE_DIR = flags.DEFINE_string("image_dir", None, "Folder of the images.", required=True)
_PANOPTIC_JSON = flags.DEFINE_string("panoptic_json", None, "Annotations.", required=True)
_PANOPTIC_DIR = flags.DEFINE_string(
    "panoptic_dir", None, "Folder of the id PNGs; default the JSON file's path without .json."
)
_INSTANCES_JSON = flags.DEFINE_string(
    "instances_json", None, "COCO instances of the same images, which may overlap; optional."
)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Folder to write to.", required=True)
_NAME = flags.DEFINE_string("name", None, "Name of the data set; default the JSON file's.")
_SPLIT = flags.DEFINE_string("split", "train", "Beginning of the shards' names.")
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
    "is stuff.",
)
_OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Replace a finished conversion of other annotations."
)


def main(argv):
    """Converts what the flags name."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}.")
    images.decode_on_cpu()
    manifest = converter.convert_coco_panoptic(
        panoptic_json=_PANOPTIC_JSON.value,
        panoptic_dir=_PANOPTIC_DIR.value or os.path.splitext(_PANOPTIC_JSON.value)[0],
        image_dir=_IMAGE_DIR.value,
        output_dir=_OUTPUT_DIR.value,
        instances_json=_INSTANCES_JSON.value,
        name=_NAME.value,
        split=_SPLIT.value,
        num_shards=_NUM_SHARDS.value,
        num_processes=_NUM_PROCESSES.value,
        overwrite=_OVERWRITE.value,
        unlabelled_policy=_UNLABELLED.value,
        max_pixels=_MAX_PIXELS.value,
    )
    num_records = sum(shard.num_records for shard in manifest.shards)
    shards = os.path.join(_OUTPUT_DIR.value, f"{manifest.split}-*")
    num_instances = manifest.source.get("num_instances")
    instances = "" if num_instances is None else f" and {num_instances} overlapping instances"
    print(f"{num_records} images{instances} in {len(manifest.shards)} shards: {shards}")


if __name__ == "__main__":
    cli.run_script(__file__, main)

"""Writes the embedded synthetic data set, shapes, in COCO panoptic format.

python experiments/shapes.py --output_dir=data/shapes

writes 8,000 training and 200 validation images of 128x128 pixels. What they hold is described in
panoptic_tf/datasets/shapes.py. A complete split is not written again.
"""

import os

from absl import app, flags

from panoptic_tf.datasets import shapes, shapes_writer
from panoptic_tf.experiments import cli

_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Folder for train/ and val/.", required=True)
_SPLIT = flags.DEFINE_enum("split", "both", ["train", "val", "both"], "What to write.")
_SEED = flags.DEFINE_integer("seed", None, "Seed; default 0 for train and 1 for val.")
_NUM_IMAGES = flags.DEFINE_integer(
    "num_images", None, "Images per split; default 8000 for train and 200 for val."
)
_SIZE = flags.DEFINE_integer(
    "size", shapes.SIZE, "Height and width; the sizes of all things scale with it."
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", os.cpu_count(), "Processes that generate images."
)


def main(argv):
    """Writes the splits that the flags name."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}.")
    if _SPLIT.value == "both" and _SEED.value is not None:
        raise app.UsageError(
            "--seed needs --split=train or --split=val: two splits of one seed "
            "would hold the same images."
        )
    for split, (seed, num_images) in shapes_writer.SPLITS.items():
        if _SPLIT.value in (split, "both"):
            path = shapes_writer.write_split(
                os.path.join(_OUTPUT_DIR.value, split),
                seed=seed if _SEED.value is None else _SEED.value,
                num_images=num_images if _NUM_IMAGES.value is None else _NUM_IMAGES.value,
                size=_SIZE.value,
                num_processes=_NUM_PROCESSES.value,
            )
            print(path)


if __name__ == "__main__":
    cli.run_script(__file__, main)

"""Writes a page of a data set: counts, sizes, what is rare, and images worth a look.

panoptic-tf inspect --input_path='data/coco/train-*' --output_dir=runs/look
panoptic-tf inspect --format=yolo --source=data.yaml --output_dir=runs/look
panoptic-tf inspect --panoptic_json=... --panoptic_dir=... --image_dir=... --output_dir=...

Any format of `convert` is read as it is. Problems, which `doctor` lists too, are on the page.
"""

import os

from absl import app, flags

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from panoptic_tf.datasets import files  # noqa: E402
from panoptic_tf.experiments import cli, examining, outputs  # noqa: E402

examining.define_flags()
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Folder of the page, index.html, and its numbers, data.json.", required=True
)
_NUM_IMAGES = flags.DEFINE_integer(
    "num_images",
    24,
    "Number of suspicious images on the page, and of images in its random sample.",
    lower_bound=0,
)
_TILE_SIZE = flags.DEFINE_integer(
    "tile_size", 384, "Longer side of a picture, pixels.", lower_bound=16
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the random sample.")
flags.DEFINE_integer(
    "tiny_area", None, "Segments with fewer pixels are suspicious; default 16.", lower_bound=0
)
flags.DEFINE_float(
    "void_share", None, "Images with a larger share of void are suspicious; default 0.5.", 0, 1
)
flags.DEFINE_float(
    "overlap",
    None,
    "Instances of one category with a larger IoU are suspicious; default 0.8.",
    0,
    1,
)
_THRESHOLDS = ("tiny_area", "void_share", "overlap")


def main(argv):
    """Reads the data set that the flags name and writes its page."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}.")
    from panoptic_tf.datasets.suspicions import Thresholds
    from panoptic_tf.evaluation.data_page import DataPage

    examining.check_flags()
    outputs.make_output_dir(_OUTPUT_DIR.value)
    given = {name: flags.FLAGS[name].value for name in _THRESHOLDS}
    page = DataPage(
        num_images=_NUM_IMAGES.value,
        tile_size=_TILE_SIZE.value,
        seed=_SEED.value,
        thresholds=Thresholds(**{k: v for k, v in given.items() if v is not None}),
    )
    report = examining.examine(page.add)
    files.write_json(os.path.join(_OUTPUT_DIR.value, "data.json"), report)
    path = os.path.join(_OUTPUT_DIR.value, "index.html")
    page.save(path, report, title=examining.title(), command=examining.command())
    print(
        f"{report['num_images']} images, {page.num_suspicious} worth a look, "
        f"{len(report['problems'])} problems: {path}"
    )


if __name__ == "__main__":
    cli.run_script(__file__, main)

"""From annotations to a training: recognises them, converts, examines, and writes train.yaml.

panoptic-tf init --source=exported --output_dir=mydata
panoptic-tf train --config_file=mydata/train.yaml
panoptic-tf report --model_dir=mydata/run

--source is the file or folder that an annotation tool exported; docs/data.md lists the formats.
Where several or none are recognised, --format and the format's own flags select one. Started
again it continues where it stopped; an edited train.yaml is kept.
"""

import os

from absl import app, flags

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from panoptic_tf.datasets import unlabelled  # noqa: E402
from panoptic_tf.experiments import cli, formats, limits  # noqa: E402
from panoptic_tf.training import recipe  # noqa: E402

_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Folder of the records, train.yaml and the run.", required=True
)
_SYSTEM = flags.DEFINE_enum("system", recipe.SYSTEMS[0], recipe.SYSTEMS, "What is trained.")
_FORMAT = formats.define_flags(None)
_SPLIT = flags.DEFINE_string(
    "split",
    None,
    "Names and shares of two splits, train and val; default those of the annotations, where they "
    "have them, else train:0.8,val:0.2 by a hash of the images' ids.",
)
_SPLIT_GROUP = flags.DEFINE_string(
    "split_group", None, "What --split keeps together; see `convert`."
)
_MAX_SIDE = flags.DEFINE_integer(
    "max_side",
    recipe.MAX_SIDE,
    "Longer side of the network's input, at most.",
    lower_bound=recipe.LEAST_MAX_SIDE,
)
_FLIP_VERTICALLY = flags.DEFINE_bool(
    "flip_vertically", False, "Images have no up and down: from above, through a microscope."
)
_INIT_CHECKPOINT = flags.DEFINE_string(
    "init_checkpoint", None, "Weights of a ResNet-18 to start from, of any source of docs/zoo.md."
)
_MAX_PIXELS = limits.define_max_pixels(
    "a larger one ends the conversion, and is left out of evaluations"
)
_UNLABELLED = flags.DEFINE_enum(
    "unlabelled", "auto", list(unlabelled.POLICIES), "Unlabelled pixels; see `convert`."
)
_MAP = flags.DEFINE_string("map", None, "YAML file of other categories; see `convert`.")
_OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Replace records of other annotations, and an edited train.yaml."
)


def main(argv) -> None:
    """Does what the flags say."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    options = {key: value for key, value in formats.options().items() if value is not None}
    source = options.pop("source", None)
    if not source and "panoptic_json" not in options:
        raise app.UsageError("give --source: the file or folder of the annotations.")
    from panoptic_tf.api import own_data
    from panoptic_tf.datasets import images

    images.decode_on_cpu()
    try:
        made = own_data.init(
            source,
            _OUTPUT_DIR.value,
            format_name=_FORMAT.value,
            options=options,
            system=_SYSTEM.value,
            split=_SPLIT.value,
            split_group=_SPLIT_GROUP.value,
            unlabelled_policy=_UNLABELLED.value,
            map=_MAP.value,
            max_side=_MAX_SIDE.value,
            flip_vertically=_FLIP_VERTICALLY.value,
            init_checkpoint=_INIT_CHECKPOINT.value,
            max_pixels=_MAX_PIXELS.value,
            overwrite=_OVERWRITE.value,
        )
    except ValueError as error:  # The list of what is wrong, which may have many lines.
        raise SystemExit(f"panoptic-tf init: {error}") from error
    print(f"next: panoptic-tf train --config_file={made.config_file}")
    print(f"then: panoptic-tf report --model_dir={made.model_dir}")


if __name__ == "__main__":
    cli.run_script(__file__, main)

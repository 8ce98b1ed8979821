"""Turns published weights into a checkpoint to evaluate, export, predict with and train on.

panoptic-tf import-checkpoint --source=model_final.pkl --output_dir=runs/imported
"""

from __future__ import annotations

import os

from absl import app, flags

from panoptic_tf.experiments import cli, common, outputs

_SOURCE = flags.DEFINE_string(
    "source",
    None,
    "The weights: .pkl, .pth, .pt, .bin, .safetensors, .h5, a TensorFlow checkpoint, keras:NAME.",
    required=True,
)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "A new folder.", required=True)
common.define_experiment_flags(folder=None)
_MODULES = flags.DEFINE_enum(
    "modules",
    "all",
    ["all", "backbone", "matching"],
    "all of the file; its backbone; matching: what fits, the rest stays random.",
)
common.define_device_flags()


def main(argv) -> None:
    """Runs the binary."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    from panoptic_tf import checkpoints
    from panoptic_tf.api import settings
    from panoptic_tf.training import importing

    outputs.check_can_write("output_dir", os.path.join(_OUTPUT_DIR.value, "params.yaml"))
    source = _SOURCE.value
    title, description = checkpoints.describe(source)
    print(f"{source} is {title}.")
    options = common.experiment_options()
    if not options["experiment"] and not options["config_file"]:
        options["experiment"] = _choose_experiment(source, description.experiments)
    found = settings.configure(**options)
    params = importing.configure(found.params, found.experiment, description.settings)
    loaded = importing.import_checkpoint(
        params,
        source=source,
        output_dir=_OUTPUT_DIR.value,
        modules=_MODULES.value,
        experiment=found.experiment,
    )
    if not loaded.match.is_whole:
        print(loaded.match.differences())
    if loaded.anew:
        print(f"It has no weights for {', '.join(loaded.anew)}: random, to be trained.")
    print(
        f"{len(loaded.match.values)} arrays. Score them with: panoptic-tf evaluate "
        f"--model_dir={_OUTPUT_DIR.value} --output_dir=..."
    )


def _choose_experiment(source: str, experiments) -> str:
    if not experiments:
        raise app.UsageError(
            f"{source} fits no experiment that is known. Give --experiment, and for heads of "
            "other categories --modules=matching."
        )
    if len(experiments) > 1:
        print(f"It fits {', '.join(experiments)}; the first is taken. --experiment takes another.")
    return experiments[0]


if __name__ == "__main__":
    cli.run_script(__file__, main)

"""Trains an experiment, and evaluates it on the way.

panoptic-tf train --experiment=panoptic_deeplab_shapes --model_dir=runs/shapes
panoptic-tf train --config_file=mydata/train.yaml      whose first lines name both
panoptic-tf train --model_dir=runs/shapes              goes on as its params.yaml says
"""

from __future__ import annotations

import os

from absl import app, flags

from panoptic_tf.experiments import cli, common

common.define_experiment_flags(folder="Folder of the run; may be in --config_file.")
flags.DEFINE_enum(
    "mode",
    None,
    ["train", "train_and_eval", "eval", "continuous_eval"],
    "What to run; default what --config_file names, else train_and_eval.",
)
_LOGICAL_CPUS = flags.DEFINE_integer(
    "logical_cpus",
    None,
    "Devices to make of the CPU, for trying out --distribution_strategy=mirrored without GPUs.",
    lower_bound=1,
)
_LOG = flags.DEFINE_enum(
    "log",
    "auto",
    ["auto", "bar", "plain"],
    "Progress as a bar or as plain lines; auto: a bar on a terminal.",
)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run",
    False,
    "Take one batch through everything, print shapes, parameters, memory and time, and write "
    "pictures of what the network sees to <model_dir>/dry_run; no checkpoint.",
)
_RESOLVER = flags.DEFINE_enum(
    "cluster_resolver",
    None,
    ["tf_config", "slurm"],
    "multi_worker_mirrored: read the processes from the variable TF_CONFIG or from those of Slurm.",
)
_HOSTS = flags.DEFINE_list(
    "worker_hosts", [], "multi_worker_mirrored: host:port of every process, the same on all."
)
_TASK_INDEX = flags.DEFINE_integer(
    "task_index", None, "multi_worker_mirrored: which of --worker_hosts this process is, from 0."
)
_SLURM_PORT = flags.DEFINE_integer(
    "slurm_port", 8888, "Port of the first process on every machine of --cluster_resolver=slurm."
)
_START_SECONDS = flags.DEFINE_float(
    "worker_start_seconds", 600.0, "How long the processes wait for each other at the start."
)
_TIMEOUT_SECONDS = flags.DEFINE_float(
    "worker_timeout_seconds",
    30.0,
    "Seconds without a heartbeat after which a process is lost and all others end.",
)
common.define_device_flags()


def main(argv) -> None:
    """Runs the binary."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    from panoptic_tf.api import training
    from panoptic_tf.training import cluster, runner

    processes = cluster.resolve_cluster(
        resolver=_RESOLVER.value,
        worker_hosts=_HOSTS.value,
        task_index=_TASK_INDEX.value,
        slurm_port=_SLURM_PORT.value,
        environment=os.environ,
        start_timeout=_START_SECONDS.value,
        worker_timeout=_TIMEOUT_SECONDS.value,
    )
    if _LOGICAL_CPUS.value:
        runner.split_cpu(_LOGICAL_CPUS.value)
    training.train(
        model_dir=flags.FLAGS.model_dir,
        mode=flags.FLAGS.mode,
        cluster=processes,
        log=_LOG.value,
        dry_run=_DRY_RUN.value,
        **common.experiment_options(),
    )


if __name__ == "__main__":
    cli.run_script(__file__, main)

"""Trains an experiment, and evaluates it on the way.

panoptic-tf train --experiment=panoptic_deeplab_shapes --mode=train_and_eval --model_dir=runs/shapes
"""

from __future__ import annotations

import os

import tensorflow as tf
from absl import app, flags

from panoptic_tf.experiments import cli, common, outputs
from panoptic_tf.training import cluster as cluster_lib
from panoptic_tf.training import runner

common.define_experiment_flags()
_RESOLVER = flags.DEFINE_enum(
    "cluster_resolver",
    None,
    cluster_lib.RESOLVERS,
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
    "After how long without a sign of life a process is lost, and all others end.",
)
_LOGICAL_CPUS = flags.DEFINE_integer(
    "logical_cpus",
    None,
    "Devices to make of the CPU, for trying out --distribution_strategy=mirrored without GPUs.",
    lower_bound=1,
)
flags.mark_flags_as_required(["experiment", "mode", "model_dir"])


def main(argv) -> None:
    """Runs the binary."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    mode, model_dir = flags.FLAGS.mode, flags.FLAGS.model_dir
    # What only evaluates takes the configuration that the run was trained with.
    params = common.parse_experiment(None if "train" in mode else model_dir)
    outputs.check_can_write("model_dir", os.path.join(model_dir, "params.yaml"))
    if "train" in mode and tf.train.latest_checkpoint(model_dir) is None:
        common.check_init_checkpoint(params)
    cluster = cluster_lib.resolve_cluster(
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
    runner.train(params, mode=mode, model_dir=model_dir, cluster=cluster)


if __name__ == "__main__":
    cli.run_script(__file__, main)

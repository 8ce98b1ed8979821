"""Which processes train together: given one by one, or as TF_CONFIG or Slurm describe them.

The environment is read only where the caller names it as the source.
"""

from __future__ import annotations

import dataclasses
import json
from typing import List, Mapping, Optional, Sequence, Tuple

import tensorflow as tf
from absl import logging

RESOLVERS = ("tf_config", "slurm")

_JOBS = ("chief", "worker")
_SLURM_VARIABLES = ("SLURM_PROCID", "SLURM_STEP_NODELIST", "SLURM_STEP_TASKS_PER_NODE")


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The processes of a job.

    Attributes:
      addresses: `host:port` of all, by job: `worker`, and `chief` where the first has that name.
      job: this process's.
      index: this process's, in its job.
      start_timeout: seconds until all have to be there.
      worker_timeout: seconds without a sign of life after which a process counts as lost.
    """

    addresses: Mapping[str, Tuple[str, ...]]
    job: str
    index: int
    start_timeout: float = 600.0
    worker_timeout: float = 30.0

    @property
    def processes(self) -> List[Tuple[str, int]]:
        """(job, index) of all, in their order."""
        return [(job, i) for job, hosts in self.addresses.items() for i in range(len(hosts))]

    @property
    def size(self) -> int:
        """Number of processes."""
        return len(self.processes)

    @property
    def leader(self) -> str:
        """The job of the first process, which writes the files."""
        return "chief" if self.addresses.get("chief") else "worker"

    def describe(self, job: str, index: int) -> str:
        """A process in a message: `worker 1 (host:port)`."""
        return f"{job} {index} ({self.addresses[job][index]})"


def resolve_cluster(
    *,
    resolver: Optional[str] = None,
    worker_hosts: Sequence[str] = (),
    task_index: Optional[int] = None,
    slurm_port: int = 8888,
    environment: Mapping[str, str],
    start_timeout: float = 600.0,
    worker_timeout: float = 30.0,
) -> Optional[Cluster]:
    """The cluster that the flags of the same names ask for, None if they ask for none.

    Args:
      resolver: of `RESOLVERS`: where the cluster is described; None: in the next two.
      worker_hosts: `host:port` of every process.
      task_index: which of them this one is.
      slurm_port: port of the first process on every machine; the next ones follow.
      environment: read with a resolver only.
      start_timeout: see `Cluster`.
      worker_timeout: see `Cluster`.

    Raises:
      ValueError: two sources, or one that is missing or not complete.
    """
    timeouts = {"start_timeout": start_timeout, "worker_timeout": worker_timeout}
    if resolver is None:
        if not worker_hosts:
            if task_index is not None:
                raise ValueError(f"--task_index={task_index} needs --worker_hosts.")
            return None
        return Cluster(*_given(worker_hosts, task_index), **timeouts)
    if worker_hosts or task_index is not None:
        raise ValueError(
            f"--worker_hosts and --task_index do not go together with --cluster_resolver={resolver}"
            ", which provides both."
        )
    if resolver == "tf_config":
        return Cluster(*_from_tf_config(environment), **timeouts)
    if resolver == "slurm":
        return Cluster(*_from_slurm(environment, slurm_port), **timeouts)
    raise ValueError(f"--cluster_resolver must be one of {RESOLVERS}, got {resolver!r}.")


def _given(worker_hosts: Sequence[str], task_index: Optional[int]):
    hosts = tuple(host.strip() for host in worker_hosts)
    wrong = [host for host in hosts if not host.rpartition(":")[2].isdecimal()]
    if wrong:
        raise ValueError(f"--worker_hosts must be host:port,host:port,..., got {wrong}.")
    if task_index is None or not 0 <= task_index < len(hosts):
        raise ValueError(
            f"--task_index must be 0..{len(hosts) - 1}, which of --worker_hosts this process is, "
            f"got {task_index}."
        )
    return {"worker": hosts}, "worker", task_index


def _from_tf_config(environment: Mapping[str, str]):
    text = environment.get("TF_CONFIG", "")
    if not text:
        raise ValueError(
            "--cluster_resolver=tf_config, but the variable TF_CONFIG is not set. Set it, or give "
            "--worker_hosts and --task_index."
        )
    try:
        config = json.loads(text)
        task = config["task"]
        addresses = {job: tuple(config["cluster"].get(job, ())) for job in _JOBS}
        job, index = str(task["type"]), int(task["index"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            'TF_CONFIG must be {"cluster": {"worker": ["host:port", ...]}, "task": {"type": '
            f'"worker", "index": 0}}}}, got {text} ({type(error).__name__}: {error}).'
        ) from error
    addresses = {name: hosts for name, hosts in addresses.items() if hosts}
    others = sorted(set(config["cluster"]) - set(_JOBS))
    if others:
        logging.warning("TF_CONFIG lists %s, which take no part in training.", ", ".join(others))
    if not 0 <= index < len(addresses.get(job, ())):
        raise ValueError(
            f"TF_CONFIG says that this process is {job} {index}, which is none of the training "
            f"processes {addresses}. An evaluator is a process of its own: "
            "--mode=continuous_eval --distribution_strategy=one_device."
        )
    return addresses, job, index


def _from_slurm(environment: Mapping[str, str], port: int):
    """The tasks of the job step, numbered as Slurm does: machine by machine."""
    missing = [name for name in _SLURM_VARIABLES if name not in environment]
    if missing:
        raise ValueError(
            f"--cluster_resolver=slurm, but {', '.join(missing)} not set: start every process with "
            "srun."
        )
    resolver = _SlurmTasks()
    # TensorFlow's resolver sorts the machines as text, node10 before node9, while Slurm does not.
    hosts = tuple(
        f"{host}:{port + i}" for host, count in resolver.tasks().items() for i in range(count)
    )
    return {"worker": hosts}, "worker", int(environment["SLURM_PROCID"])


class _SlurmTasks(tf.distribute.cluster_resolver.SlurmClusterResolver):
    """Reads the list of machines with TensorFlow's parser."""

    def __init__(self):
        pass

    def tasks(self) -> Mapping[str, int]:
        """{machine: number of tasks} in Slurm's order."""
        return self._resolve_task_configuration()

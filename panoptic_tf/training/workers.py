"""What the processes of one training say to each other, and how they end together.

TensorFlow's coordination service notices a process that is gone and aborts what the others wait
for. A process that ends by itself must not wait in the interpreter's shutdown for the others, who
wait for it: it leaves at once.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import re
import shutil
import sys
import traceback
from typing import Any, Callable, Iterator, List, Optional

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context

from panoptic_tf.training import rendezvous
from panoptic_tf.training.cluster import Cluster

LOST_WORKER = 138
"""Exit code after the loss of another worker: above 127, which Kubernetes' TFJob starts again."""

_LOSSES = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)
_LENGTH = 8


def connect(
    cluster: Cluster, *, implementation: tf.distribute.experimental.CommunicationImplementation
) -> tf.distribute.MultiWorkerMirroredStrategy:
    """Waits for all processes and builds the strategy over all their GPUs, or one CPU of each.

    Args:
      cluster: the processes.
      implementation: how they reduce.
    """
    _configure_heartbeats(cluster)
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({job: list(hosts) for job, hosts in cluster.addresses.items()}),
        task_type=cluster.job,
        task_id=cluster.index,
        num_accelerators={"GPU": len(tf.config.list_physical_devices("GPU"))},
        rpc_layer="grpc",
    )
    with _joining(cluster):
        rendezvous.wait_for_all(cluster)
        strategy = tf.distribute.MultiWorkerMirroredStrategy(
            cluster_resolver=resolver,
            communication_options=tf.distribute.experimental.CommunicationOptions(
                implementation=implementation
            ),
        )
        gather(0, strategy)
    return strategy


def _configure_heartbeats(cluster: Cluster) -> None:
    """Sets the service that the strategy would set up with timeouts of its own."""
    eager = context.context()
    eager.configure_coordination_service(
        service_type="standalone",
        service_leader=f"/job:{cluster.leader}/replica:0/task:0",
        cluster_register_timeout_in_ms=int(1000 * (cluster.start_timeout + 60)),
        heartbeat_timeout_in_ms=int(1000 * cluster.worker_timeout),
    )
    for job, addresses in cluster.addresses.items():
        eager.coordination_service.coordinated_job_list.add(name=job, num_tasks=len(addresses))


@contextlib.contextmanager
def _joining(cluster: Cluster) -> Iterator[None]:
    """Ends the process that does not find the others."""
    me = cluster.describe(cluster.job, cluster.index)
    try:
        yield
    except TimeoutError as error:
        _leave(str(error), LOST_WORKER)
    except OSError as error:
        _leave(f"{me} cannot listen at its address: {error}", 1)
    except tf.errors.OpError as error:
        code = LOST_WORKER if isinstance(error, _LOSSES) else 1
        _leave(f"{me} cannot join the other workers: {error.message}", code)


def num_workers(strategy: tf.distribute.Strategy) -> int:
    """Number of processes, 1 but for `multi_worker_mirrored`."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 1
    spec = strategy.cluster_resolver.cluster_spec()
    return sum(spec.num_tasks(job) for job in spec.jobs) or 1


def gather(content: Any, strategy: Optional[tf.distribute.Strategy] = None) -> List[Any]:
    """Objects of all workers in their order; every worker must call it.

    Args:
      content: this worker's, which pickle takes.
      strategy: default the one in scope.
    """
    strategy = strategy or tf.distribute.get_strategy()
    if num_workers(strategy) == 1:
        return [content]
    data = pickle.dumps(content)
    # Collectives take int64, not bytes: [length, the bytes, zeros up to a full number].
    words = np.frombuffer(data + bytes(-len(data) % _LENGTH), np.int64)
    values = _gather_words(np.concatenate([[len(data)], words]), strategy)
    contents = []
    while len(values):
        length = int(values[0])
        end = 1 + -(-length // _LENGTH)
        contents.append(pickle.loads(values[1:end].tobytes()[:length]))
        values = values[end:]
    return contents


def _gather_words(words: np.ndarray, strategy: tf.distribute.Strategy) -> np.ndarray:
    """Rows of all workers one after another, int64 [sum of lengths]."""

    def value(replica: tf.distribute.ReplicaContext) -> tf.Tensor:
        local = replica.replica_id_in_sync_group % len(strategy.extended.worker_devices)
        return tf.constant(words if local == 0 else words[:0], tf.int64)

    rows = strategy.experimental_distribute_values_from_function(value)
    return _gather_function(strategy)(rows).numpy()


@functools.lru_cache(maxsize=1)
def _gather_function(strategy: tf.distribute.Strategy) -> Callable[[Any], tf.Tensor]:
    """`strategy.gather` traced once for every shape; by itself it is traced at every call."""
    return tf.function(lambda rows: strategy.gather(rows, axis=0), autograph=False)


def check_same_step(step: int, model_dir: str) -> None:
    """Makes sure that all workers start from one checkpoint.

    Raises:
      ValueError: they do not.
    """
    steps = gather(step)
    if len(set(steps)) > 1:
        raise ValueError(
            f"the workers found checkpoints of different steps, {steps}, in --model_dir "
            f"{model_dir!r}. It must be one folder that all of them can read."
        )


@contextlib.contextmanager
def ending_together(cluster: Optional[Cluster], model_dir: str, own_dir: str) -> Iterator[None]:
    """Ends the process at once where a worker of several fails, so that the others notice.

    Args:
      cluster: the processes, or None for one alone, which ends as it always does.
      model_dir: where the checkpoints are.
      own_dir: removed where the process ends.
    """
    try:
        yield
    except BaseException as error:
        if cluster is None or cluster.size == 1:
            raise
        shutil.rmtree(own_dir, ignore_errors=True)
        _leave(*_reason(error, cluster, model_dir))


def _reason(error: BaseException, cluster: Cluster, model_dir: str):
    """(what to say, exit code) of a worker that fails."""
    if isinstance(error, SystemExit):
        return "", error.code if isinstance(error.code, int) else 1
    if isinstance(error, _LOSSES):
        return _lost(error, cluster, model_dir), LOST_WORKER
    if isinstance(error, (ValueError, OSError, FloatingPointError)):
        return str(error), 1
    return "".join(traceback.format_exception(type(error), error, error.__traceback__)), 1


def _lost(error: BaseException, cluster: Cluster, model_dir: str) -> str:
    found = re.findall(r"/job:(\w+)/(?:replica:\d+/)?task:(\d+)", str(error))
    others = [process for process in cluster.processes if process != (cluster.job, cluster.index)]
    # The operation that failed names the device of this process, too.
    named = [(job, int(i)) for job, i in found if (job, int(i)) in others]
    known = named or (others if len(others) == 1 else [])
    who = cluster.describe(*known[0]) if known else "another worker"
    last = tf.train.latest_checkpoint(model_dir)
    return (
        f"{who} of the {cluster.size} workers is gone: it was stopped, failed, or cannot be "
        f"reached. All workers end, this one ({cluster.describe(cluster.job, cluster.index)}) with "
        f"exit code {LOST_WORKER}; the log of the lost worker may show why. The same command on "
        f"all workers continues from {last or 'the beginning, there is no checkpoint yet'}."
    )


def _leave(message: str, code: int) -> None:
    """Ends the process without the interpreter's shutdown, which would wait for the others."""
    if message:
        print(f"\npanoptic-tf train: {message}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

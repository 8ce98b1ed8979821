"""Who trains together, from flags, TF_CONFIG and Slurm; which strategy that makes."""

import json

import pytest
import tensorflow as tf
from official.common import distribute_utils
from official.core import config_definitions as cfg

from panoptic_tf.training import run_checks, runner
from panoptic_tf.training.cluster import resolve_cluster

TF_CONFIG = json.dumps(
    {
        "cluster": {"chief": ["a:1"], "worker": ["b:1", "c:1"]},
        "task": {"type": "worker", "index": 1},
    }
)
SLURM = {
    "SLURM_PROCID": "3",
    "SLURM_STEP_NODELIST": "node[9-10]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}


def test_without_flags_the_environment_is_not_read():
    assert resolve_cluster(environment={"TF_CONFIG": TF_CONFIG, **SLURM}) is None


def test_hosts_by_flags():
    cluster = resolve_cluster(worker_hosts=["a:1", " b:2"], task_index=1, environment={})
    assert cluster.addresses == {"worker": ("a:1", "b:2")}
    assert (cluster.job, cluster.index, cluster.size, cluster.leader) == ("worker", 1, 2, "worker")
    assert cluster.describe("worker", 0) == "worker 0 (a:1)"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"worker_hosts": ["a:1", "b"], "task_index": 0}, "host:port.*'b'"),
        ({"task_index": 0}, "--task_index=0 needs --worker_hosts"),
        ({"worker_hosts": ["a:1", "b:1"]}, "--task_index must be 0..1.*None"),
        ({"worker_hosts": ["a:1", "b:1"], "task_index": 2}, "--task_index must be 0..1.*2"),
        ({"worker_hosts": ["a:1"], "task_index": 0, "resolver": "slurm"}, "do not go together"),
        ({"resolver": "tf_config"}, "TF_CONFIG is not set"),
        ({"resolver": "slurm"}, "SLURM_PROCID.*srun"),
        ({"resolver": "mesos"}, "'mesos'"),
    ],
)
def test_wrong_flags(flags, message):
    with pytest.raises(ValueError, match=message):
        resolve_cluster(**flags, environment={})


def test_tf_config():
    cluster = resolve_cluster(resolver="tf_config", environment={"TF_CONFIG": TF_CONFIG})
    assert cluster.addresses == {"chief": ("a:1",), "worker": ("b:1", "c:1")}
    assert (cluster.job, cluster.index, cluster.size, cluster.leader) == ("worker", 1, 3, "chief")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "TF_CONFIG must be"),
        ("[]", "TF_CONFIG must be"),
        ('{"cluster": {"worker": ["a:1"]}}', "KeyError: 'task'"),
        (TF_CONFIG.replace('"index": 1', '"index": 2'), "worker 2, which is none of"),
        (TF_CONFIG.replace('"worker", "index"', '"evaluator", "index"'), "continuous_eval"),
    ],
)
def test_wrong_tf_config(text, message):
    with pytest.raises(ValueError, match=message):
        resolve_cluster(resolver="tf_config", environment={"TF_CONFIG": text})


def test_other_jobs_of_tf_config_are_named(caplog):
    text = TF_CONFIG.replace('{"cluster": {', '{"cluster": {"ps": ["d:1"], ')
    cluster = resolve_cluster(resolver="tf_config", environment={"TF_CONFIG": text})
    assert set(cluster.addresses) == {"chief", "worker"}
    assert "TF_CONFIG lists ps, which take no part" in caplog.text


@pytest.mark.parametrize(
    "seen, hosts, is_refused", [(2, "aa", True), (1, "aa", False), (2, "ab", False)]
)
def test_processes_that_would_take_the_same_gpus_are_refused(monkeypatch, seen, hosts, is_refused):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["GPU"] * seen)
    worker_hosts = [f"{host}:{i}" for i, host in enumerate(hosts)]
    cluster = resolve_cluster(worker_hosts=worker_hosts, task_index=0, environment={})
    if not is_refused:
        run_checks.check_own_gpus(cluster)
        return
    with pytest.raises(
        ValueError, match="2 processes are on a, .* its 2 GPUs.*--ntasks-per-node=1"
    ):
        run_checks.check_own_gpus(cluster)


def test_slurm_numbers_tasks_machine_by_machine(monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    cluster = resolve_cluster(resolver="slurm", slurm_port=5000, environment=SLURM)
    # node9 is the first one, though "node10" < "node9".
    hosts = ("node9:5000", "node9:5001", "node10:5000", "node10:5001")
    assert cluster.addresses == {"worker": hosts}
    assert (cluster.job, cluster.index) == ("worker", 3)


def runtime(**values):
    return cfg.RuntimeConfig(**{"mixed_precision_dtype": "float32", **values})


def test_several_workers_and_no_cluster_or_the_other_way_round():
    with pytest.raises(ValueError, match="needs --worker_hosts"):
        runner.build_strategy(runtime(distribution_strategy="multi_worker_mirrored"))
    cluster = resolve_cluster(worker_hosts=["a:1"], task_index=0, environment={})
    with pytest.raises(ValueError, match="'mirrored': multi_worker_mirrored, and that alone"):
        runner.build_strategy(runtime(distribution_strategy="mirrored"), cluster)


def test_mirrored_without_gpus_takes_all_logical_cpus():
    strategy = runner.build_strategy(runtime(distribution_strategy="mirrored", num_gpus=0))
    assert strategy.num_replicas_in_sync == len(tf.config.list_logical_devices("CPU"))


def test_tpu_is_looked_for_at_the_address(monkeypatch):
    found = []
    monkeypatch.setattr(
        distribute_utils, "tpu_initialize", lambda address: f"resolver of {address}"
    )
    monkeypatch.setattr(tf.distribute, "TPUStrategy", lambda resolver: found.append(resolver))
    runner.build_strategy(runtime(distribution_strategy="tpu", tpu="grpc://10.0.0.2:8470"))
    assert found == ["resolver of grpc://10.0.0.2:8470"]

"""The manifests parse, and their commands, like those of docs/training.md, are ones we take."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
import yaml

DOCS = pathlib.Path(__file__).parents[2] / "docs"
MANIFESTS = DOCS / "manifests"

# Parses each command as `train` does, up to the strategy.
CHECK = """
import json, sys
from absl import flags
from panoptic_tf.api import settings
from panoptic_tf.experiments import common, train
from panoptic_tf.training import cluster

for command, environment in json.loads(sys.argv[1]):
    flags.FLAGS.unparse_flags()
    for name in flags.FLAGS:
        flags.FLAGS[name].unparse()
    assert flags.FLAGS(command) == command[:1], command
    flags.FLAGS.config_file = None  # Is on another machine.
    params = settings.configure(**common.experiment_options()).params
    found = cluster.resolve_cluster(
        resolver=train._RESOLVER.value,
        worker_hosts=train._HOSTS.value,
        task_index=train._TASK_INDEX.value,
        environment=environment,
    )
    print(json.dumps([params.runtime.as_dict(), None if found is None else found.size]))
"""


def sbatch_command():
    text = (MANIFESTS / "slurm.sbatch").read_text()
    line = re.search(r"^srun .*?[^\\]$", text.replace("\\\n", ""), re.MULTILINE).group()
    return shlex.split(line.split("panoptic-tf", 1)[1])


def yaml_commands():
    job = yaml.safe_load((MANIFESTS / "tfjob.yaml").read_text())
    worker = job["spec"]["tfReplicaSpecs"]["Worker"]
    assert worker["restartPolicy"] == "ExitCode" and job["kind"] == "TFJob"
    (container,) = worker["template"]["spec"]["containers"]
    pools = yaml.safe_load((MANIFESTS / "vertex.yaml").read_text())["workerPoolSpecs"]
    assert pools[0]["replicaCount"] == 1
    commands = [container["command"], *(pool["containerSpec"]["command"] for pool in pools)]
    assert all(command[0] == "panoptic-tf" for command in commands)
    return [command[1:] for command in commands]


def docs_commands():
    text = (DOCS / "training.md").read_text()
    found = re.findall(r"panoptic-tf (train .*?[^\\])$", text.replace("\\\n", ""), re.MULTILINE)
    return [shlex.split(command) for command in found]


def test_sbatch_script_is_bash():
    subprocess.run(["bash", "-n", str(MANIFESTS / "slurm.sbatch")], check=True)


def test_every_manifest_is_linked():
    text = (DOCS / "training.md").read_text()
    assert set(re.findall(r"\(manifests/(.*?)\)", text)) == set(os.listdir(MANIFESTS))


@pytest.mark.slow
def test_commands_are_ones_that_train_takes():
    hosts = [f"host{i}:2222" for i in range(4)]
    config = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": 3}}
    environment = {
        "TF_CONFIG": json.dumps(config),
        "SLURM_PROCID": "0",
        "SLURM_STEP_NODELIST": "n[1-4]",
        "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
    }
    in_docs = docs_commands()
    tpu = ["train", "--experiment=panoptic_deeplab_resnet50_coco", "--mode=train", "--model_dir=m"]
    tpu += ["--distribution_strategy=tpu", "--tpu=grpc://10.0.0.2:8470"]
    commands = [sbatch_command(), *yaml_commands(), tpu, *in_docs]
    assert len(in_docs) == 3 and all(command[0] == "train" for command in commands)
    result = subprocess.run(
        [sys.executable, "-c", CHECK, json.dumps([(c, environment) for c in commands])],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    found = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("[")]
    workers = [(runtime["distribution_strategy"], size) for runtime, size in found]
    several = "multi_worker_mirrored"
    assert workers[:5] == [(several, 4)] * 4 + [("tpu", None)]
    assert found[4][0]["tpu"] == "grpc://10.0.0.2:8470"
    assert [size for _, size in workers[5:]] == [None, None, 2] and workers[7][0] == several

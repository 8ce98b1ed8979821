"""Two logical CPUs before TensorFlow starts, and where files outside the repository are found."""

import collections
import contextlib
import dataclasses
import gc
import os
import pathlib
import shutil
import subprocess
import sys
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# TensorFlow takes oneDNN by the kind of processor. Some references and forms for TFLite, which are
# not meant for CPUs, compute on CPUs by its operators only.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# XLA compiles faster what is to run a few times only.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_llvm_disable_expensive_passes=true --xla_backend_optimization_level=0"
)

import pytest  # noqa: E402

import panoptic_tf  # noqa: E402, F401  (selects Keras 2 before TensorFlow is imported)

GOLDEN_DIR = pathlib.Path(__file__).parent / "golden"
ROOT = pathlib.Path(__file__).parent.parent
SYSTEMS = {
    path.parent.name for path in pathlib.Path(panoptic_tf.__file__).parent.glob("systems/*/task.py")
}
REFERENCE_DATA_VARIABLE = "PANOPTIC_TF_REFERENCE_DATA"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """One process takes all tests of a scope, in the order of `pytest_collection_modifyitems`."""
    from xdist.scheduler import LoadScopeScheduling

    config.option.loadscopereorder = False

    class Scheduler(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return scope_of(nodeid)

    return Scheduler(config, log)


@pytest.hookimpl(trylast=True)  # when others have left out what is not to run
def pytest_collection_modifyitems(items):
    """The scopes with the most slow tests come first, so that all processes end at about once."""
    slow = (scope_of(item.nodeid) for item in items if item.get_closest_marker("slow"))
    counts = collections.Counter(slow)
    items.sort(key=lambda item: -counts[scope_of(item.nodeid)])


def scope_of(nodeid: str) -> str:
    """The tests that share fixtures: of a file, of one system in it, of one demo."""
    path, _, test = nodeid.partition("::")
    if path in ("tests/end_to_end/test_demo.py", "tests/end_to_end/test_readme.py"):
        return "demo"
    if path == "tests/training/test_goes_on.py":  # Long trainings, which share nothing.
        return nodeid
    parameters = test.partition("[")[2].rstrip("]").split("-")
    return ":".join([path, *sorted(SYSTEMS.intersection(parameters))])


@pytest.fixture(scope="session", autouse=True)
def two_logical_cpus():
    """Splits the CPU in two, so that distribution strategies can be tested."""
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    if len(tf.config.get_logical_device_configuration(cpu) or []) < 2:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * 2
        )


@pytest.fixture(scope="session", autouse=True)
def cheap_graphs():
    """Graphs that run a few times only are not rewritten, which is sooner.

    Nor do their operators note where they were made, which takes a sixteenth of the time; the
    contexts in which they are made keep no signature, and the garbage collector looks at them more
    seldom. The commands, which are tested as processes of their own, do all of it.

    Yields:
      What notes where an operator was made.
    """
    import tensorflow as tf
    from tensorflow.python.util import tf_contextlib, tf_stack

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    gc.set_threshold(10_000, 10, 10)
    extract_stack, here = tf_stack.extract_stack, tf_stack.extract_stack()
    with (
        mock.patch.object(tf_contextlib, "contextmanager", contextlib.contextmanager),
        mock.patch.object(tf_stack, "extract_stack", lambda stacklevel=1: here),
    ):
        yield extract_stack


@pytest.fixture(autouse=True)
def float32_afterwards():
    """A training sets the precision of the process; no other test is to have it."""
    import tensorflow as tf

    yield
    tf.keras.mixed_precision.set_global_policy("float32")


@pytest.fixture
def shallow_deeplab(monkeypatch):
    """Panoptic-DeepLab is a network of few layers: see `shallow_network`."""
    import shallow_network

    from panoptic_tf.systems.panoptic_deeplab import network

    monkeypatch.setattr(network, "build_networks", shallow_network.build_networks)


@pytest.fixture(scope="session")
def mirrored(two_logical_cpus):
    """A strategy over two CPUs; one for all tests, as TensorFlow numbers collectives anew for each.

    Those of equal number and another shape would be mixed up.
    """
    import tensorflow as tf

    if len(tf.config.list_logical_devices("CPU")) < 2:
        pytest.skip("TensorFlow was started with one logical CPU")
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.fixture(scope="session")
def golden():
    """Loads a recorded case of tests/golden by name: `golden("deeplab_ce")["logits"]`."""
    import numpy as np

    return lambda name: np.load(GOLDEN_DIR / f"{name}.npz")


@pytest.fixture(scope="session")
def reference_data() -> pathlib.Path:
    """The folder with `coco_sample/` and the cases made from COCO images, else a skip."""
    folder = os.environ.get(REFERENCE_DATA_VARIABLE, "")
    if not folder or not os.path.isdir(folder):
        pytest.skip(f"{REFERENCE_DATA_VARIABLE} names no folder with coco_sample/ and golden/")
    return pathlib.Path(folder)


@pytest.fixture(scope="session")
def c_program(tmp_path_factory):
    """The program of export/embed, built; `c_program.run(*arguments)` runs it."""
    for tool in ("make", "cc"):
        if shutil.which(tool) is None:
            pytest.skip(f"there is no {tool} to build the C program with")
    path = tmp_path_factory.mktemp("embed") / "panoptic"
    command = ["make", "-C", str(ROOT / "export" / "embed"), f"OUTPUT={path}"]
    command += [f"PYTHON={sys.executable}", "CFLAGS=-O1 -Wall -Wextra -Werror"]
    subprocess.run(command, check=True, capture_output=True)
    return CProgram(str(path))


@dataclasses.dataclass(frozen=True)
class CProgram:
    """A program that is run without an environment."""

    path: str

    def run(self, *arguments, stdout=subprocess.PIPE) -> subprocess.CompletedProcess:
        # Only what keeps TensorFlow quiet: no path of Python, no settings.
        return subprocess.run(
            [self.path, *map(str, arguments)],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            env={"TF_CPP_MIN_LOG_LEVEL": "3"},
            timeout=300,
        )

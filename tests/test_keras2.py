import os
import subprocess
import sys
import types

import pytest

from panoptic_tf import _keras2


@pytest.fixture
def variable(monkeypatch):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "0")


def _module(name, **attributes):
    module = types.ModuleType(name)
    module.__dict__.update(attributes)
    return module


def test_selects_keras_2_before_tensorflow_is_imported(monkeypatch, variable):
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    _keras2.use_keras_2()
    assert os.environ["TF_USE_LEGACY_KERAS"] == "1"


@pytest.mark.parametrize(
    "attributes", [{}, {"keras": object()}], ids=["keras unknown", "keras not touched yet"]
)
def test_selects_keras_2_before_tensorflow_has_loaded_any(monkeypatch, variable, attributes):
    monkeypatch.setitem(sys.modules, "tensorflow", _module("tensorflow", **attributes))
    _keras2.use_keras_2()
    assert os.environ["TF_USE_LEGACY_KERAS"] == "1"


@pytest.mark.parametrize("attributes", [{}, {"__version__": "2.15.0"}])
def test_the_keras_2_that_is_loaded_stays_the_only_one(monkeypatch, variable, attributes):
    keras = _module("keras", **attributes)
    monkeypatch.setitem(sys.modules, "tensorflow", _module("tensorflow", keras=keras))
    _keras2.use_keras_2()
    assert os.environ["TF_USE_LEGACY_KERAS"] == "0"


def test_names_the_remedy_when_keras_3_is_loaded(monkeypatch, variable):
    keras = _module("keras", __version__="3.4.1")
    monkeypatch.setitem(sys.modules, "tensorflow", _module("tensorflow", keras=keras))
    with pytest.raises(ImportError, match=r"Keras 3\.4\.1.*Import panoptic_tf before tensorflow"):
        _keras2.use_keras_2()


@pytest.mark.slow
def test_a_system_is_built_where_keras_2_was_used_first():
    program = """
import tensorflow as tf
if tf.__version__.startswith("2.15."):
    tf.keras.Input
from panoptic_tf import systems
from official.core import exp_factory, task_factory
config = exp_factory.get_exp_config("panoptic_fpn_shapes").task
assert task_factory.get_task(config).build_model().trainable_variables
"""
    variables = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    subprocess.run([sys.executable, "-c", program], env=variables, check=True)

import os
import sys
import types

import pytest

from panoptic_tf import _keras2


@pytest.fixture
def variable(monkeypatch):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "0")


def _tensorflow(**attributes):
    module = types.ModuleType("tensorflow")
    module.__dict__.update(attributes)
    return module


def test_selects_keras_2_before_tensorflow_is_imported(monkeypatch, variable):
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    _keras2.use_keras_2()
    assert os.environ["TF_USE_LEGACY_KERAS"] == "1"


@pytest.mark.parametrize(
    "attributes",
    [{}, {"keras": types.SimpleNamespace(__version__="2.15.0")}, {"keras": object()}],
    ids=["keras not touched yet", "Keras 2", "keras not loaded yet"],
)
def test_accepts_tensorflow_that_has_not_started_keras_3(monkeypatch, variable, attributes):
    monkeypatch.setitem(sys.modules, "tensorflow", _tensorflow(**attributes))
    _keras2.use_keras_2()
    assert os.environ["TF_USE_LEGACY_KERAS"] == "1"


def test_names_the_remedy_when_keras_3_is_loaded(monkeypatch, variable):
    keras = types.SimpleNamespace(__version__="3.4.1")
    monkeypatch.setitem(sys.modules, "tensorflow", _tensorflow(keras=keras))
    with pytest.raises(ImportError, match=r"Keras 3\.4\.1.*Import panoptic_tf before tensorflow"):
        _keras2.use_keras_2()

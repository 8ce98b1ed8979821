"""Which form of an operation runs."""

import pathlib
import re
import threading

import pytest

from panoptic_tf.ops import forms
from panoptic_tf.ops.forms import Form


@pytest.fixture
def operation(monkeypatch):
    monkeypatch.setattr(forms, "_tuned", {})

    @forms.op
    def double(x):
        """Doubles."""
        return "reference", 2 * x

    forms.register(double, Form.CPU)(lambda x: ("cpu", x + x))
    return double


def test_the_reference_is_the_form_of_accelerators_and_of_no_context(operation):
    assert operation(3) == ("reference", 6)
    with forms.use(Form.ACCELERATOR):
        assert operation(3) == ("reference", 6)


def test_a_tuned_form_where_there_is_one(operation):
    with forms.use(Form.CPU):
        assert operation(3) == ("cpu", 6)
        with forms.use(Form.TFLITE):
            assert operation(3) == ("reference", 6)
        assert operation(3) == ("cpu", 6)
    assert operation(3) == ("reference", 6)


def test_cpus_without_avx512_take_the_form_for_cpus_where_there_is_no_other(operation):
    with forms.use(Form.CPU_AVX2):
        assert operation(3) == ("cpu", 6)
        forms.register(operation, Form.CPU_AVX2)(lambda x: ("avx2", 2 * x))
        assert operation(3) == ("avx2", 6)
    with forms.use(Form.CPU):
        assert operation(3) == ("cpu", 6)


def test_an_error_ends_the_context(operation):
    with pytest.raises(KeyError):
        with forms.use(Form.CPU):
            raise KeyError
    assert forms.current() is Form.ACCELERATOR


def test_a_context_is_of_its_thread(operation):
    found = []
    with forms.use(Form.CPU):
        thread = threading.Thread(target=lambda: found.append(operation(1)))
        thread.start()
        thread.join()
    assert found == [("reference", 2)]


def test_one_form_once(operation):
    with pytest.raises(ValueError, match="double has a form for cpu already"):
        forms.register(operation, Form.CPU)(lambda x: x)
    (name,) = forms.registered()
    assert name.endswith("double") and set(forms.registered()[name]) == {
        Form.ACCELERATOR,
        Form.CPU,
    }


def test_an_operation_keeps_its_name_and_docstring(operation):
    assert operation.__name__ == "double" and operation.__doc__ == "Doubles."


def test_the_documented_table_is_that_of_the_code():
    path = pathlib.Path(__file__).parents[2] / "docs" / "design.md"
    found = {}
    for names, others in re.findall(
        r"^\| (`\w+\.\w+`.*?) \| ([a-z0-9_, ]+) \|", path.read_text(), re.M
    ):
        for name in re.findall(r"`(.*?)`", names):
            found[name] = {Form(value) for value in others.split(", ")}
    expected = {
        name: set(of_name) - {Form.ACCELERATOR} for name, of_name in forms.registered().items()
    }
    assert found == {name: others for name, others in expected.items() if others}

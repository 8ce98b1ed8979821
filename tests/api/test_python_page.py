"""Runs the code of docs/python.md as it stands, but for fewer steps, in a thread of its own."""

import importlib
import inspect
import json
import os
import pathlib
import re
import signal
import threading

import pytest
import tensorflow as tf

import panoptic_tf
from panoptic_tf.datasets import shapes_writer

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "python.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def process_state():
    return (
        tf.keras.mixed_precision.global_policy().name,
        tf.summary.experimental.get_step(),
        signal.getsignal(signal.SIGTERM),
    )


@pytest.mark.parametrize("name", ["Predictor", "convert", "evaluate", "export", "init", "train"])
def test_examples_of_docstrings_are_on_the_page(name):
    # Not from panoptic_tf, where the folder of the commands may stand for `export`.
    module = importlib.import_module(f"panoptic_tf.{panoptic_tf._MODULES[name]}")
    docstring = inspect.getdoc(getattr(module, name))
    example = re.search(r"\nExample:\n(.*?)\n\n(?=\S)", docstring, re.DOTALL).group(1)
    assert inspect.cleandoc(f"\n{example}") in "\n".join(BLOCKS)


@pytest.mark.slow
def test_the_page_runs_in_a_thread_and_leaves_no_state(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shapes_writer.write_split(
        "data/train", seed=0, num_images=20, size=128, num_processes=1, show_progress=False
    )
    before, failures, names = process_state(), [], {}
    code = "\n".join(BLOCKS).replace(": 1000,", ": 2,")
    assert ": 2," in code

    def work():
        try:
            exec(compile(code, str(PAGE), "exec"), names)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    assert process_state() == before
    run, result = names["run"], names["result"]
    assert run.step == 2 and os.path.exists(f"{run.checkpoint}.index")
    assert run.metrics["step"] == 2 and run.experiment == "panoptic_deeplab_shapes"
    with open(os.path.join(os.path.dirname(result.report), "metrics.json")) as file:
        assert json.load(file) == result.metrics
    assert len(result.per_category) == 10
    assert all(not isinstance(value, (dict, list)) for value in result.scores.values())
    assert os.path.exists(names["made"].config_file)
    for form in ("saved_model", "tflite"):
        assert os.path.exists(names[form])
    assert names["predictor"].experiment == "panoptic_deeplab_shapes"

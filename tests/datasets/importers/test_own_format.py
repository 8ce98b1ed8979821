"""The importer of docs/data.md works as it is printed."""

import pathlib
import re

import numpy as np
import tensorflow as tf
from PIL import Image

from panoptic_tf.datasets import record
from panoptic_tf.datasets.importers import registry

DOCS = pathlib.Path(__file__).parents[3] / "docs" / "data.md"


def test_the_printed_importer(tmp_path, monkeypatch):
    text = DOCS.read_text(encoding="utf-8").split("## A format of your own")[1]
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "FORMATS", dict(registry.FORMATS))
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    cell, medium = np.zeros([8, 10], bool), np.ones([8, 10], bool)
    cell[2:5, 3:7] = True
    np.savez(tmp_path / "labels" / "a.npz", cell1=cell, rest=medium)
    Image.fromarray(np.zeros([8, 10, 3], np.uint8)).save(tmp_path / "images" / "a.png")
    exec(
        code.replace('"my_format", "data/cells",', '"my_format", "data/cells", num_processes=1,'),
        {},
    )
    (path,) = (tmp_path / "data" / "cells").glob("train-*")
    (serialized,) = tf.data.TFRecordDataset(str(path))
    example = record.decode_example(serialized)
    categories = np.concatenate([[0], example["segment_categories"]])
    np.testing.assert_array_equal(categories[example["id_map"]], np.where(cell, 1, 2))
    assert len(example["instance_rles"]) == 1

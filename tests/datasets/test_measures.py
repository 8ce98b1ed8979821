"""Measures of records, beside those of the images that the records were made from."""

import numpy as np
import pytest
from small_systems import write_records

from panoptic_tf.datasets import shapes
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.datasets.measures import measure_records


def test_records_are_measured(tmp_path):
    measured = measure_records(write_records(tmp_path, num_shards=2), DatasetInfo.load("shapes"))
    drawn = [shapes.generate_image(0, index, 64) for index in range(4)]
    things, stuff, counts = [], [], []
    for image in drawn:
        segments = [s for s in image.segments if not s["iscrowd"]]
        of_things = [s["area"] for s in segments if s["category_id"] <= len(shapes.THING_NAMES)]
        counts.append(len(of_things))
        things += of_things
        stuff += [s["area"] for s in segments if s["category_id"] > len(shapes.THING_NAMES)]
    assert measured.num_images == 4
    assert np.array_equal(measured.sizes, np.full([4, 2], 64))
    assert sorted(measured.thing_areas) == sorted(things)
    assert sorted(measured.stuff_areas) == sorted(stuff)
    assert sorted(np.bincount(measured.thing_images, minlength=4)) == sorted(counts)
    assert measured.most_things == max(counts)
    assert measured.num_things == len(shapes.THING_NAMES)
    assert not measured.has_instances


def test_no_record_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="matches no record"):
        measure_records(f"{tmp_path}/train-*", DatasetInfo.load("shapes"))

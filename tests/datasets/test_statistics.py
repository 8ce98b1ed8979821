"""Counts and histograms against plain loops."""

import numpy as np

from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.datasets.statistics import DatasetStatistics, Histogram


def test_histogram_equals_counting_one_by_one():
    values = np.random.default_rng(0).uniform(1, 3000, 500)
    histogram = Histogram()
    histogram.add(values[:200])
    histogram.add(values[200:])
    bins = histogram.to_json()
    for entry in bins:
        assert entry["count"] == sum(entry["low"] <= v < entry["high"] for v in values)
    assert sum(entry["count"] for entry in bins) == 500
    assert bins[0]["count"] and bins[-1]["count"]
    for first, second in zip(bins, bins[1:]):
        assert first["high"] == second["low"]


def test_ends_of_a_histogram():
    histogram = Histogram()
    assert histogram.to_json() == []
    histogram.add(1)
    histogram.add([])
    assert histogram.to_json() == [{"low": 1.0, "high": 2**0.5, "count": 1}]
    histogram.add(2.0**60)
    assert histogram.to_json()[-1]["count"] == 1


def test_counts_of_two_images():
    info = DatasetInfo.from_coco(
        [{"id": 5, "name": "cat"}, {"id": 7, "name": "grass", "isthing": 0}], name="x"
    )
    statistics = DatasetStatistics(info)
    # Two cats, one a crowd, and grass; then grass alone.
    statistics.add(np.array([4, 9, 16]), [1, 1, 2], [False, True, False], size=(5, 8))
    statistics.add(np.array([64]), [2], [False], size=(8, 10))
    found = statistics.to_json()
    assert found["num_images"] == 2 and found["num_pixels"] == 120
    assert found["void_share"] == (11 + 16) / 120 and found["crowd_share"] == 9 / 120
    cat, grass = found["per_category"]
    assert (cat["images"], cat["segments"], cat["crowds"], cat["pixels"]) == (1, 2, 1, 13)
    assert cat["pixel_share"] == 13 / 120 and grass["pixel_share"] == 80 / 120
    histograms = found["histograms"]
    counts = {key: sum(b["count"] for b in bins) for key, bins in histograms.items()}
    assert counts == {
        "longer_side_of_images": 2,
        "square_root_of_thing_area": 1,
        "square_root_of_stuff_area": 2,
        "segments_of_an_image": 2,
    }
    (thing,) = histograms["square_root_of_thing_area"]
    assert thing["low"] <= 2 < thing["high"]

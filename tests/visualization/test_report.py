import html.parser
import math

import numpy as np
import pytest

from panoptic_tf.visualization import images, markup, report

EVIL = "<script>alert('x')</script>\"&"
PANEL = np.full((8, 24, 3), 200, np.uint8)


class _Page(html.parser.HTMLParser):
    """Collects tags, attributes, texts, and checks that every tag is closed in order."""

    VOID_TAGS = ("meta", "img", "rect")

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.texts, self._open = [], [], [], []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.extend((tag, *attr) for attr in attrs)
        if tag not in self.VOID_TAGS:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.extend((tag, *attr) for attr in attrs)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if data.strip() and "style" not in self._open:
            self.texts.append(data.strip())


def test_page_holds_everything_and_asks_for_nothing():
    page = _Page(_render())
    assert "script" not in page.tags and "link" not in page.tags
    sources = [value for _, key, value in page.attributes if key in ("src", "href")]
    assert sources and all(source.startswith("data:image/") for source in sources)
    policies = [value for _, key, value in page.attributes if key == "content"]
    assert any(value.startswith("default-src 'none'") for value in policies)


def test_page_needs_no_other_host():
    page = _render()
    assert "http:" not in page and "https:" not in page and "url(" not in page


def test_texts_from_data_are_escaped():
    page = _Page(_render(title=EVIL, name=EVIL, image_id=EVIL, form=EVIL, extra=EVIL))
    assert "script" not in page.tags
    assert page.texts.count(EVIL) >= 6  # Title twice, form, category, image id, extra.


def test_missing_values_are_dashes_not_zeros():
    page = _Page(_render())
    row = page.texts[page.texts.index("unmatched") :][:5]
    assert row == ["unmatched", "–", "–", "–", "12.5"]
    assert not any("nan" in text.lower() or text == "None" for text in page.texts)


def test_one_object_of_metrics_and_several_forms():
    single = _Page(report.render_report(title="t", metrics=_metrics()))
    assert "model" in single.texts and "71.25" in single.texts
    several = _Page(
        report.render_report(
            title="t",
            metrics={
                "keras": _metrics(),
                "tflite": {**_metrics(), "PQ": 70.75, "size_bytes": 2**21, "latency_ms": 12.34},
            },
        )
    )
    for text in ("keras", "tflite", "70.75", "-0.50", "2.0\xa0MiB", "12.3\xa0ms"):
        assert text in several.texts, text
    with pytest.raises(ValueError, match="key 'PQ'"):
        report.render_report(title="t", metrics={"files": 3})


def test_columns_without_any_value_are_left_out():
    page = _Page(report.render_report(title="t", metrics={**_metrics(), "AP": None}))
    assert "AP" not in page.texts and "latency" not in page.texts
    page = _Page(report.render_report(title="t", metrics={**_metrics(), "AP": 33.0}))
    assert "AP" in page.texts and "box" not in page.texts
    page = _Page(report.render_report(title="t", metrics={**_metrics(), "AP75_box": 33.0}))
    assert "box" in page.texts and "mask" not in page.texts


def test_semantic_model_without_panoptic_values():
    metrics = {"PQ": None, "mIoU": 55.5, "per_category": []}
    page = _Page(report.render_report(title="t", metrics=metrics))
    assert "55.5" in page.texts and "–" in page.texts


def test_coverage_is_a_table_of_its_own_and_warnings_are_escaped():
    covered = {
        "void_share": 0.941,
        "true_thing_share": 0.059,
        "predicted_thing_share": 1.0,
        "void_predicted_as_things": None,
        "true_segments": 41,
        "predicted_segments": 1311,
    }
    page = _Page(
        report.render_report(
            title="t", metrics={**_metrics(), **covered}, warnings=["94% is <void>."]
        )
    )
    for text in ("What is covered", "94.1", "5.9", "100.0", "41", "1,311", "94% is <void>."):
        assert text in page.texts, text
    assert "% of void" not in page.texts  # no value
    page = _Page(report.render_report(title="t", metrics=_metrics()))
    assert "What is covered" not in page.texts


ERRORS = [
    {"kind": "correct", "PQ_lost": 10.25, "PQ_lost_things": 5.0, "PQ_lost_stuff": None},
    {"kind": "missed", "PQ_lost": 18.5, "PQ_lost_things": 7.0, "PQ_lost_stuff": None},
]
COUNTS = {
    **{"annotated_things": 1234, "predicted_things": None},
    **{"annotated_stuff": 0, "predicted_stuff": None},
}
BINS = [
    {"score_min": 0.2, "score_max": 0.4, "mean_score": 0.3, "precision": 0.5, "segments": 10},
    {"score_min": 0.8, "score_max": 1.0, "mean_score": 0.9, "precision": 0.75, "segments": 40},
]


def test_errors_are_a_table_whose_costs_add_up():
    metrics = {**_metrics(), "errors": [{**row, **COUNTS} for row in ERRORS]}
    page = _Page(report.render_report(title="t", metrics=metrics))
    start = page.texts.index("What PQ lacks")
    assert page.texts[start:].count("stuff") == 1  # its counts; PQ of stuff there is none
    row = page.texts[page.texts.index("missed") :][:8]
    assert row == ["missed", row[1], "1,234", "–", "0", "–", "18.5", "7.0"]
    total = page.texts[page.texts.index("100 − PQ") :][:3]
    assert total == ["100 − PQ", "28.8", "12.0"]
    without = _Page(report.render_report(title="t", metrics={**_metrics(), "errors": []}))
    assert "What PQ lacks" not in without.texts


def test_calibration_is_a_plot_and_a_table():
    page = _Page(report.render_report(title="t", metrics={**_metrics(), "calibration": BINS}))
    row = page.texts[page.texts.index("0.80 to 1.00") :][:4]
    assert row == ["0.80 to 1.00", "40", "0.90", "0.75"]
    bars = [value for tag, key, value in page.attributes if tag == "rect" and key == "class"]
    assert bars == ["right", "count"] * 2
    heights = [float(v) for tag, key, v in page.attributes if tag == "rect" and key == "height"]
    assert heights[:4] == [120.0, 8.5, 180.0, 34.0]  # 240 x precision, 34 x share of the most
    assert "Calibration" not in _Page(_render()).texts


def test_boundary_quality_of_categories_only_where_it_was_measured():
    assert "boundary PQ" not in _Page(_render()).texts
    metrics = _metrics()
    metrics["per_category"][2]["PQ_boundary"] = 44.4
    page = _Page(report.render_report(title="t", metrics={**metrics, "PQ_boundary": 33.3}))
    for text in ("boundary PQ", "44.4", "boundary, all", "33.3"):
        assert text in page.texts, text


def test_gallery_shows_the_worst_first_and_the_unscored_last():
    gallery = [
        {"image_id": name, "pq": pq, "panel": PANEL}
        for name, pq in (("b", 50.0), ("d", 90.0), ("a", 10.0), ("e", None), ("c", 70.0))
    ]
    groups = report._split_gallery(gallery)
    assert [item["image_id"] for item in groups["worst"]] == ["a", "b", "e"]
    assert [item["image_id"] for item in groups["best"]] == ["d", "c"]
    groups = report._split_gallery([{**item, "group": "best"} for item in gallery])
    assert [item["image_id"] for item in groups["best"]] == ["d", "c", "b", "a"]


def test_categories_are_sorted_by_pq_things_first():
    page = _Page(_render())
    order = [page.texts.index(name) for name in ("Things", "car", "unmatched", "Stuff", "road")]
    assert order == sorted(order)


def test_categories_that_nothing_is_known_of_take_one_line():
    page = _Page(_render())
    assert "absent" not in page.texts
    assert "1 more: neither annotated nor predicted." in page.texts


def test_pictures_are_arrays_or_known_bytes():
    assert "data:image/png;base64," in markup.image(images.encode_png(PANEL), "p")
    assert "data:image/jpeg;base64," in markup.image(images.encode_jpeg(PANEL), "p")
    assert "data:image/jpeg;base64," in markup.image(PANEL, "p")
    with pytest.raises(ValueError, match="image 3: the picture must be PNG or JPEG, got b'GIF"):
        markup.image(b"GIF89a..", "image 3")


def test_resized_masks_keep_their_values():
    mask = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(images.resize_mask(mask, 4, 6), np.kron(mask, np.ones((2, 2))))
    np.testing.assert_array_equal(images.resize_mask(mask, 2, 3), mask)
    assert images.fit_size(480, 640, 320) == (240, 320)


def _metrics(name="car"):
    none = {"PQ": None, "SQ": math.nan, "RQ": None, "IoU": None, "tp": 0, "fp": 0, "fn": 0}
    scored = {"PQ": 71.25, "SQ": 80.0, "RQ": 90.0, "IoU": 75.0, "tp": 3, "fp": 1, "fn": 2}
    return {
        **{key: 71.25 for key in ("PQ", "SQ", "RQ", "PQ_things", "PQ_stuff", "mIoU")},
        "AP": None,
        "per_category": [
            {"id": 1, "name": "unmatched", "is_thing": True, **none, "IoU": 12.5},
            {"id": 5, "name": "absent", "is_thing": True, **none},
            {"id": 2, "name": name, "is_thing": True, **scored},
            {"id": 3, "name": "road", "is_thing": False, **scored},
        ],
    }


def _render(title="t", name="car", image_id="i", form="keras", extra="v"):
    return report.render_report(
        title=title,
        metrics={form: _metrics(name)},
        subtitle="s",
        colors=((0, 0, 0), (1, 2, 3), (4, 5, 6), (7, 8, 9)),
        gallery=[{"image_id": image_id, "pq": 91.2, "panel": PANEL, "note": extra}],
        extras={extra: {extra: extra}},
    )

"""The page of a data set: whole, escaped, and asking for nothing."""

import html.parser

import numpy as np
import pytest

from panoptic_tf.visualization import data_page, markup

EVIL = "<script>alert('x')</script>\"&"
PANEL = np.full((8, 24, 3), 200, np.uint8)


def category(name, **changes):
    values = {"images": 50, "segments": 60, "crowds": 1, "pixels": 700, "pixel_share": 0.25}
    return {"id": 1, "name": name, "is_thing": True, **values, **changes}


def report(**changes):
    bins = [{"low": 4.0, "high": 5.7, "count": 3}, {"low": 5.7, "high": 8.0, "count": 6}]
    histograms = dict.fromkeys(
        (
            "longer_side_of_images",
            "square_root_of_thing_area",
            "square_root_of_stuff_area",
            "segments_of_an_image",
        ),
        bins,
    )
    return {
        "num_images": 100,
        "num_segments": 1234,
        "num_crowds": 0,
        "num_instances": 0,
        "void_share": 0.125,
        "ground_truth_PQ": 100.0,
        "per_category": [category("cat"), category("newt", images=3, pixels=900)],
        "histograms": histograms,
        "problems": [],
        "notes": [],
        **changes,
    }


class Page(html.parser.HTMLParser):
    """Tags, links and texts; every tag must be closed in order."""

    VOID_TAGS = ("meta", "img")

    def __init__(self, page):
        super().__init__()
        self.tags, self.sources, self.texts, self._open = [], [], [], []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for key, value in attrs if key in ("src", "href")]
        if tag not in self.VOID_TAGS:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if data.strip() and "style" not in self._open:
            self.texts.append(data.strip())


def render(**options):
    values = {"title": "t", "report": report(), "colors": [(1, 2, 3), (4, 5, 6)], **options}
    return data_page.render_data_page(**values)


def item(name, *reasons):
    return {"name": name, "reasons": reasons, "panel": PANEL}


def test_what_is_on_the_page():
    text = render(
        suspicious=[item("a.png", "much void", "two reasons")],
        sample=[item("b.png")],
        kinds=[("much void", 7)],
        command="panoptic-tf inspect",
    )
    page = Page(text)
    for expected in ("1,234", "12.5%", "2 of 2", "much void; two reasons", "much void: 7 images."):
        assert expected in page.texts
    assert page.tags.count("img") == 2 and page.tags.count("svg") == 4 + 2
    assert page.texts.index("a.png") < page.texts.index("cat") < page.texts.index("b.png")
    # Categories by their pixels; only what is in fewer than ten images is rare.
    assert page.texts.index("newt") < page.texts.index("cat") and page.texts.count("rare") == 1
    assert page.texts[page.texts.index("newt") + 1] == "rare"


def test_it_asks_for_nothing():
    text = render(suspicious=[item("a", "b")])
    page = Page(text)
    assert "script" not in page.tags and "link" not in page.tags
    assert page.sources and all(source.startswith("data:image/") for source in page.sources)
    assert "default-src 'none'" in text
    assert "http:" not in text and "https:" not in text and "url(" not in text


def test_texts_from_data_are_escaped():
    text = render(
        title=EVIL,
        report=report(problems=[EVIL], notes=[EVIL], per_category=[category(EVIL)]),
        suspicious=[item(EVIL, EVIL)],
        kinds=[(EVIL, 1)],
        command=EVIL,
    )
    page = Page(text)
    assert "script" not in page.tags
    assert sum(EVIL in found for found in page.texts) == 9


def test_an_empty_data_set():
    empty = dict.fromkeys(report()["histograms"], [])
    changes = {"num_images": 0, "num_segments": 0, "per_category": [], "ground_truth_PQ": None}
    page = Page(render(report=report(histograms=empty, **changes)))
    assert "0 of 0" in page.texts and "svg" not in page.tags
    assert not any("nan" in found.lower() or found == "None" for found in page.texts)


def test_many_problems_are_cut():
    page = Page(render(report=report(problems=[f"problem {i}" for i in range(250)])))
    assert "and 50 more" in page.texts and "problem 200" not in page.texts


def test_pictures_that_are_none():
    with pytest.raises(ValueError, match="a: the picture must be PNG or JPEG, got b'GIF8'"):
        markup.image(b"GIF8", "a")
    with pytest.raises(ValueError, match="image must be uint8"):
        markup.image(PANEL.astype(float), "a")

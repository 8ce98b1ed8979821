"""The images that a page shows: the strangest first, and a sample that favours none."""

import json

import numpy as np
import pytest
from PIL import Image

from panoptic_tf.datasets import doctor, segments
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.evaluation import data_page
from panoptic_tf.metrics.panoptic_quality import PanopticQuality

INFO = DatasetInfo.from_coco([{"id": 3, "name": "grass", "isthing": 0}], name="x")


def write(folder, void_rows):
    """Images of grass of 10 x 12 pixels, each with some void rows above."""
    for name in ("images", "panoptic"):
        (folder / name).mkdir()
    content = {"images": [], "annotations": [], "categories": INFO.to_coco()}
    for i, rows in enumerate(void_rows):
        pixels = np.random.default_rng(i).integers(0, 256, [10, 12, 3], np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        ids = np.full([10, 12], 9, np.uint32)
        ids[:rows] = 0
        Image.fromarray(segments.id_to_rgb(ids)).save(folder / "panoptic" / f"{i}.png")
        content["images"].append({"id": i, "file_name": f"{i}.png", "height": 10, "width": 12})
        table = [{"id": 9, "category_id": 3}] if rows < 10 else []
        content["annotations"].append(
            {"image_id": i, "file_name": f"{i}.png", "segments_info": table}
        )
    (folder / "panoptic.json").write_text(json.dumps(content))


def look(folder, page, **changes):
    paths = {
        "panoptic_json": str(folder / "panoptic.json"),
        "panoptic_dir": str(folder / "panoptic"),
        "image_dir": str(folder / "images"),
        **changes,
    }
    return doctor.examine_coco_panoptic(**paths, build_quality=PanopticQuality, look=page.add)


@pytest.fixture
def shown(monkeypatch):
    """What the page is made of."""
    calls = []
    monkeypatch.setattr(
        data_page.data_page, "render_data_page", lambda **options: calls.append(options) or "page"
    )
    return calls


def ids(items):
    return [int(item["name"].split()[-1]) for item in items]


def test_the_strangest_come_first(tmp_path, shown):
    write(tmp_path, [2, 6, 10, 3, 8, 7, 2, 6])
    page = data_page.DataPage(num_images=3, tile_size=32)
    report = look(tmp_path, page)
    page.save(str(tmp_path / "index.html"), report, title="t")
    (options,) = shown
    assert ids(options["suspicious"]) == [2, 4, 5]  # No label, 80 % and 70 % void.
    assert options["suspicious"][1]["reasons"] == ["80% of the pixels are void"]
    assert dict(options["kinds"]) == {"no label": 1, "much void": 4}
    assert page.num_suspicious == 5
    assert options["colors"] == [INFO.categories[0].color]
    assert len(set(ids(options["sample"]))) == 3
    assert (tmp_path / "index.html").read_text() == "page"


def test_of_equals_the_first_stay(tmp_path, shown):
    write(tmp_path, [8, 8, 8, 8])
    page = data_page.DataPage(num_images=2, tile_size=32)
    page.save(str(tmp_path / "x" / "index.html"), look(tmp_path, page), title="t")
    assert ids(shown[0]["suspicious"]) == [0, 1]


def test_every_image_has_the_same_chance(tmp_path, shown, monkeypatch):
    write(tmp_path, [0] * 8)
    monkeypatch.setattr(data_page.DataPage, "_draw", lambda *_: b"")
    seen = []
    doctor_page = data_page.DataPage(num_images=0)
    doctor_page.add = lambda image, info: seen.append(image)
    look(tmp_path, doctor_page)
    counts = np.zeros(8)
    for seed in range(400):
        page = data_page.DataPage(num_images=2, seed=seed)
        for image in seen:
            page.add(image, INFO)
        page.save(str(tmp_path / "i.html"), {"per_category": [None]}, title="t")
        counts[ids(shown.pop()["sample"])] += 1
    assert counts.sum() == 800  # 100 of each, give or take four standard deviations.
    assert np.abs(counts - 100).max() < 4 * np.sqrt(400 * 0.25 * 0.75)


def test_the_whole_page(tmp_path):
    write(tmp_path, [1, 8])
    page = data_page.DataPage(num_images=4, tile_size=64)
    report = look(tmp_path, page)
    page.save(str(tmp_path / "index.html"), report, title="grass", command="inspect")
    text = (tmp_path / "index.html").read_text()
    assert text.count("data:image/jpeg") == 3 and "80% of the pixels are void" in text


def test_without_photographs_masks_are_drawn_on_grey(tmp_path, shown):
    write(tmp_path, [3])
    page = data_page.DataPage(tile_size=64)
    page.save(str(tmp_path / "i.html"), look(tmp_path, page, image_dir=None), title="t")
    (item,) = shown[0]["sample"]
    assert item["panel"].startswith(b"\xff\xd8\xff")


def test_a_page_without_images_counts_them(tmp_path, shown):
    write(tmp_path, [8, 1, 8])
    page = data_page.DataPage(num_images=0)
    page.save(str(tmp_path / "i.html"), look(tmp_path, page), title="t")
    assert page.num_suspicious == 2 and shown[0]["kinds"] == [("much void", 2)]
    assert shown[0]["suspicious"] == shown[0]["sample"] == []


def test_no_image_at_all(tmp_path):
    write(tmp_path, [0])
    (tmp_path / "images" / "0.png").write_bytes(b"")
    page = data_page.DataPage(tile_size=64)
    report = look(tmp_path, page)
    page.save(str(tmp_path / "i.html"), report, title="t")
    assert "cannot be decoded" in (tmp_path / "i.html").read_text()

import hashlib
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from panoptic_tf.datasets import shapes, shapes_writer
from panoptic_tf.datasets.dataset_info import DatasetInfo

NUM_LOOKED_AT = 60
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def images():
    return [shapes.generate_image(0, index) for index in range(NUM_LOOKED_AT)]


def test_first_five_images_are_the_published_ones(images):
    digest = hashlib.sha256()
    for image in images[:5]:
        digest.update(image.image.tobytes())
        digest.update(image.id_map.astype("<i4").tobytes())
        digest.update(json.dumps(image.segments, sort_keys=True).encode())
    assert digest.hexdigest() == "ead7d17bc0665322a59c1a5f4ebf4c35b66b5fe432489f66539741344416e1a4"


def test_categories_are_the_built_in_data_set():
    info = DatasetInfo.load("shapes")
    assert info.names[1:] == shapes.THING_NAMES + shapes.STUFF_NAMES
    assert info.thing_ids == (1, 2, 3, 4, 5, 6)
    assert info.stuff_ids == (7, 8, 9, 10)
    assert len(set(info.colors)) == 11


def test_an_image_depends_on_seed_and_index_alone():
    again = shapes.generate_image(0, 7)
    np.testing.assert_array_equal(again.image, shapes.generate_image(0, 7).image)
    assert np.any(again.image != shapes.generate_image(1, 7).image)
    assert np.any(again.image != shapes.generate_image(0, 8).image)


def test_segments_describe_the_id_map(images):
    for image in images:
        assert image.image.shape == (128, 128, 3) and image.image.dtype == np.uint8
        ids = [s["id"] for s in image.segments]
        assert sorted(set(np.unique(image.id_map)) - {0}) == ids
        for segment in image.segments:
            rows, columns = np.nonzero(image.id_map == segment["id"])
            left, top, width, height = segment["bbox"]
            assert segment["area"] == rows.size
            assert (rows.min(), rows.max()) == (top, top + height - 1)
            assert (columns.min(), columns.max()) == (left, left + width - 1)
            assert segment["category_id"] in range(1, 11)
            assert segment["category_id"] > 6 or segment["area"] >= 40


def test_stuff_categories_are_unique_and_things_are_at_most_eight(images):
    for image in images:
        stuff = [s["category_id"] for s in image.segments if s["category_id"] > 6]
        assert len(stuff) == len(set(stuff)) and 1 <= len(stuff) <= 3
        assert len(image.segments) - len(stuff) <= 8


def test_crowds_are_the_largest_thing(images):
    num_crowds = 0
    for image in images:
        crowds = [s["area"] for s in image.segments if s["iscrowd"]]
        things = [s["area"] for s in image.segments if s["category_id"] <= 6]
        assert crowds == [] or crowds == [max(things)]
        num_crowds += len(crowds)
    assert 0 < num_crowds < NUM_LOOKED_AT / 4


def test_unit_outlines_have_the_areas_of_their_figures():
    # Area / radius^2; the star is ten triangles of sides 1 and 0.45 at 36 degrees.
    expected = {
        "disc": np.pi,
        "square": 2.0,
        "triangle": 0.75 * np.sqrt(3.0),
        "star": 5.0 * 0.45 * np.sin(np.pi / 5.0),
        "ring": 0.75 * np.pi,
        "cross": 8.0 / 3.0 * np.sqrt(8.0) / 3.0 - 4.0 / 9.0,
    }
    for kind, name in enumerate(shapes.THING_NAMES):
        thing = shapes._Thing(kind, np.array([256.0, 256.0]), 200.0, 0.3)
        area = np.count_nonzero(shapes._rasterize(thing, 512)) / 200.0**2
        assert area == pytest.approx(expected[name], rel=0.005), name


def test_twin_touches_and_does_not_cover():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        first, twin = (shapes._random_thing(rng, 128) for _ in range(2))
        first_mask = shapes._rasterize(first, 128)
        _, mask = shapes._move_until_touching(rng, twin, first, first_mask)
        assert np.any(mask & shapes._grow(first_mask))
        assert np.count_nonzero(mask & first_mask) <= 0.1 * np.count_nonzero(first_mask)


def test_size_scales_what_is_drawn():
    # The same draws at twice the size: bands have the same outline up to half a pixel.
    small, large = (shapes.generate_image(0, 3, size) for size in (64, 128))
    assert small.image.shape == (64, 64, 3)
    assert len(small.segments) >= 1
    same_band = (small.id_map == 1) == (large.id_map[::2, ::2] == 1)
    assert same_band.mean() > 0.8


@pytest.mark.parametrize("num_processes", [1, 2])
def test_written_split_is_coco_panoptic(tmp_path, images, num_processes):
    json_path = _write(tmp_path, num_images=3, num_processes=num_processes)
    content = json.loads(open(json_path, "rb").read())
    assert content["categories"] == DatasetInfo.load("shapes").to_coco()
    assert [i["id"] for i in content["images"]] == [0, 1, 2]
    for index, annotation in enumerate(content["annotations"]):
        assert annotation["segments_info"] == images[index].segments
        name = annotation["file_name"]
        written = np.asarray(Image.open(tmp_path / "images" / name))
        np.testing.assert_array_equal(written, images[index].image)
        ids = np.asarray(Image.open(tmp_path / "panoptic" / name)).astype(int)
        np.testing.assert_array_equal(ids @ [1, 256, 65536], images[index].id_map)


def test_complete_split_is_left_alone_and_another_recipe_replaces_it(tmp_path):
    json_path = _write(tmp_path, num_images=2)
    written_at = os.stat(json_path).st_mtime_ns
    image = tmp_path / "images" / "000000.png"
    image.unlink()
    assert _write(tmp_path, num_images=2) == json_path
    assert os.stat(json_path).st_mtime_ns == written_at and not image.exists()
    _write(tmp_path, num_images=1)
    assert image.exists()
    assert len(json.loads(open(json_path, "rb").read())["images"]) == 1


def test_interrupted_split_has_no_json(tmp_path, monkeypatch):
    _write(tmp_path, num_images=2)

    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes, "generate_image", fail)
    with pytest.raises(KeyboardInterrupt):
        _write(tmp_path, num_images=3)
    assert not (tmp_path / "panoptic.json").exists()


def test_annotations_of_another_data_set_are_not_overwritten(tmp_path):
    (tmp_path / "panoptic.json").write_text('{"info": {"description": "COCO"}, "images": []}')
    with pytest.raises(ValueError, match=r"panoptic\.json: info\.description .*another"):
        _write(tmp_path, num_images=1)


@pytest.mark.parametrize("field", ["num_images", "size", "num_processes"])
def test_numbers_are_checked(tmp_path, field):
    with pytest.raises(ValueError, match=f"{field} must be at least 1, got 0"):
        _write(tmp_path, **{"num_images": 1, field: 0})


def _write(folder, **kwargs):
    return shapes_writer.write_split(str(folder), seed=0, show_progress=False, **kwargs)


def test_command_writes_both_splits(tmp_path):
    command = [sys.executable, str(ROOT / "experiments" / "shapes.py"), f"--output_dir={tmp_path}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [*command, "--num_images=1", "--size=32", "--num_processes=1"], env=environment, check=True
    )
    seeds = {
        split: json.loads((tmp_path / split / "panoptic.json").read_text())["info"]["seed"]
        for split in ("train", "val")
    }
    assert seeds == {"train": 0, "val": 1}
    same_seed = subprocess.run([*command, "--seed=0"], env=environment, capture_output=True)
    assert same_seed.returncode != 0 and b"--split=train or --split=val" in same_seed.stderr

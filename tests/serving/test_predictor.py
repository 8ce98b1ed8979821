"""The Predictor: any image in, arrays of its own size out, and errors that name the file."""

import io
import json
import os
import pathlib

import numpy as np
import pandas
import pytest
from PIL import Image

import panoptic_tf
from panoptic_tf.datasets.coco_format import read_id_map
from panoptic_tf.serving.predictor import PanopticResult, Predictor, UnreadableImages

SERVING_DIR = pathlib.Path(panoptic_tf.__file__).parent / "serving"


@pytest.fixture(scope="module")
def predictors(saved_model_dir, tflite_path):
    return {"saved_model": Predictor(saved_model_dir), "tflite": Predictor(tflite_path)}


@pytest.fixture(params=["saved_model", "tflite"])
def predictor(request, predictors):
    return predictors[request.param]


def test_describes_its_model(predictor, dataset_info):
    assert predictor.dataset_info == dataset_info
    assert predictor.input_size == (32, 48)
    assert predictor.experiment == "stand_in"


@pytest.mark.parametrize("size", [(32, 48), (17, 31), (333, 101), (1, 1), (2, 300)])
def test_exact_original_size(predictor, make_image, size):
    result = predictor(make_image(*size))
    assert isinstance(result, PanopticResult)
    assert result.image_size == size
    assert result.category_mask.shape == result.instance_mask.shape == size
    assert result.category_mask.dtype == result.instance_mask.dtype == np.int32
    assert result.category_mask.min() > 0  # this network leaves no void
    assert sum(segment.area for segment in result.segments) == size[0] * size[1]


def test_boxes_of_detections_are_the_images(predictor, make_image, monkeypatch):
    # The image fills 16 x 48 of the model's output and is twice as high and a third as wide.
    answer = {
        "category_mask": np.ones((32, 48), np.int32),
        "image_size": np.array([16, 48], np.int32),
        "detection_boxes": np.array([[4, 12, 8, 24], [0, 0, 16, 48]], np.float32),
    }
    monkeypatch.setattr(predictor, "_model", lambda pixels: answer)
    arrays = predictor.predict_arrays(make_image(32, 16))
    np.testing.assert_allclose(arrays["detection_boxes"], [[8, 4, 16, 8], [0, 0, 32, 16]])
    assert arrays["image_size"].tolist() == [32, 16] == list(arrays["category_mask"].shape)


def test_finds_the_colors(predictor):
    """Left third red, the rest green, at a size the network scales up."""
    image = np.full((12, 18, 3), (40, 220, 40), np.uint8)
    image[:, :6] = (220, 40, 40)
    result = predictor(image)
    expected = np.where(np.arange(18) < 6, 1, 2) * np.ones((12, 1), int)
    assert (result.category_mask == expected).mean() > 0.9
    red, green = result.segments
    assert (red.name, red.category_id, red.dataset_category_id) == ("red", 1, 7)
    assert (green.name, green.category_id, green.dataset_category_id) == ("green", 2, 11)
    assert red.is_thing and red.instance_id == 1
    assert not green.is_thing and green.instance_id == 0
    assert 0 < red.score <= 0.5 < green.score <= 1  # the stand-in's objectness is 0.5
    assert red.bbox == (0, 0, red.area // 12, 12)
    np.testing.assert_array_equal(result.instance_mask > 0, result.category_mask == 1)


def test_saved_model_equals_tflite(predictors, make_image):
    for size in ((32, 48), (60, 50), (10, 11)):
        first, second = (predictors[kind](make_image(*size)) for kind in ("saved_model", "tflite"))
        np.testing.assert_array_equal(first.category_mask, second.category_mask)
        np.testing.assert_array_equal(first.instance_mask, second.instance_mask)
        for one, other in zip(first.segments, second.segments):
            assert one.score == pytest.approx(other.score, abs=1e-5)


def test_paths_bytes_and_lists(predictor, make_image, encode, tmp_path):
    image = make_image(20, 25)
    path = tmp_path / "image.png"
    path.write_bytes(encode(image))
    results = predictor([image, str(path), path, encode(image)])
    assert len(results) == 4
    for result in results:
        np.testing.assert_array_equal(result.id_map, results[0].id_map)


def test_result_forms(predictor, make_image, tmp_path):
    image = make_image(40, 60)
    result = predictor(image)
    coco = result.to_coco()
    assert coco["id_map"].dtype == np.uint32
    assert {s["category_id"] for s in coco["segments_info"]} <= {7, 11, 30}
    assert json.loads(json.dumps(coco["segments_info"])) == coco["segments_info"]
    for segment in coco["segments_info"]:
        assert (coco["id_map"] == segment["id"]).sum() == segment["area"]
    result.save_png(str(tmp_path / "ids.png"))
    np.testing.assert_array_equal(read_id_map(str(tmp_path / "ids.png")), coco["id_map"])
    painted = result.plot()
    assert painted.shape == image.shape and painted.dtype == np.uint8
    assert "40 x 60" in repr(result)


def test_unreadable_images_are_named(predictor, make_image, encode, tmp_path):
    content = encode(make_image(30, 40))
    files = {"text.jpg": b"not an image", "cut.png": content[:500], "empty.png": b""}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    for name, message in [
        ("text.jpg", "expected a photograph .JPEG, PNG, WebP, .*got 12 bytes"),
        ("cut.png", "damaged or truncated"),
        ("empty.png", "got an empty file"),
        ("missing.png", "no such file"),
        ("", "is a folder, not a file"),
    ]:
        with pytest.raises(ValueError, match=f"{name}.*{message}"):
            predictor(str(tmp_path / name))
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\], got float32 \[4, 4, 3\]"):
        predictor(np.zeros((4, 4, 3), np.float32))
    with pytest.raises(ValueError, match="the image must be a path, .*, got int"):
        predictor(3)
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ValueError, match="pipe.jpg: is a pipe"):
        predictor(tmp_path / "pipe.jpg")


def test_unreadable_images_do_not_lose_the_others_of_a_list(predictor, make_image, encode):
    image = make_image(20, 30)
    with pytest.raises(
        UnreadableImages, match=r"2 of 4 images .*images\[1\].*images\[3\]"
    ) as caught:
        predictor([image, b"text", encode(image), 3])
    results = caught.value.results
    assert [result is None for result in results] == [False, True, False, True]
    np.testing.assert_array_equal(results[0].id_map, results[2].id_map)
    assert len(caught.value.problems) == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1"])
def test_pillow_images(predictor, make_image, encode, mode):
    image = Image.fromarray(make_image(20, 30)).convert(mode)
    expected = predictor(np.asarray(image.convert("RGB")))
    np.testing.assert_array_equal(predictor(image).id_map, expected.id_map)
    with Image.open(io.BytesIO(encode(image))) as lazy:
        np.testing.assert_array_equal(predictor(lazy).id_map, expected.id_map)


def test_pillow_images_that_cannot_be_read(tflite_path, make_image, encode):
    small = Predictor(tflite_path, max_pixels=100)
    with pytest.raises(ValueError, match="8 bits a channel, got mode 'I;16' of Pillow"):
        small(Image.fromarray(np.zeros((5, 5), np.uint16)))
    with pytest.raises(ValueError, match="the image has 20 x 25 pixels"):
        small(Image.fromarray(make_image(20, 25)))
    with Image.open(io.BytesIO(encode(make_image(10, 10))[:-150])) as cut:
        with pytest.raises(ValueError, match="the image is damaged or truncated"):
            small(cut)


@pytest.mark.parametrize("exif, size", [("apply", (20, 12)), ("ignore", (12, 20))])
def test_an_orientation(tflite_path, make_image, encode, tmp_path, exif, size):
    block = Image.Exif()
    block[0x0112] = 6  # the top of the scene is at the right
    path = tmp_path / "a.png"
    path.write_bytes(encode(make_image(12, 20), exif=block))
    predictor = Predictor(tflite_path, exif=exif)
    result = predictor(path)
    seen = np.rot90(make_image(12, 20), -1) if exif == "apply" else make_image(12, 20)
    assert result.image_size == size
    np.testing.assert_array_equal(result.id_map, predictor(np.ascontiguousarray(seen)).id_map)


def test_arguments_out_of_range(tflite_path):
    with pytest.raises(ValueError, match="exif must be one of apply, ignore, got 'turn'"):
        Predictor(tflite_path, exif="turn")
    with pytest.raises(ValueError, match=r"score_threshold must lie in 0\.\.1, got 50"):
        Predictor(tflite_path, score_threshold=50)


def test_things_below_a_score_become_void(tflite_path, make_image):
    image = make_image(40, 60)
    whole = Predictor(tflite_path)(image)
    scores = sorted(s.score for s in whole.segments if s.is_thing)
    assert len(scores) > 1 and scores[0] < scores[-1] < 1
    result = Predictor(tflite_path, score_threshold=scores[-1])(image)
    assert [s.score for s in result.segments if s.is_thing] == scores[-1:]
    stuff = [s for s in whole.segments if not s.is_thing]
    assert [s.area for s in result.segments if not s.is_thing] == [s.area for s in stuff]
    is_gone = whole.instance_mask != result.instance_mask
    assert is_gone.sum() == sum(s.area for s in whole.segments if s.score < scores[-1])
    assert not result.category_mask[is_gone].any() and not result.id_map[is_gone].any()
    np.testing.assert_array_equal(result.category_mask[~is_gone], whole.category_mask[~is_gone])
    nothing = Predictor(tflite_path, score_threshold=1.0)(image)
    assert not any(s.is_thing for s in nothing.segments)
    everything = Predictor(tflite_path, score_threshold=0.0)(image)
    np.testing.assert_array_equal(everything.id_map, whole.id_map)


def test_one_dictionary_a_segment(predictor, make_image):
    result = predictor(make_image(40, 60))
    table = pandas.DataFrame(result.to_dicts())
    assert list(table.columns) == [
        *("id", "instance_id", "category_id", "dataset_category_id", "name", "is_thing", "score"),
        *("area", "x", "y", "width", "height"),
    ]
    first = result.segments[0]
    assert tuple(table.loc[0, ["x", "y", "width", "height"]]) == first.bbox
    assert table["area"].sum() == 40 * 60 and table.loc[0, "name"] == first.name
    assert json.loads(json.dumps(result.to_dicts())) == result.to_dicts()


def test_pixel_cap(tflite_path, make_image, encode):
    small = Predictor(tflite_path, max_pixels=100)
    with pytest.raises(ValueError, match=r"20 x 25 pixels .* limit is 100"):
        small(encode(make_image(20, 25)))
    assert small(encode(make_image(10, 10))).image_size == (10, 10)


def test_what_is_no_model(tmp_path, saved_model_dir):
    with pytest.raises(ValueError, match="no such file or folder"):
        Predictor(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is not a model"):
        Predictor(tmp_path)
    (tmp_path / "model.bin").write_bytes(b"something else")
    with pytest.raises(ValueError, match="model.bin is not a TFLite file"):
        Predictor(tmp_path / "model.bin")
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "saved_model.pb").write_bytes(b"")
    with pytest.raises(ValueError, match=r"dataset_info.json: .*export-saved-model"):
        Predictor(tmp_path)
    (tmp_path / "2" / "assets").mkdir()
    asset = os.path.join(saved_model_dir, "1", "assets", "dataset_info.json")
    (tmp_path / "2" / "assets" / "dataset_info.json").write_bytes(open(asset, "rb").read())
    (tmp_path / "2" / "saved_model.pb").write_bytes(b"junk")
    with pytest.raises(ValueError, match="cannot be loaded as a SavedModel"):
        Predictor(tmp_path)


def test_newest_version_by_number(saved_model_dir, tmp_path):
    for version in ("9", "10"):
        os.symlink(os.path.join(saved_model_dir, "1"), tmp_path / version)
    (tmp_path / "11").mkdir()  # empty: a folder that someone is still filling
    from panoptic_tf.serving.predictor import find_version

    assert find_version(str(tmp_path)) == str(tmp_path / "10")
    assert find_version(os.path.join(saved_model_dir, "1")).endswith("1")


def test_nothing_here_unpickles():
    for path in SERVING_DIR.rglob("*.py"):
        text = path.read_text()
        assert "pickle" not in text and "np.load" not in text and "eval(" not in text, path

"""Tiles of an image and the one map made of them."""

import tracemalloc

import numpy as np
import pytest

from panoptic_tf.metrics.panoptic_quality import PanopticQuality
from panoptic_tf.serving import tiling
from panoptic_tf.serving.predictor import PanopticResult, Predictor
from panoptic_tf.structures import Prediction

DISC, SQUARE, SKY = 1, 2, 3  # SKY is stuff


def tile(rows, scores=None):
    """A tile drawn as text: `.` void, `s` sky, digits discs, letters A.. squares."""
    characters = np.array([list(row) for row in rows])
    is_square = np.char.isupper(characters)
    category = np.select(
        [characters == ".", characters == "s", is_square], [0, SKY, SQUARE], default=DISC
    )
    codes = characters.view(np.uint32).reshape(characters.shape)
    instance = np.where((category == DISC) | (category == SQUARE), codes, 0)
    keys = set(zip(category.ravel().tolist(), instance.ravel().tolist())) - {(0, 0)}
    scores = {key: (scores or {}).get(chr(key[1]) if key[1] else "s", 0.5) for key in keys}
    return tiling.TilePrediction(category.astype(np.int32), instance.astype(np.int32), scores)


def merge(width, tiles):
    """Tiles of one row by their first column."""
    height = len(tiles[0][1].category_mask)
    merger = tiling.TileMerger((height, width), height, num_categories=3)
    for left, one in tiles:
        merger.add(0, left, one)
    return merger.finish()


def drawn(arrays):
    """The first row of a result as text, things by number."""
    instances = arrays[Prediction.INSTANCE_MASK][0]
    categories = arrays[Prediction.CATEGORY_MASK][0]
    names = np.where(categories == SKY, "s", np.where(categories == 0, ".", instances.astype(str)))
    return "".join(names)


def test_tiles_cover_the_image():
    one = tiling.Tiling.of(128, 32)
    assert one == tiling.Tiling.of([128, 128]) == ((128, 128), 32)
    # 32 + 2 * 96 = 224 needs two, one pixel more a third; they spread evenly.
    assert one.starts((224, 225)) == ([0, 96], [0, 48, 97])
    assert one.starts((100, 128)) == ([0], [0])
    assert not one.cuts((128, 100)) and one.cuts((129, 10))
    rng = np.random.default_rng(0)
    for _ in range(200):
        side = int(rng.integers(2, 50))
        overlap = int(rng.integers(0, side // 2 + 1))
        length = int(rng.integers(1, 400))
        starts = tiling.Tiling.of(side, overlap).starts((length, length))[0]
        assert starts[0] == 0 and starts[-1] == max(length - side, 0)
        steps = np.diff(starts)
        assert (steps > 0).all() and (steps <= side - overlap).all()


@pytest.mark.parametrize(
    "size, overlap, message",
    [
        (1, None, "tile_size must be a side or height and width"),
        ([64, 64, 64], None, r"got \[64, 64, 64\]"),
        (64.0, None, "got 64.0"),
        (True, None, "got True"),
        ([64, 32], 17, r"tile_overlap must lie in 0\.\.16, .* got 17"),
        (64, -1, "got -1"),
        (None, 8, "set tile_size too"),
    ],
)
def test_arguments_out_of_range(size, overlap, message):
    with pytest.raises(ValueError, match=message):
        tiling.Tiling.of(size, overlap)


def test_a_thing_across_a_seam_is_one():
    # Columns 4..7 are shared, and both see the disc in 5..7; it ends in 9.
    arrays = merge(
        12,
        [
            (0, tile(["sssss111"], {"1": 0.6, "s": 0.4})),
            (4, tile(["s77777ss"], {"7": 0.9, "s": 0.8})),
        ],
    )
    assert drawn(arrays) == "sssss11111ss"
    assert arrays[Prediction.NUM_SEGMENTS] == 2
    assert arrays[Prediction.SEGMENT_CATEGORY].tolist() == [SKY, DISC]
    assert arrays[Prediction.SEGMENT_INSTANCE].tolist() == [0, 1]
    assert arrays[Prediction.SEGMENT_AREA].tolist() == [7, 5]
    # Stuff by pixels of its parts, 5 and 3; of things the best.
    np.testing.assert_allclose(
        arrays[Prediction.SEGMENT_SCORE], [(0.4 * 5 + 0.8 * 3) / 8, 0.9], rtol=1e-6
    )


def test_a_thing_grows_over_many_tiles():
    first, middle, last = tile(["ss111111"]), tile(["22222222"]), tile(["3333ssss"])
    arrays = merge(20, [(0, first), (4, middle), (8, middle), (12, last)])
    assert drawn(arrays) == "ss" + "1" * 14 + "ssss"


def test_parts_that_a_later_tile_shows_as_one():
    scores = {"1": 0.2, "2": 0.7}
    parts, one = tile(["ssss1122"], scores), tile(["33333sss"], {"3": 0.6})
    arrays = merge(12, [(0, parts), (4, one)])
    assert drawn(arrays) == "ssss11111sss"
    assert arrays[Prediction.SEGMENT_AREA].tolist() == [7, 5]
    np.testing.assert_allclose(arrays[Prediction.SEGMENT_SCORE], [0.5, 0.7], rtol=1e-6)
    # The other way round: what was one stays one.
    assert drawn(merge(12, [(0, tile(["sss55555"])), (4, tile(["1122ssss"]))])) == "sss11111ssss"
    # A chain: 8 and 9 by 3, then 9 and 1 by 4.
    chain = [(0, tile(["ssssssss89999991"])), (8, tile(["33344444ssssssss"]))]
    arrays = merge(24, chain)
    assert drawn(arrays) == "s" * 8 + "1" * 8 + "s" * 8
    assert arrays[Prediction.SEGMENT_AREA].tolist() == [16, 8]
    # Once joined, a segment of a third tile meets the whole.
    third = tile(["44444444"])
    joined = merge(16, [(0, parts), (4, tile(["33333333"])), (8, third)])
    assert drawn(joined) == "ssss" + "1" * 12


def test_things_of_other_categories_or_places_stay_apart():
    discs = tile(["ss1111ss"]), tile(["sss33sss"])
    assert drawn(merge(12, [(0, discs[0]), (4, discs[1])])) == "ss1111s22sss"
    # A disc for one, a square for the other: it lies in the first tile's half, but for column 6.
    arrays = merge(12, [(0, tile(["sss1111s"])), (4, tile(["AAAsssss"]))])
    assert drawn(arrays) == "sss1111sssss"
    assert arrays[Prediction.SEGMENT_CATEGORY].tolist() == [SKY, DISC]


def test_what_one_tile_sees_alone():
    sky = tile(["ssssssss"])
    # Most of it is nearer to the border of the tile that sees it: left out; columns 0..5 and 6..11
    # are where the first and the second decide.
    assert drawn(merge(12, [(0, tile(["sssss111"])), (4, sky)])) == "s" * 12
    assert drawn(merge(12, [(0, sky), (4, tile(["111sssss"]))])) == "s" * 12
    # The larger part is where it is seen, and the tile shows it whole: all of it.
    assert drawn(merge(12, [(0, tile(["sss1111s"])), (4, sky)])) == "sss1111sssss"
    # Cut by the tile's border: only where that tile decides.
    assert drawn(merge(12, [(0, tile(["11111111"])), (4, sky)])) == "111111ssssss"


def test_void_gives_way():
    void = tile(["........"])
    assert drawn(merge(12, [(0, void), (4, tile(["ssssssss"]))])) == "....ssssssss"
    assert drawn(merge(12, [(0, tile(["ssssss11"])), (4, void)])) == "ssssss11...."
    arrays = merge(12, [(0, void), (4, void)])
    assert drawn(arrays) == "." * 12 and arrays[Prediction.NUM_SEGMENTS] == 0


def scene(height, width, count, seed):
    """Discs and squares of 8 to 30 pixels on two kinds of stuff: category and instance."""
    rng = np.random.default_rng(seed)
    category = np.where(np.arange(width) < width // 2, 3, 4) * np.ones((height, 1), int)
    instance = np.zeros_like(category)
    y, x = np.mgrid[:height, :width]
    for number in range(1, count + 1):
        dy, dx = y - rng.uniform(0, height), x - rng.uniform(0, width)
        radius = rng.uniform(4, 15)
        is_disc = rng.random() < 0.5
        mask = dy**2 + dx**2 <= radius**2 if is_disc else np.maximum(abs(dy), abs(dx)) <= radius
        category[mask], instance[mask] = DISC if is_disc else SQUARE, number
    return category, instance


@pytest.mark.parametrize("size, overlap", [(64, 0), (64, 8), (64, 32), ((40, 90), 20)])
def test_true_tiles_give_the_true_image(size, overlap):
    """Things have another number in every tile, and score by how much of them it shows."""
    category, instance = scene(150, 230, 40, seed=0)
    rng = np.random.default_rng(1)

    def predict(pixels):
        categories, instances = pixels[..., 0], pixels[..., 1]
        numbers = np.append(0, rng.permutation(40) + 1)
        instances = numbers[instances]
        pairs = np.stack([categories.ravel(), instances.ravel()], axis=1)
        keys, counts = np.unique(pairs, axis=0, return_counts=True)
        scores = dict(zip(map(tuple, keys.tolist()), (counts / pixels.size).tolist()))
        return tiling.TilePrediction(categories, instances, scores)

    arrays = tiling.predict_tiles(
        predict,
        np.stack([category, instance], axis=-1).astype(np.int32),
        tiling.Tiling.of(size, overlap),
        num_categories=4,
    )
    np.testing.assert_array_equal(arrays[Prediction.CATEGORY_MASK], category)
    rows = arrays[Prediction.SEGMENT_INSTANCE]
    areas = np.bincount(arrays[Prediction.INSTANCE_MASK].ravel())
    assert (arrays[Prediction.SEGMENT_AREA][rows > 0] == areas[rows[rows > 0]]).all()
    quality = PanopticQuality(num_categories=4, thing_ids=[DISC, SQUARE])
    quality.update(
        category,
        instance,
        None,
        arrays[Prediction.CATEGORY_MASK],
        arrays[Prediction.INSTANCE_MASK],
    )
    assert quality.result()["PQ"] == 100.0 or not overlap
    assert len(rows) == arrays[Prediction.NUM_SEGMENTS] == quality.state()[:, 1:3].sum()


def test_memory_is_that_of_the_masks():
    height, width = 600, 1000
    blank = np.full((64, 64), SKY, np.int32)
    one = tiling.TilePrediction(blank, np.zeros_like(blank), {(SKY, 0): 1.0})
    pixels = np.zeros((height, width, 3), np.uint8)
    tracemalloc.start()
    tiling.predict_tiles(lambda _: one, pixels, tiling.Tiling.of(64), num_categories=3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Two masks of four bytes, a band of 64 rows of depths, and what a tile needs.
    assert peak < height * width * 8 + 64 * width * 4 * 2 + 64 * 64 * 200


@pytest.fixture(scope="module")
def predictor(tflite_path):
    return Predictor(tflite_path, tile_size=(32, 48), tile_overlap=8)


def test_a_small_image_is_predicted_as_ever(predictor, tflite_path, make_image):
    whole = Predictor(tflite_path)
    for size in ((32, 48), (20, 48), (7, 9)):
        arrays, expected = (p.predict_arrays(make_image(*size)) for p in (predictor, whole))
        assert list(arrays) == list(expected)
        for key, values in arrays.items():
            np.testing.assert_array_equal(values, expected[key])


def test_a_large_image(predictor, make_image):
    image = make_image(100, 130)
    image[..., 1] = image[..., 1:].max(axis=-1)
    image[..., 2] = 0
    result = predictor(image)
    assert isinstance(result, PanopticResult) and result.image_size == (100, 130)
    assert result.category_mask.dtype == result.instance_mask.dtype == np.int32
    # Of two colours the network looks at each pixel alone: tiles change nothing.
    logits = (image - [120.0, 110.0, 100.0]) / [50.0, 60.0, 70.0] + [0.01, 0.0, -0.01]
    np.testing.assert_array_equal(result.category_mask, logits.argmax(axis=-1) + 1)
    assert sum(segment.area for segment in result.segments) == 100 * 130
    assert all(0 < segment.score <= 1 for segment in result.segments)
    np.testing.assert_array_equal(result.instance_mask > 0, result.category_mask != 2)
    assert predictor.last_seconds > 0


def test_a_model_of_semantic_masks_alone(predictor, make_image, monkeypatch):
    def model(pixels):
        return {
            Prediction.SEMANTIC_MASK: pixels.argmax(axis=-1).astype(np.int32) + 1,
            Prediction.IMAGE_SIZE: np.array(pixels.shape[:2], np.int32),
        }

    monkeypatch.setattr(predictor, "_model", model)
    image = make_image(60, 70)
    arrays = predictor.predict_arrays(image)
    assert sorted(arrays) == [Prediction.IMAGE_SIZE, Prediction.SEMANTIC_MASK]
    result = predictor(image)
    np.testing.assert_array_equal(result.category_mask, image.argmax(axis=-1) + 1)
    assert not result.instance_mask.any()


def test_a_model_that_only_detects(predictor, monkeypatch):
    """It finds the white square wherever it is, and a weak one in every corner."""

    def model(pixels):
        y, x = np.nonzero(pixels[..., 0])
        boxes = np.zeros((2, 4), np.float32)
        if len(y):
            boxes[0] = y.min(), x.min(), y.max() + 1, x.max() + 1
        boxes[1] = 0, 0, 4, 4
        return {
            Prediction.DETECTION_BOXES: boxes,
            Prediction.DETECTION_CATEGORIES: np.array([1, 3], np.int32),
            Prediction.DETECTION_SCORES: np.array([0.9, 0.3], np.float32),
            Prediction.DETECTION_MASKS: np.ones((2, 28, 28), np.float32),
            Prediction.NUM_DETECTIONS: np.array(2, np.int32),
            Prediction.IMAGE_SIZE: np.array(pixels.shape[:2], np.int32),
        }

    monkeypatch.setattr(predictor, "_model", model)
    image = np.zeros((60, 100, 3), np.uint8)
    image[10:40, 30:80] = 255
    result = predictor(image)
    (segment,) = result.segments
    assert (segment.category_id, segment.instance_id) == (1, 1)
    assert segment.score == pytest.approx(0.9)
    assert segment.bbox == (30, 10, 50, 30) and segment.area == 1500


def test_an_argument_of_the_predictor(tflite_path):
    with pytest.raises(ValueError, match="tile_overlap must lie in"):
        Predictor(tflite_path, tile_size=32, tile_overlap=20)


@pytest.mark.parametrize("is_panoptic", [True, False])
@pytest.mark.parametrize("category", [0, DISC])
def test_the_kind_of_result_is_that_of_the_tiles(is_panoptic, category):
    mask = np.full((6, 6), category, np.int32)
    instances = np.full((6, 6), int(is_panoptic and category > 0), np.int32)
    merger = tiling.TileMerger((6, 10), 6, 3)
    for left in (0, 4):
        merger.add(0, left, tiling.TilePrediction(mask, instances, None, is_panoptic))
    merged = merger.finish()
    assert (Prediction.SEMANTIC_MASK in merged) == (not is_panoptic)
    assert (Prediction.INSTANCE_MASK in merged) == is_panoptic
    key = Prediction.CATEGORY_MASK if is_panoptic else Prediction.SEMANTIC_MASK
    np.testing.assert_array_equal(merged[key], np.full((6, 10), category))
    if is_panoptic:
        np.testing.assert_array_equal(merged[Prediction.INSTANCE_MASK], category > 0)

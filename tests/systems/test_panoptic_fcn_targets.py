"""Targets of Panoptic FCN against recorded ones, against loops, and at their edges."""

import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.structures import InstanceAnnotations, PanopticSample
from panoptic_tf.systems.panoptic_fcn import assignment
from panoptic_tf.systems.panoptic_fcn.targets import PanopticFCNTargetGenerator

LEVELS = ("3", "4", "5", "6", "7")
SCALES = ((1, 64), (32, 128), (64, 256), (128, 512), (256, 2048))
# Categories of the drawn scenes: 1, 2 and 3 are things, 4 and 5 stuff; channel 0 is all things.
SMALL = {
    "thing_ids": (1, 2, 3),
    "stuff_channel_of_category": (0, 1, 1, 1, 2, 3),
    "num_stuff_channels": 3,
    "levels": ("3", "4", "7"),
    "instance_scales": ((4, 16), (12, 40), (39, 2048)),
    "max_instances": 6,
}


def make_sample(categories, ids, crowd=None, *, image_size=None, masks=None):
    """A sample from arrays [H, W]; `masks`: (mask, category, is_crowd) of the record."""
    size = categories.shape
    image_size = image_size or size
    instances = None
    if masks is not None:
        instances = InstanceAnnotations(
            tf.constant(np.array([m[0] for m in masks], np.uint8).reshape(-1, *size)),
            tf.constant([m[1] for m in masks], tf.int32),
            tf.constant([m[2] for m in masks], tf.bool),
        )
    return PanopticSample(
        image=tf.zeros([*size, 3]),
        image_info=tf.constant([image_size, size, (1, 1), (0, 0)], tf.float32),
        category_mask=tf.constant(categories, tf.int32),
        instance_mask=tf.constant(ids, tf.int32),
        crowd_mask=tf.constant(np.zeros(size, bool) if crowd is None else crowd),
        image_id=tf.constant("1"),
        instances=instances,
    )


def masks_of(sample):
    """(mask, category, is_crowd) of the instances of an id map, in the order of their ids."""
    ids, categories = sample.instance_mask.numpy(), sample.category_mask.numpy()
    crowd = sample.crowd_mask.numpy()
    found = []
    for number in range(1, ids.max(initial=0) + 1):
        mask = ids == number
        if mask.any():
            found.append((mask, categories[mask][0], crowd[mask][0]))
    return found


def draw_scene(size, *, count, seed, image_size=None):
    """Stuff and void in stripes, and boxes of things, whole or frayed; number five is a crowd."""
    rng = np.random.default_rng(seed)
    height, width = image_size or size
    categories, ids = np.zeros(size, np.int32), np.zeros(size, np.int32)
    categories[:height, :width] = rng.choice([0, 4, 5], 1 + height // 7).repeat(7)[:height, None]
    crowd = np.zeros(size, bool)
    for number in range(1, count + 1):
        box_size = np.exp(rng.uniform(0, np.log([height, width]))).astype(int)
        top, left = rng.integers(0, [height, width])
        box = np.zeros(size, bool)
        box[top : top + box_size[0], left : left + box_size[1]] = True
        if number % 2:
            box &= rng.random(size) < 0.4
        box[height:] = box[:, width:] = False
        categories[box], ids[box], crowd[box] = rng.integers(1, 4), number, number == 5
    return make_sample(categories, ids, crowd, image_size=image_size)


def middle_count(mask, y, x):
    """How many of the 2x2 pixels in the middle of cell (y, x) at stride 4 are 1."""
    return int(mask[4 * y + 1 : 4 * y + 3, 4 * x + 1 : 4 * x + 3].sum())


def counted(mask):
    """`middle_count` of every cell."""
    height, width = (-(-n // 4) for n in mask.shape)
    return np.array([[middle_count(mask, y, x) for x in range(width)] for y in range(height)])


def resized(values, size):
    """Bilinear, half-pixel centers, by loops; [h, w] -> size."""
    result = np.zeros(size)
    for y, x in np.ndindex(*size):
        taps = []
        for cell, cells, length in ((y, size[0], values.shape[0]), (x, size[1], values.shape[1])):
            position = max((cell + 0.5) * length / cells - 0.5, 0)
            low = int(position)
            share = position - low
            taps.append([(low, 1 - share), (min(low + 1, length - 1), share)])
        result[y, x] = sum(values[i, j] * a * b for i, a in taps[0] for j, b in taps[1])
    return result


def corner_radius(height, width, overlap):
    """The smallest of the three roots in the code of CornerNet."""
    total, area = height + width, height * width
    cases = [
        (1, total, area * (1 - overlap) / (1 + overlap)),
        (4, 2 * total, area * (1 - overlap)),
        (4 * overlap, -2 * overlap * total, -area * (1 - overlap)),
    ]
    return min((b + np.sqrt(b * b - 4 * a * c)) / 2 for a, b, c in cases)


def draw_gaussian(heatmap, center, radius, sigma_factor):
    sigma = (2 * radius + 1) / sigma_factor
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            y, x = center[0] + dy, center[1] + dx
            if 0 <= y < heatmap.shape[0] and 0 <= x < heatmap.shape[1]:
                value = np.exp(-(dy * dy + dx * dx) / (2 * sigma * sigma))
                heatmap[y, x] = max(heatmap[y, x], value)


def expected_targets(sample, options):
    """Everything the generator makes, by loops over instances, levels and cells."""
    categories = sample.category_mask.numpy()
    frame, levels = categories.shape, options["levels"]
    image_size = sample.image_info.numpy()[0]
    quarter_size = [-(-n // 4) for n in frame]
    sizes = [[-(-n // 2 ** int(level)) for n in frame] for level in levels]
    things, count = list(options["thing_ids"]), options["max_instances"]
    masks = masks_of(sample)
    if sample.instances is not None:
        masks = list(zip(*(np.asarray(x) for x in sample.instances)))
    masks = [m for m in masks if m[0].any() and m[1] in things and not m[2]]
    masks = sorted(masks, key=lambda m: -int(m[0].sum()))[:count]

    result = {
        "is_annotated": float((categories > 0).any()),
        "gt_classes": np.zeros(count),
        "gt_masks": np.zeros([*quarter_size, count]),
        "gt_levels": np.zeros([count, len(levels)], bool),
        "gt_centers": np.zeros([count, len(levels)]),
    }
    for level, (h, w) in zip(levels, sizes):
        result[f"center_heatmap_{level}"] = np.zeros([h, w, len(things)])
        result[f"valid_{level}"] = np.array(
            [
                [y * frame[0] < image_size[0] * h and x * frame[1] < image_size[1] * w]
                for y in range(h)
                for x in range(w)
            ]
        ).reshape(h, w)
    for row, (mask, category, _) in enumerate(masks):
        ys, xs = np.nonzero(mask)
        extent = np.ptp(ys) + 1, np.ptp(xs) + 1
        quarters = counted(mask)
        center = np.array([ys.min() + ys.max() + 1, xs.min() + xs.max() + 1]) / 8
        if options.get("center_type", "mass") == "mass" and quarters.any():
            center = np.argwhere(quarters).mean(axis=0)
        result["gt_classes"][row] = things.index(category)
        result["gt_masks"][..., row] = quarters
        for i, (level, (h, w)) in enumerate(zip(levels, sizes)):
            cell = [int(c * n / m) for c, n, m in zip(center, (h, w), quarter_size)]
            result["gt_centers"][row, i] = cell[0] * w + cell[1]
            low, high = options["instance_scales"][i]
            if low <= np.sqrt(extent[0] * extent[1]) <= high:
                result["gt_levels"][row, i] = True
                radius = corner_radius(extent[0] * h / frame[0], extent[1] * w / frame[1], 0.7)
                heatmap = result[f"center_heatmap_{level}"][..., things.index(category)]
                draw_gaussian(heatmap, cell, int(radius), 3)
    result["num_pairs"] = result["gt_levels"].sum()

    channels = np.array(options["stuff_channel_of_category"])[categories]
    stuff = range(options["num_stuff_channels"])
    result["gt_stuff"] = np.stack([counted(channels == c + 1) for c in stuff], axis=-1)
    for level, size in zip(levels, sizes):
        scores = np.stack([resized(result["gt_stuff"][..., c] / 4, size) for c in stuff], axis=-1)
        result[f"stuff_scores_{level}"] = np.where(scores >= 0.5 - 1e-9, scores, 0)
    return result


def assert_targets(targets, expected):
    features, labels = targets
    found = {**features, **labels}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        value = np.asarray(value)
        assert found[name].shape == value.shape, name
        if found[name].dtype.is_floating:
            np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.fixture(scope="module")
def recorded(reference_data):
    """The case of the reference: a COCO image, five levels, 15 instances."""
    return dict(np.load(reference_data / "golden" / "pfcn_gt.npz"))


@pytest.fixture(scope="module", params=["id_map", "record"])
def coco_targets(recorded, request):
    semantic = recorded["sem_seg"]  # 0 is a thing, 255 void
    categories = np.where(semantic == 255, 0, 80 + semantic)
    ids = np.zeros(semantic.shape, np.int32)
    for i, mask in enumerate(recorded["masks"] > 0):
        categories[mask], ids[mask] = 1 + recorded["classes"][i], i + 1
    categories[categories == 80] = 1  # crowds
    sample = make_sample(categories, ids)
    if request.param == "record":
        sample = make_sample(categories, 0 * ids, masks=masks_of(sample))
    generator = PanopticFCNTargetGenerator(
        thing_ids=range(1, 81),
        stuff_channel_of_category=[0] + [1] * 80 + list(range(2, 55)),
        num_stuff_channels=54,
    )
    features, labels = generator(sample)
    return {name: value.numpy() for name, value in {**features, **labels}.items()}


@pytest.mark.parametrize("level", range(5))
def test_recorded_things(recorded, coco_targets, level):
    heatmap = coco_targets[f"center_heatmap_{LEVELS[level]}"]
    np.testing.assert_allclose(heatmap.transpose(2, 0, 1), recorded[f"l{level}_center"], atol=1e-5)
    assigned = coco_targets["gt_levels"][:, level]
    assert assigned.sum() == recorded[f"l{level}_num_inst"]
    # The reference keeps the order of the annotation, ours is by area.
    masks = coco_targets["gt_masks"][..., assigned].transpose(2, 0, 1) / 4
    rows = zip(
        coco_targets["gt_centers"][assigned, level],
        coco_targets["gt_classes"][assigned],
        (mask.tobytes() for mask in masks.astype(np.float32)),
    )
    expected = zip(
        recorded[f"l{level}_index"],
        recorded[f"l{level}_class"],
        (mask.tobytes() for mask in recorded[f"l{level}_inst"].astype(np.float32)),
    )
    assert sorted(rows) == sorted(expected)


@pytest.mark.parametrize("level", range(5))
def test_recorded_stuff(recorded, coco_targets, level):
    scores = coco_targets[f"stuff_scores_{LEVELS[level]}"].transpose(2, 0, 1)
    np.testing.assert_allclose(scores, recorded[f"l{level}_sem_scores"], atol=1e-5)
    present = scores.any(axis=(1, 2))
    assert present.sum() == recorded[f"l{level}_num_sem"]
    shares = coco_targets["gt_stuff"].transpose(2, 0, 1)[present] / 4
    np.testing.assert_array_equal(shares, recorded[f"l{level}_sem_labels"])
    np.testing.assert_array_equal(scores[present] > 0, recorded[f"l{level}_sem_masks"])


SCENES = [
    # frame, image in it, number of boxes
    ((64, 96), (64, 96), 5),  # one cell on the coarsest level
    ((128, 192), (128, 192), 25),  # more than max_instances
    ((160, 160), (95, 130), 8),  # padding
    ((61, 75), (61, 75), 5),  # no multiple of 4
    ((130, 257), (101, 257), 12),
]


@pytest.mark.parametrize("center_type", ["mass", "box"])
@pytest.mark.parametrize("with_record", [False, True], ids=["id_map", "record"])
@pytest.mark.parametrize("frame, image_size, count", SCENES)
def test_against_loops(frame, image_size, count, with_record, center_type):
    options = {**SMALL, "center_type": center_type}
    generator = PanopticFCNTargetGenerator(**options)
    for seed in range(2):
        sample = draw_scene(frame, count=count, seed=seed, image_size=image_size)
        if with_record:
            sample = with_overlaps(sample, seed)
        assert_targets(generator(sample), expected_targets(sample, options))


def with_overlaps(sample, seed):
    """The sample with instances of a record, each the mask of the id map and a box."""
    rng = np.random.default_rng(seed)
    masks = []
    for mask, category, is_crowd in masks_of(sample):
        grown = mask.copy()
        top, left = rng.integers(0, [max(n // 2, 1) for n in mask.shape])
        grown[top : top + 9, left : left + 23] = True
        masks.append((grown, category, is_crowd))
    masks.append((np.zeros_like(mask), 1, False))  # cropped away
    masks.append((np.ones_like(mask), 4, False))  # of stuff
    ids = np.zeros(mask.shape, np.int32)
    return make_sample(
        sample.category_mask.numpy(),
        ids,
        image_size=tuple(sample.image_info.numpy()[0].astype(int)),
        masks=masks,
    )


@pytest.mark.parametrize("with_record", [False, True], ids=["id_map", "record"])
def test_shapes_are_static_in_the_input_pipeline(with_record):
    sample = draw_scene((68, 90), count=6, seed=3)
    if with_record:
        sample = with_overlaps(sample, 3)
    generator = PanopticFCNTargetGenerator(**SMALL)
    fields = {name: value for name, value in sample._asdict().items() if value is not None}

    def sample_of(fields):
        """As after parsing: the number of instances is unknown."""
        if with_record:
            rows = tf.where(fields["instances"].categories > 0)[:, 0]
            fields["instances"] = InstanceAnnotations(
                *(tf.gather(x, rows) for x in fields["instances"])
            )
            assert fields["instances"].masks.shape[0] is None
        return PanopticSample(**fields)

    dataset = tf.data.Dataset.from_tensors(fields).map(sample_of).map(generator)
    for spec in tf.nest.flatten(dataset.element_spec):
        assert spec.shape.is_fully_defined(), spec
    (features, labels), *_ = dataset
    assert_targets((features, labels), expected_targets(sample, SMALL))


def empty(size):
    return np.zeros(size, np.int32), np.zeros(size, np.int32)


def test_drawn():
    # 8x8 pixels are 2x2 cells at stride 4 and one at stride 8. Pixels 1 and 2 of each cell count.
    # The thing, 1, has of them three in the first cell, two in the cell below, none elsewhere.
    categories = np.array(
        [
            [4, 4, 4, 4, 0, 0, 0, 0],
            [4, 1, 1, 4, 0, 5, 5, 0],
            [4, 1, 4, 4, 0, 0, 0, 0],
            [1, 1, 4, 4, 0, 0, 0, 0],
            [4, 4, 4, 4, 0, 0, 0, 0],
            [4, 1, 1, 4, 0, 0, 0, 0],
            [4, 4, 4, 4, 0, 0, 0, 0],
            [4, 4, 4, 4, 0, 0, 0, 0],
        ]
    )
    sample = make_sample(categories, np.where(categories == 1, 1, 0))
    options = {**SMALL, "levels": ("2", "3"), "instance_scales": ((3, 4), (4, 8))}
    features, labels = PanopticFCNTargetGenerator(**options)(sample)
    np.testing.assert_array_equal(features["gt_masks"][..., 0], [[3, 0], [2, 0]])
    # 'things', 4 and 5
    np.testing.assert_array_equal(features["gt_stuff"][..., 0], [[3, 0], [2, 0]])
    np.testing.assert_array_equal(features["gt_stuff"][..., 1], [[1, 0], [2, 0]])
    np.testing.assert_array_equal(features["gt_stuff"][..., 2], [[0, 2], [0, 0]])
    # The box is 5 x 3, so the size is 3.9: of the first level only. The mean cell is (0.5, 0).
    assert features["gt_levels"][0].numpy().tolist() == [True, False]
    assert features["gt_centers"][0].numpy().tolist() == [0, 0]
    assert float(labels["num_pairs"]) == 1
    # 1.25 x 0.75 cells: the radius is 0, one cell.
    np.testing.assert_array_equal(labels["center_heatmap_2"][..., 0], [[1, 0], [0, 0]])
    assert not labels["center_heatmap_3"].numpy().any()
    # Half of the first cell at stride 8 would have to be covered.
    np.testing.assert_array_equal(labels["stuff_scores_2"][..., 0], [[0.75, 0], [0.5, 0]])
    assert not labels["stuff_scores_3"].numpy().any()


def test_only_things_and_only_stuff():
    sample = draw_scene((64, 64), count=5, seed=0)
    expected = expected_targets(sample, SMALL)
    stuff = {"gt_stuff", *(f"stuff_scores_{level}" for level in SMALL["levels"])}
    things = {"gt_classes", "gt_masks", "gt_levels", "gt_centers", "num_pairs"}
    things |= {f"center_heatmap_{level}" for level in SMALL["levels"]}
    without_stuff = {**SMALL, "stuff_channel_of_category": (), "num_stuff_channels": 0}
    for options, absent in ((without_stuff, stuff), ({**SMALL, "thing_ids": ()}, things)):
        targets = PanopticFCNTargetGenerator(**options)(sample)
        assert_targets(targets, {name: x for name, x in expected.items() if name not in absent})


def test_an_image_without_annotation():
    features, labels = PanopticFCNTargetGenerator(**SMALL)(make_sample(*empty((64, 64))))
    for name, value in {**features, **labels}.items():
        if not name.startswith("valid_"):
            assert not value.numpy().any(), name
    assert labels["is_annotated"] == 0 and labels["valid_7"].numpy().all()


def test_an_instance_between_the_cells_has_the_center_of_its_box():
    categories, ids = empty((64, 64))
    categories[16:18, 23:25] = ids[16:18, 23:25] = 1  # row 16 and column 23 are no middle pixels
    categories[17] = ids[17] = 0
    sample = make_sample(categories, ids)
    options = {**SMALL, "instance_scales": ((1, 16), (12, 40), (39, 2048))}
    features, _ = PanopticFCNTargetGenerator(**options)(sample)
    assert not features["gt_masks"].numpy().any()
    assert features["gt_levels"][0].numpy().tolist() == [True, False, False]
    # The middle is (16.5, 24): row 2 and column 3 at stride 8, row 1 and column 1 at stride 16.
    assert features["gt_centers"][0].numpy().tolist() == [2 * 8 + 3, 1 * 4 + 1, 0]


def test_an_instance_on_no_level():
    categories, ids = empty((64, 64))
    categories[10:13, 10:13] = ids[10:13, 10:13] = 1  # smaller than the first level's smallest
    categories[40:50, 40:50] = ids[40:50, 40:50] = 2
    features, labels = PanopticFCNTargetGenerator(**SMALL)(make_sample(categories, ids))
    assert features["gt_levels"].numpy().any(axis=1).tolist() == [True, False] + 4 * [False]
    assert features["gt_masks"].numpy().any(axis=(0, 1)).tolist() == [True, True] + 4 * [False]
    assert labels["num_pairs"] == 1
    assert not labels["center_heatmap_3"][..., 0].numpy().any()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"center_type": "median"}, "center_type must be one of mass, box, got 'median'"),
        ({"levels": ("3", "4")}, "needs a smallest and a largest size for each of the 2 levels"),
    ],
)
def test_unknown_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        PanopticFCNTargetGenerator(**{**SMALL, **options})


def test_recorded_gaussians(golden):
    case = golden("pfcn_gaussian")
    width, height = tf.unstack(tf.constant(case["wh"]), axis=1)
    radius = assignment.gaussian_radius(height, width, min_overlap=float(case["min_overlap"]))
    np.testing.assert_allclose(radius, case["radius"], rtol=1e-5)
    np.testing.assert_array_equal(tf.cast(radius, tf.int32), case["radius"].astype(int))
    count = len(case["radii"])
    heatmap = assignment.gaussian_heatmap(
        tf.constant(case["centers_xy"][:, ::-1].copy()),
        tf.constant(case["radii"]),
        tf.zeros([count], tf.int32),
        tf.ones([count], tf.bool),
        size=case["drawn"].shape,
        num_classes=1,
        sigma_factor=float(case["sigma_factor"]),
    )
    np.testing.assert_allclose(heatmap[..., 0], case["drawn"], atol=1e-6)


@pytest.mark.parametrize("overlap", [0.1, 0.3, 0.7, 0.95])
def test_the_other_cases_of_the_radius_never_matter(overlap):
    height, width = np.random.default_rng(0).uniform(0.1, 100, (2, 300))
    expected = [corner_radius(*sides, overlap) for sides in zip(height, width)]
    found = assignment.gaussian_radius(
        tf.constant(height, tf.float32), tf.constant(width, tf.float32), min_overlap=overlap
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_heatmaps_against_loops():
    rng = np.random.default_rng(1)
    for size in ((1, 1), (5, 9), (24, 17)):
        centers = np.stack([rng.integers(0, n, 12) for n in size], axis=-1).astype(np.int32)
        radius, classes = rng.integers(0, 7, 12), rng.integers(0, 3, 12)
        valid = rng.random(12) < 0.7
        expected = np.zeros([*size, 4])
        for i in np.flatnonzero(valid):
            draw_gaussian(expected[..., classes[i]], centers[i], radius[i], 6)
        found = assignment.gaussian_heatmap(
            tf.constant(centers),
            tf.constant(radius, tf.int32),
            tf.constant(classes, tf.int32),
            tf.constant(valid),
            size=size,
            num_classes=4,
            sigma_factor=6.0,
        )
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_valid_cells():
    # 192 rows make two cells of 96, 256 columns make two of 128.
    sizes = tf.constant([[1, 1], [96, 129], [97, 128], [192, 256]])
    cells = assignment.valid_cells(sizes, level_size=(2, 2), network_size=(192, 256))
    expected = [[[1, 0], [0, 0]], [[1, 1], [0, 0]], [[1, 0], [1, 0]], [[1, 1], [1, 1]]]
    np.testing.assert_array_equal(cells, expected)
    one = assignment.valid_cells(tf.constant([7.0, 3.0]), level_size=(1, 1), network_size=(64, 64))
    np.testing.assert_array_equal(one, [[1]])


@pytest.mark.parametrize("size", [(12, 18), (6, 9), (3, 5), (2, 3), (1, 1)])
def test_shares_of_cells(size):
    rng = np.random.default_rng(2)
    quarters = rng.integers(0, 5, (2, 12, 18, 3)).astype(np.uint8)
    expected = [[resized(q[..., c] / 4, size) for c in range(3)] for q in quarters]
    expected = np.moveaxis(expected, 1, -1)
    for shares in (quarters, (quarters / 4).astype(np.float32)):
        found = assignment.level_shares(tf.constant(shares), level_size=size)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        one = assignment.level_shares(tf.constant(shares[0]), level_size=size)
        np.testing.assert_array_equal(one, found[0])
    scores = assignment.stuff_scores(tf.constant(quarters), level_size=size)
    np.testing.assert_array_equal(scores, np.where(found.numpy() >= 0.5, found, 0))

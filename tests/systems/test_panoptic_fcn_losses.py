"""Sampler and losses of Panoptic FCN against the recorded reference, and at their edges."""

import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.ops import forms
from panoptic_tf.structures import InstanceAnnotations, PanopticSample
from panoptic_tf.systems.panoptic_fcn.losses import STUFF_LOSSES, THING_LOSSES, PanopticFCNLoss
from panoptic_tf.systems.panoptic_fcn.sampling import KernelSampler
from panoptic_tf.systems.panoptic_fcn.targets import PanopticFCNTargetGenerator

LEVELS = ("3", "4", "5", "6", "7")
HEADS = {"center_logits": "center", "stuff_logits": "region", "kernels": "weight"}
RECORDED = {
    "loss/position_things": "loss_pos_th",
    "loss/position_stuff": "loss_pos_st",
    "loss/segment_things": "loss_seg_th",
    "loss/segment_stuff": "loss_seg_st",
}


@pytest.fixture(autouse=True)
def form_of_cpus():
    """Which cuts rows that are padding, unless `trim` is False."""
    with forms.use(forms.Form.CPU):
        yield


def make_targets(images, *, num_things=3, num_stuff=4, image_size=None, **options):
    """Features and labels of a batch, and its `image_info`.

    Args:
      images: (masks {0, 1} [M, H, W], classes [M], channels of stuff [H, W], 255 is void) each.
      num_things, num_stuff: T, S; category ids 1..T are things, T + 1.. channels of stuff.
      image_size: (height, width) of the frame that is not padding; None: all of it.
      **options: of the generator.
    """
    channels_of_category = [0] * (num_things + 1) + list(range(1, num_stuff + 1))
    generator = PanopticFCNTargetGenerator(
        thing_ids=range(1, num_things + 1),
        stuff_channel_of_category=channels_of_category if num_stuff else [],
        num_stuff_channels=num_stuff,
        **{"max_instances": 10, **options},
    )
    pairs, info = [], []
    for masks, classes, channels in images:
        size = channels.shape
        info.append(np.array([image_size or size, size, [1, 1], [0, 0]], np.float32))
        categories = np.where(channels == 255, 0, channels.astype(np.int32) + num_things + 1)
        sample = PanopticSample(
            image=tf.zeros([*size, 3]),
            image_info=tf.constant(info[-1]),
            category_mask=tf.constant(categories, tf.int32),
            instance_mask=tf.zeros(size, tf.int32),
            crowd_mask=tf.zeros(size, tf.bool),
            image_id=tf.constant("1"),
            instances=InstanceAnnotations(
                masks=tf.constant(masks, tf.uint8),
                categories=tf.constant(classes, tf.int32) + 1,
                is_crowd=tf.zeros([len(masks)], tf.bool),
            ),
        )
        pairs.append(generator(sample))
    features, labels = (
        {key: tf.stack([pair[i][key] for pair in pairs]) for key in pairs[0][i]} for i in range(2)
    )
    return features, labels, tf.constant(np.stack(info))


def compute_losses(sampler, targets, tensors, **loss_options):
    """Losses from the heads' outputs, as the network has them.

    Args:
      sampler: a `KernelSampler`.
      targets: see `make_targets`.
      tensors: `center_logits/3` and so on, `encoded`, and `thing`, `stuff`: embeddings [D, C].
      **loss_options: of `PanopticFCNLoss`.
    """
    features, labels, image_info = targets
    outputs = {
        head: {level: tensors[f"{head}/{level}"] for level in LEVELS}
        for head in HEADS
        if f"{head}/3" in tensors
    }
    sampled = sampler(outputs, features, image_info)
    for name in ("thing", "stuff"):
        if f"{name}_kernels" in sampled:
            kernels = tf.einsum("...d,dc->...c", sampled[f"{name}_kernels"], tensors[name])
            sampled[f"{name}_kernels"] = kernels
            sampled[f"{name}_map"] = tensors["encoded"]
    logits = {
        f"{head}_{level}": x
        for head, levels in outputs.items()
        if head != "kernels"
        for level, x in levels.items()
    }
    return PanopticFCNLoss(**loss_options)(labels, {**logits, **sampled})


def losses_and_gradients(sampler, targets, arrays, **loss_options):
    tensors = {key: tf.convert_to_tensor(array) for key, array in arrays.items()}
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        losses = compute_losses(sampler, targets, tensors, **loss_options)
    zero = tf.UnconnectedGradients.ZERO
    gradients = tape.gradient(losses["loss"], tensors, unconnected_gradients=zero)
    return losses, {key: gradient.numpy() for key, gradient in gradients.items()}


@pytest.fixture(scope="module")
def recorded(golden):
    case = dict(golden("pfcn_losses"))
    images = [[case[f"img{i}_{key}"] for key in ("masks", "classes", "sem_seg")] for i in range(2)]
    arrays = {
        f"{head}/{level}": np.moveaxis(case[f"pred_{key}_l{i}"], 1, -1)
        for head, key in HEADS.items()
        for i, level in enumerate(LEVELS)
    }
    arrays["encoded"] = np.moveaxis(case["encode_feat"], 1, -1)
    arrays.update({name: case[f"w_{name}_embed"][..., 0, 0].T for name in ("thing", "stuff")})
    return case, images, arrays


@pytest.mark.parametrize("trim", [True, False])
def test_recorded_losses_and_gradients(recorded, trim):
    case, images, arrays = recorded
    targets = make_targets(images, num_things=80, num_stuff=54)
    sampler = KernelSampler(num_positives=int(case["pos_num"]), trim=trim)
    losses, gradients = losses_and_gradients(sampler, targets, arrays)
    for name, key in RECORDED.items():
        np.testing.assert_allclose(losses[name], case[key], rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(losses["loss"], sum(losses[name] for name in RECORDED), rtol=1e-6)
    for name, key in (
        ("kernels/3", "grad_pred_weight_l0"),
        ("center_logits/3", "grad_pred_center_l0"),
        ("encoded", "grad_encode_feat"),
    ):
        expected = np.moveaxis(case[key], 1, -1)
        np.testing.assert_allclose(gradients[name], expected, rtol=1e-4, atol=1e-6, err_msg=key)


def draw_image(seed, count=4, size=(64, 64)):
    """Rectangles of three classes on stripes of four channels, with some void."""
    rng = np.random.default_rng(seed)
    channels = np.repeat(rng.integers(0, 4, size[0] // 16), 16)[:, None] + np.zeros(size, int)
    channels[: size[0] // 8] = 255
    masks = np.zeros((count, *size), np.uint8)
    for mask in masks:
        (top, left), (height, width) = rng.integers(0, 40, 2), rng.integers(6, 50, 2)
        mask[top : top + height, left : left + width] = 1
    return masks, rng.integers(0, 3, count), channels


def draw_arrays(seed=0, batch=2, num_things=3, num_stuff=4, size=(64, 64)):
    """Random outputs of the heads and embeddings, D = 6, C = 5."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for level in LEVELS:
        cells = [-(-length // 2 ** int(level)) for length in size]
        for head, count in zip(HEADS, (num_things, num_stuff, 6)):
            if count:
                arrays[f"{head}/{level}"] = rng.normal(-1, 2, (batch, *cells, count))
    arrays["encoded"] = rng.normal(size=(batch, -(-size[0] // 4), -(-size[1] // 4), 5))
    arrays.update({name: rng.normal(size=(6, 5)) for name in ("thing", "stuff")})
    return {key: array.astype(np.float32) for key, array in arrays.items()}


def assert_finite(losses, gradients):
    for values in (losses, gradients):
        for key, value in values.items():
            assert np.isfinite(value).all(), key


EVERY_LEVEL = {"instance_scales": ((1, 2048),) * 5}
NO_LEVEL = {"instance_scales": ((1, 2),) * 5}
VOID_IMAGE = (np.zeros((0, 64, 64)), [], np.full((64, 64), 255))


@pytest.mark.parametrize("trim", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize(
    "counts, options",
    [
        ((0, 0), {}),  # no instance at all
        ((0, 3), {}),  # in one image
        ((3, 2), NO_LEVEL),
        ((3, 2), EVERY_LEVEL),  # level 7 has one cell, k is 7
        ((9, 8), {"max_instances": 3, **EVERY_LEVEL}),  # more than fit, and every pair is valid
        ((4, 4), {"num_stuff": 0}),  # only things
        ((4, 4), {"num_things": 0}),  # only stuff
    ],
)
def test_losses_are_finite(counts, options, weighted, trim):
    images = [draw_image(seed, count) for seed, count in enumerate(counts)]
    numbers = {key: options.get(key, n) for key, n in (("num_things", 3), ("num_stuff", 4))}
    sampler = KernelSampler(weighted=weighted, trim=trim)
    targets = make_targets(images, **options)
    losses, gradients = losses_and_gradients(sampler, targets, draw_arrays(**numbers))
    assert_finite(losses, gradients)
    names = THING_LOSSES * (numbers["num_things"] > 0) + STUFF_LOSSES * (numbers["num_stuff"] > 0)
    assert set(losses) == {"loss", *names}
    if "loss/segment_things" in losses:
        no_pair = tf.reduce_sum(targets[1]["num_pairs"]) == 0
        assert (losses["loss/segment_things"] == 0) == no_pair
        # Cells are background all the same.
        assert losses["loss/position_things"] > 0
        assert np.abs(gradients["center_logits/3"]).max() > 0


@pytest.mark.parametrize("trim", [True, False])
def test_all_void_costs_nothing(trim):
    targets = make_targets([VOID_IMAGE] * 2)
    losses, gradients = losses_and_gradients(KernelSampler(trim=trim), targets, draw_arrays())
    assert all(value == 0.0 for value in losses.values())
    assert not any(gradient.any() for gradient in gradients.values())


def test_a_void_image_does_not_count():
    image = draw_image(0)
    arrays = draw_arrays()
    first = {k: a if k in ("thing", "stuff") else a[:1] for k, a in arrays.items()}
    sampler = KernelSampler()
    alone, _ = losses_and_gradients(sampler, make_targets([image]), first)
    both, gradients = losses_and_gradients(sampler, make_targets([image, VOID_IMAGE]), arrays)
    for name in alone:
        np.testing.assert_allclose(both[name], alone[name], rtol=1e-5, err_msg=name)
    for name in set(gradients) - {"thing", "stuff"}:
        assert not gradients[name][1].any(), name


def test_all_scores_are_zero():
    targets = make_targets([draw_image(0), draw_image(1)])
    arrays = draw_arrays()
    for level in LEVELS:
        arrays[f"center_logits/{level}"][1] = -1e4
    losses, gradients = losses_and_gradients(KernelSampler(), targets, arrays)
    assert_finite(losses, gradients)
    assert gradients["kernels/3"][0].any()
    for level in LEVELS:  # no kernel of the second image has a share of the loss of things
        logits = arrays[f"center_logits/{level}"]
        logits[0] = -1e4
    losses, gradients = losses_and_gradients(KernelSampler(), targets, arrays)
    assert_finite(losses, gradients)
    assert losses["loss/segment_things"] == 0.0


def test_padding_of_the_frame_costs_nothing():
    masks, classes, channels = draw_image(3)
    masks[:, 40:], masks[:, :, 48:] = 0, 0
    channels[40:], channels[:, 48:] = 255, 255
    targets = make_targets([(masks, classes, channels)], image_size=(40, 48))
    arrays = draw_arrays(batch=1)
    losses, gradients = losses_and_gradients(KernelSampler(), targets, arrays)
    for head in ("center_logits", "stuff_logits"):
        assert not gradients[f"{head}/3"][:, 5:].any()
        assert not gradients[f"{head}/3"][:, :, 6:].any()
        assert np.abs(gradients[f"{head}/3"][:, :5, :6]).max() > 0
        arrays[f"{head}/3"][:, 5:] = 50.0
    changed, _ = losses_and_gradients(KernelSampler(), targets, arrays)
    for name in losses:
        np.testing.assert_allclose(changed[name], losses[name], rtol=1e-6, err_msg=name)


def test_weights_of_the_parts():
    targets, arrays = make_targets([draw_image(0), draw_image(1)]), draw_arrays()
    one, _ = losses_and_gradients(
        KernelSampler(), targets, arrays, position_weight=1.0, segment_weight=1.0
    )
    other, _ = losses_and_gradients(
        KernelSampler(), targets, arrays, position_weight=2.0, segment_weight=0.5
    )
    for name in THING_LOSSES + STUFF_LOSSES:
        weight = 2.0 if "position" in name else 0.5
        np.testing.assert_allclose(other[name], weight * one[name], rtol=1e-6)


def expected_pairs(features, arrays, b, k):
    """Pairs of image b by loops: (kernels [k, D], weights [k], mask) of things, (kernel, mask)."""
    things, stuff = [], []
    quarters = {name: features[f"gt_{name}"].numpy()[b] / 4 for name in ("masks", "stuff")}
    for i, level in enumerate(LEVELS):
        logits, kernels = (arrays[f"{n}/{level}"][b] for n in ("center_logits", "kernels"))
        size = kernels.shape[:2]
        shares = {name: tf.image.resize(x, size).numpy() for name, x in quarters.items()}
        for j in np.nonzero(features["gt_levels"][b, :, i])[0]:
            scores = 1 / (1 + np.exp(-logits[..., features["gt_classes"][b, j]]))
            scores = np.where(shares["masks"][..., j] > 0.1, scores, 0.0).reshape(-1)
            cells = np.argsort(-scores, kind="stable")[:k]
            weights = scores[cells] / max(scores[cells].sum(), 1e-8)
            if k == 0:  # unweighted
                cells, weights = [features["gt_centers"][b, j, i]], [1.0]
            things.append((kernels.reshape(-1, 6)[cells], weights, quarters["masks"][..., j]))
        for c in range(shares["stuff"].shape[-1]):
            region = shares["stuff"][..., c] >= 0.5
            if region.any():
                mean = (kernels * region[..., None]).mean(axis=(0, 1))
                stuff.append((mean, quarters["stuff"][..., c]))
    return things, stuff


@pytest.mark.parametrize("trim", [True, False])
@pytest.mark.parametrize("k", range(10))
def test_samples_against_loops(k, trim):
    images = [draw_image(seed, count) for seed, count in ((0, 5), (1, 2), (2, 0))]
    features, _, image_info = make_targets(images, **EVERY_LEVEL)
    arrays = draw_arrays(k, batch=3)
    outputs = {head: {level: arrays[f"{head}/{level}"] for level in LEVELS} for head in HEADS}
    sampler = KernelSampler(num_positives=max(k, 1), weighted=k > 0, trim=trim)
    sampled = {key: x.numpy() for key, x in sampler(outputs, features, image_info).items()}
    counts = []
    thing_rows, stuff_rows = (
        sampled[key].astype(int) for key in ("sampled_rows", "sampled_stuff_rows")
    )
    for b in range(3):
        things, stuff = expected_pairs(features, arrays, b, k)
        counts.append((len(things), len(stuff)))
        np.testing.assert_array_equal(sampled["sampled_valid"][b].nonzero()[0], range(len(things)))
        for row, (kernels, weights, mask) in enumerate(things):
            weights = np.pad(weights, (0, max(k, 1) - len(weights)))
            np.testing.assert_allclose(sampled["sampled_weights"][b, row], weights, atol=1e-6)
            found = sampled["sampled_masks"][b, thing_rows[b, row]]
            np.testing.assert_array_equal(found, mask)
            for i in np.nonzero(weights)[0]:
                np.testing.assert_array_equal(sampled["thing_kernels"][b, row, i], kernels[i])
        valid = sampled["sampled_stuff_valid"][b]
        np.testing.assert_array_equal(valid.nonzero()[0], range(len(stuff)))
        for row, (kernel, mask) in enumerate(stuff):
            np.testing.assert_allclose(sampled["stuff_kernels"][b, row], kernel, atol=1e-6)
            found = sampled["sampled_stuff_masks"][b, stuff_rows[b, row]]
            np.testing.assert_array_equal(found, mask)
    rows = np.max(counts, axis=0) if trim else (50, 20)
    assert sampled["sampled_valid"].shape[1] == rows[0]
    assert sampled["sampled_stuff_valid"].shape[1] == rows[1]
    assert not sampled["sampled_weights"][2].any()


def test_static_shapes_without_trim():
    features, _, image_info = make_targets([draw_image(0)])
    arrays = draw_arrays(batch=1)
    outputs = {head: {level: arrays[f"{head}/{level}"] for level in LEVELS} for head in HEADS}
    sample = tf.function(KernelSampler(trim=False).call).get_concrete_function
    outputs, features, image_info = tf.nest.map_structure(
        tf.TensorSpec.from_tensor,
        (tf.nest.map_structure(tf.constant, outputs), features, image_info),
    )
    sampled = sample(outputs, features, image_info).structured_outputs
    shapes = {key: spec.shape.as_list()[1:] for key, spec in sampled.items()}
    assert shapes["thing_kernels"] == [50, 7, 6] and shapes["stuff_kernels"] == [20, 6]
    assert shapes["sampled_masks"] == [10, 16, 16] and shapes["sampled_rows"] == [50]
    assert shapes["sampled_stuff_masks"] == [4, 16, 16] and shapes["sampled_stuff_rows"] == [20]


def test_wrong_argument():
    with pytest.raises(ValueError, match="num_positives.*0"):
        KernelSampler(num_positives=0)


def test_stuff_kernels_are_means_over_the_image():
    channels = np.full((64, 64), 255)
    channels[:40, :48] = 2
    image = (np.zeros((0, 64, 64)), [], channels)
    features, _, image_info = make_targets([image], num_things=0, image_size=(40, 48))
    arrays = draw_arrays(batch=1)
    outputs = {"kernels": {level: arrays[f"kernels/{level}"] for level in LEVELS}}
    sampled = KernelSampler()(outputs, features, image_info)
    # Cells that begin in the image: 5x6, 3x3, 2x2, 1x1, 1x1. Of level 5 the second row is covered
    # by less than one half; its kernels do not count, its cells do.
    covered, counts = ((5, 6), (3, 3), (1, 2), (1, 1), (1, 1)), (30, 9, 4, 1, 1)
    for i, (height, width) in enumerate(covered):
        total = arrays[f"kernels/{LEVELS[i]}"][0, :height, :width].sum(axis=(0, 1))
        kernel = sampled["stuff_kernels"][0, i]
        np.testing.assert_allclose(kernel, total / counts[i], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [(50, 62), (20, 33)])
def test_frames_that_levels_do_not_divide(size):
    channels = np.zeros(size, int)
    masks = np.zeros((2, *size), np.uint8)
    masks[0, 3:18, 4:30], masks[1, :9, 20:] = 1, 1
    targets = make_targets([(masks, [0, 2], channels)], **EVERY_LEVEL)
    losses, gradients = losses_and_gradients(
        KernelSampler(), targets, draw_arrays(batch=1, size=size)
    )
    assert_finite(losses, gradients)
    assert all(value > 0 for value in losses.values())


def replica_step(targets, arrays):
    tensors = {key: tf.convert_to_tensor(array) for key, array in arrays.items()}
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        losses = compute_losses(KernelSampler(num_positives=3), targets, tensors)
    return losses, tape.gradient(losses["loss"], tensors)


def test_two_replicas_are_one_batch(mirrored):
    images = [draw_image(seed, count) for seed, count in enumerate((5, 4, 1, 0))]
    images[3][2][:] = 1  # one category of stuff
    targets, arrays = make_targets(images), draw_arrays(batch=4)
    pairs = targets[1]["num_pairs"].numpy()
    assert pairs[:2].sum() > pairs[2:].sum() > 0
    embeddings = {name: arrays.pop(name) for name in ("thing", "stuff")}
    batch = (targets, arrays)
    in_graph = tf.function(replica_step, autograph=False)
    losses, gradients = in_graph(targets, {**arrays, **embeddings})

    def of_replica(array):
        return mirrored.experimental_distribute_values_from_function(
            lambda context: tf.split(array, 2)[context.replica_id_in_sync_group]
        )

    @tf.function(autograph=False)
    def step(*flat):
        def run(*values):
            targets, arrays = tf.nest.pack_sequence_as(batch, values)
            return replica_step(targets, {**arrays, **embeddings})

        return mirrored.run(run, args=flat)

    of_losses, of_gradients = step(*(of_replica(array) for array in tf.nest.flatten(batch)))
    for name, values in of_losses.items():
        total = mirrored.reduce("SUM", values, axis=None)
        np.testing.assert_allclose(total, losses[name], rtol=1e-5, err_msg=name)
    for name, values in of_gradients.items():
        values = mirrored.experimental_local_results(values)
        value = sum(values) if name in embeddings else np.concatenate(values)
        np.testing.assert_allclose(value, gradients[name], rtol=1e-5, atol=1e-6, err_msg=name)

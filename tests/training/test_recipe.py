"""Recipes: what they choose for drawn measures, and that every value fits its experiment."""

import subprocess
import sys

import numpy as np
import pytest
import yaml
from official.core import config_definitions as cfg
from official.core import exp_factory, task_factory
from small_systems import ROWS

from panoptic_tf import systems  # noqa: F401  (registers the experiments)
from panoptic_tf.api import configuration
from panoptic_tf.datasets.measures import Measures
from panoptic_tf.training import machine as machine_lib
from panoptic_tf.training import recipe, recipe_file
from panoptic_tf.training.machine import Machine, find_machine

CPU = Machine(0, 24 << 30, True, 24 << 30)
GPU = Machine(1, 16 << 30, False, 64 << 30)


def measures(
    *,
    size=(480, 640),
    num_images=100,
    thing_side=40,
    things=5,
    stuff_area=10_000,
    num_things=3,
    has_instances=False,
):
    """Images of one size with equal things and one region of stuff each."""
    images = np.arange(num_images)
    return Measures(
        sizes=np.tile(np.array([size], np.int64), (num_images, 1)),
        thing_areas=np.full(num_images * things, thing_side**2),
        thing_images=np.repeat(images, things),
        stuff_areas=np.full(num_images, stuff_area),
        stuff_images=images,
        num_things=num_things,
        has_instances=has_instances,
    )


def choose(found=None, machine=CPU, system="panoptic_deeplab", **options):
    made = recipe.make_recipe(found or measures(), machine, system, **options)
    assert len({choice.key for choice in made.choices}) == len(made.choices)
    return made.experiment, {choice.key: choice.value for choice in made.choices}


@pytest.mark.parametrize(
    "size, max_side, expected",
    [
        ((480, 640), 512, [384, 512]),
        ((640, 480), 512, [512, 384]),
        ((128, 128), 512, [128, 128]),
        ((100, 100), 512, [128, 128]),  # small ones grow
        ((20, 40), 512, [64, 128]),
        ((200, 300), 512, [224, 320]),  # never smaller than the image
        ((1080, 1920), 512, [288, 512]),
        ((1080, 1920), 1024, [576, 1024]),
        ((10, 4000), 512, [64, 512]),  # levels need some cells
        ((480, 640), 100, [96, 96]),  # at most
        ((1080, 1920), 500, [288, 480]),
        ((480, 640), 64, [64, 64]),
    ],
)
def test_sizes_are_those_of_the_images(size, max_side, expected):
    _, values = choose(measures(size=size), max_side=max_side)
    assert values["task.model.train_size"] == values["task.model.input_size"] == expected


def test_a_frame_for_both_orientations_is_a_square():
    mixed = measures(num_images=10)
    mixed.sizes[::2] = [640, 480]
    assert choose(mixed)[1]["task.model.input_size"] == [512, 512]


def test_few_large_images_do_not_make_all_others_small():
    mixed = measures(size=(300, 300), num_images=100)
    mixed.sizes[0] = [3000, 3000]
    assert choose(mixed)[1]["task.model.input_size"] == [320, 320]


@pytest.mark.parametrize(
    "size, has_backbone, network",
    [
        ((128, 128), False, "shapes"),
        ((160, 90), False, "shapes"),
        ((192, 192), False, "small"),
        ((128, 128), True, "small"),  # whose backbone has published weights
    ],
)
def test_small_images_get_the_small_network(size, has_backbone, network):
    assert (
        choose(measures(size=size), has_backbone=has_backbone)[0] == f"panoptic_deeplab_{network}"
    )


def test_thresholds_of_shapes_are_those_that_were_found_by_hand():
    # Things of 128x128 shapes have a median of 18 pixels a side: sigma 4, small below 16 x 16,
    # stuff above 64 in `panoptic_deeplab_shapes`.
    _, values = choose(measures(size=(128, 128), thing_side=18, things=8))
    assert values["task.targets.sigma"] == 4
    assert values["task.targets.small_instance_area"] == 18**2
    assert values["task.model.postprocessor.stuff_area"] == 65
    assert values["task.model.postprocessor.top_k"] == 16


def test_thresholds_of_large_things_are_the_published_ones():
    _, values = choose(measures(size=(1024, 1024), thing_side=300), max_side=1024)
    assert values["task.targets.sigma"] == 8
    assert values["task.targets.small_instance_area"] == 4096
    assert values["task.model.postprocessor.stuff_area"] == 4096


def test_things_are_measured_in_the_frame():
    # 1920 wide fits into 512: 160 pixels become 42.7.
    _, values = choose(measures(size=(1080, 1920), thing_side=160))
    assert values["task.targets.small_instance_area"] == round((160 * 512 / 1920) ** 2)


def test_true_stuff_is_not_dropped():
    _, values = choose(measures(stuff_area=100))  # 64 in the frame
    assert values["task.model.postprocessor.stuff_area"] == 32


@pytest.mark.parametrize("side, scale", [(5, 2.0), (8, 2.0), (17, 4.0), (40, 8.0), (300, 8.0)])
def test_anchors_begin_at_the_smaller_things(side, scale):
    _, values = choose(measures(size=(512, 512), thing_side=side), system="panoptic_fpn")
    assert values["task.model.rpn.anchor_scale"] == scale


@pytest.mark.parametrize(
    "side, min_level, low, high",
    [
        (20, 2, [1, 16, 32, 64, 128, 256], [32, 64, 128, 256, 512, 2048]),
        # As published, arXiv:2012.00720.
        (60, 3, [1, 32, 64, 128, 256], [64, 128, 256, 512, 2048]),
    ],
)
def test_levels_of_panoptic_fcn(side, min_level, low, high):
    _, values = choose(measures(size=(512, 512), thing_side=side), system="panoptic_fcn")
    assert values["task.model.min_level"] == min_level
    assert values["task.targets.min_scales"] == low
    assert values["task.targets.max_scales"] == high
    assert len(values["task.model.selector.smoothing_sizes"]) == len(low)


@pytest.mark.parametrize(
    "things, queries",
    [(5, 32), (50, 80), (300, 200)],  # One more is stuff; half as many more, at least and at most.
)
def test_every_segment_has_a_query(things, queries):
    _, values = choose(measures(things=things), system="mask_transformer")
    assert values["task.targets.max_segments"] == queries
    assert values["task.model.decoder.num_queries"] == queries


@pytest.mark.parametrize("size, points", [((128, 128), 1024), ((1024, 1024), 12544)])
def test_points_are_as_many_as_cells_or_as_published(size, points):
    _, values = choose(measures(size=size), system="mask_transformer", max_side=1024)
    assert values["task.losses.num_points"] == points


@pytest.mark.parametrize(
    "machine, found, expected",
    [
        (CPU, measures(size=(512, 512)), 8),  # 0.4 * 24 GiB of 0.61 GiB an image: 15.7
        (CPU, measures(size=(128, 128)), 16),
        (CPU, measures(size=(128, 128), num_images=5), 4),  # not more than there are
        (CPU, measures(size=(128, 128), num_images=1), 1),
        (Machine(0, 1 << 20, False, 1 << 20), measures(size=(512, 512)), 1),
        (GPU, measures(size=(512, 512)), 16),
        (Machine(2, 16 << 30, False, 64 << 30), measures(size=(512, 512)), 32),
        (Machine(4, 2 << 30, False, 64 << 30), measures(size=(512, 512)), 8),
    ],
)
def test_batches_fit_the_memory(machine, found, expected):
    _, values = choose(found, machine)
    assert values["task.train_data.global_batch_size"] == expected
    rate = values["trainer.optimizer_config.learning_rate.cosine.initial_learning_rate"]
    base = 2e-3 if values["task.model.input_size"] == [128, 128] else 1e-3
    assert rate == pytest.approx(base * expected / 16, rel=0.05)


def test_systems_differ_in_memory_and_rate():
    machine = Machine(1, 4 << 30, False, 64 << 30)  # 0.7 * 4 GiB of 0.61 or 0.85 GiB an image.
    found = measures(size=(512, 512))
    key = "trainer.optimizer_config.learning_rate.cosine.initial_learning_rate"
    for system, batch, rate in (("panoptic_fpn", 4, 1e-3), ("mask_transformer", 2, 5e-4)):
        _, values = choose(found, machine, system)
        assert values["task.train_data.global_batch_size"] == batch
        assert values[key] == pytest.approx(rate * batch / 16, rel=0.05)


@pytest.mark.parametrize("num_gpus, evaluated", [(1, 8), (3, 6), (6, 6), (8, 8), (16, 16)])
def test_every_device_evaluates_as_many(num_gpus, evaluated):
    _, values = choose(machine=Machine(num_gpus, 16 << 30, False, 64 << 30))
    assert values["task.validation_data.global_batch_size"] == evaluated
    for split in ("train_data", "validation_data"):
        assert values[f"task.{split}.global_batch_size"] % num_gpus == 0


@pytest.mark.parametrize(
    "num_images, seen", [(1, 32_000), (320, 32_000), (1000, 100_000), (50_000, 400_000)]
)
def test_the_schedule_follows_the_number_of_images(num_images, seen):
    _, values = choose(measures(size=(128, 128), num_images=num_images, things=1))
    steps, batch = values["trainer.train_steps"], values["task.train_data.global_batch_size"]
    assert seen <= steps * batch < seen + 50 * batch
    learning_rate = "trainer.optimizer_config.learning_rate.cosine"
    assert values[f"{learning_rate}.decay_steps"] == steps
    assert values["trainer.optimizer_config.warmup.linear.warmup_steps"] <= steps / 20
    loop = values["trainer.steps_per_loop"]
    for key in ("summary_interval", "checkpoint_interval", "validation_interval"):
        assert 0 < values[f"trainer.{key}"] <= steps
        assert values[f"trainer.{key}"] % loop == 0


def test_images_are_cached_where_they_fit():
    # 300,000 images of 480x640, 7 bytes a pixel: 645 GB.
    assert choose(measures(num_images=100))[1]["task.train_data.cache"] is True
    assert choose(measures(num_images=300_000, things=1))[1]["task.train_data.cache"] is False
    # 10,000 of them, 20 GiB: in the memory of the machine, not of its GPU.
    for host, fits in ((128 << 30, True), (64 << 30, False)):
        machine = Machine(1, 40 << 30, True, host)
        values = choose(measures(num_images=10_000, things=1), machine)[1]
        assert values["task.train_data.cache"] is fits


def test_whole_instances_are_used_by_systems_that_detect():
    found = measures(has_instances=True)
    key = "task.validation_data.with_instances"
    assert key not in choose(found)[1]
    assert choose(found, system="panoptic_fpn")[1][key] is True
    assert choose(found, system="panoptic_fcn")[1][key] is True
    _, values = choose(found, system="mask_transformer")  # Whose truth is the panoptic map.
    assert values[key] is True and "task.train_data.with_instances" not in values


def test_the_machine_decides_on_dtype_and_strategy():
    machines = CPU, Machine(2, 16 << 30, False, 64 << 30)
    one, two = (choose(machine=machine)[1] for machine in machines)
    assert one["runtime.mixed_precision_dtype"] == "bfloat16"
    assert one["runtime.distribution_strategy"] == "one_device"
    assert two["runtime.mixed_precision_dtype"] == "float32"
    assert two["runtime.distribution_strategy"] == "mirrored"


def test_things_are_pasted_where_there_are_any():
    key = "task.train_data.augmentation"
    assert choose()[1][key]["copy_paste"]["probability"] == 0.5
    assert "copy_paste" not in choose(measures(things=0, num_things=0))[1][key]


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=f"one of {', '.join(recipe.SYSTEMS)}, got 'x'"):
        recipe.make_recipe(measures(), CPU, "x")
    for side in (63, 0, -512):
        with pytest.raises(ValueError, match=f"max_side must be at least 64 pixels, got {side}"):
            recipe.make_recipe(measures(), CPU, recipe.SYSTEMS[0], max_side=side)


def test_every_system_is_offered_without_importing_it():
    assert recipe.SYSTEMS[0] == "panoptic_deeplab"  # the default
    assert sorted(recipe.SYSTEMS) == sorted(row.system for row in ROWS)
    code = "import sys, panoptic_tf.training.recipe; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("system", recipe.SYSTEMS)
@pytest.mark.parametrize(
    "found",
    [
        measures(),
        measures(size=(128, 128), has_instances=True),
        measures(things=0, num_things=0),
    ],
    ids=["photographs", "small", "stuff only"],
)
def test_the_file_fits_the_experiment(system, found, tmp_path):
    made = recipe.make_recipe(found, GPU, system)
    text = recipe_file.format_choices(made.choices)
    values = yaml.safe_load(text)
    params = exp_factory.get_exp_config(made.experiment)
    configuration.apply(params, values, source="train.yaml")
    params.validate()
    for choice in made.choices:
        node = params.as_dict()
        for part in choice.key.split("."):
            node = node[part]
        if isinstance(choice.value, dict):
            node = {key: node[key] for key in choice.value}
        assert node == choice.value, choice.key
        assert choice.why in text
    task = task_factory.get_task(params.task)
    assert callable(task.build_loss()) and callable(task.build_target_generator())


def test_a_file_is_one_line_a_choice():
    choices = [
        recipe.Choice("a.b", 1, "first"),
        recipe.Choice("c", 1e-05, ""),
        recipe.Choice("a.d.e", [1, 2], "second"),
        recipe.Choice("a.f", "x: y # z", "w" * 100),
    ]
    text = recipe_file.format_choices(choices)
    assert text == (
        "a:\n  b: 1  # first\n  d:\n    e: [1, 2]  # second\n"
        f"  # {'w' * 100}\n  f: 'x: y # z'\nc: 1.0e-05\n"
    )
    assert yaml.safe_load(text) == {"a": {"b": 1, "d": {"e": [1, 2]}, "f": "x: y # z"}, "c": 1e-5}


@pytest.mark.parametrize("keys", [("a", "a"), ("a", "a.b"), ("a.b", "a")])
def test_keys_that_exclude_each_other_are_refused(keys):
    with pytest.raises(ValueError, match="^a(.b)? comes twice|^a.b: a has a value already"):
        recipe_file.format_choices([recipe.Choice(key, 1, "") for key in keys])


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_bfloat16_where_it_is_slow_is_said(monkeypatch, has_bfloat16):
    found = Machine(0, 8 << 30, has_bfloat16, 8 << 30)
    monkeypatch.setattr(machine_lib, "find_machine", lambda: found)
    assert found.precision == ("bfloat16" if has_bfloat16 else "float32")

    def misfits(**runtime):
        return machine_lib.precision_misfits(cfg.RuntimeConfig(**runtime))

    assert misfits() == misfits(mixed_precision_dtype="float32") == []
    assert misfits(mixed_precision_dtype="bfloat16", distribution_strategy="tpu") == []
    notes = misfits(mixed_precision_dtype="bfloat16", distribution_strategy="one_device")
    assert len(notes) == (not has_bfloat16) and all("--mixed_precision=float32" in n for n in notes)


def test_this_machine_is_described():
    machine = find_machine()
    assert min(machine.memory_bytes, machine.host_memory_bytes) > 1 << 28
    assert ("CPU" in machine.description) == (machine.num_gpus == 0)

"""What follows the length of a training and its batch size."""

import pytest
from official.core import exp_factory

from panoptic_tf import systems  # noqa: F401  (registers the experiments)
from panoptic_tf.training import schedule

RATE = "trainer.optimizer_config.learning_rate"
WARMUP = "trainer.optimizer_config.warmup.linear.warmup_steps"
STEPS = "trainer.train_steps"
BATCH = "task.train_data.global_batch_size"


def experiment(name="panoptic_fpn_resnet50_coco"):
    """Stepwise: 90,000 steps of 16 images, 0.02 from the 1,000th on, less at 60,000 and 80,000."""
    return exp_factory.get_exp_config(name)


def follow(before, changed, **options):
    values = {"trainer": {}, "task": {"train_data": {}}}
    for key, value in changed.items():
        section, _, name = key.partition(".")
        inner = values["task"]["train_data"] if section == "task" else values["trainer"]
        inner[name.rpartition(".")[2]] = value
    after = before.replace(**values)
    return schedule.follow(before, after, changed=set(changed), **options)


def test_boundaries_and_warmup_keep_their_share_of_the_training():
    values, notes = follow(experiment(), {STEPS: 900})
    assert values == {f"{RATE}.stepwise.boundaries": [600, 800], WARMUP: 10}
    assert len(notes) == 1 and "trainer.train_steps 90000 -> 900" in notes[0]
    assert "boundaries [60000, 80000] -> [600, 800]" in notes[0]


@pytest.mark.parametrize("steps, decay, warmup", [(4500, 4500, 150), (36000, 36000, 1200)])
def test_decay_steps_follow_both_ways(steps, decay, warmup):
    values, _ = follow(experiment("panoptic_deeplab_shapes"), {STEPS: steps})
    assert values == {f"{RATE}.cosine.decay_steps": decay, WARMUP: warmup}


def test_a_warmup_keeps_a_step():
    values, _ = follow(experiment(), {STEPS: 3})
    assert values[WARMUP] == 1


def test_learning_rates_are_proportional_to_the_batch():
    values, notes = follow(experiment(), {BATCH: 4})
    assert values == {f"{RATE}.stepwise.values": [0.005, 0.0005, 0.00005]}
    assert len(notes) == 1 and "[0.02, 0.002, 0.0002] -> [0.005, 0.0005, 5e-05]" in notes[0]
    values, _ = follow(experiment("panoptic_deeplab_resnet50_coco"), {BATCH: 16})
    assert values[f"{RATE}.polynomial.initial_learning_rate"] == 1.25e-4


def test_what_is_set_too_or_was_set_by_itself_does_not_follow():
    before = experiment("panoptic_deeplab_shapes")
    key = f"{RATE}.cosine.decay_steps"
    for options in ({"changed": {STEPS, key}}, {"changed": {STEPS}, "fixed": {key}}):
        after = before.replace(trainer={"train_steps": 90})
        values, _ = schedule.follow(before, after, **options)
        assert values == {WARMUP: 3}
    assert schedule.set_apart(before, {key, BATCH}) == {key}
    assert schedule.set_apart(before, {key, STEPS}) == set()


def test_rates_that_come_with_the_batch_are_taken_as_they_are():
    values, _ = follow(
        experiment("panoptic_fcn_resnet50_coco"),
        {BATCH: 4},
    )
    rate = f"{RATE}.polynomial.initial_learning_rate"
    assert values[rate] == 0.0025
    before = experiment("panoptic_fcn_resnet50_coco")
    before.trainer.optimizer_config.learning_rate.polynomial.end_learning_rate = 1e-4
    after = before.replace(task={"train_data": {"global_batch_size": 4}})
    assert schedule.follow(before, after, changed={BATCH, rate}) == ({}, [])


def test_nothing_follows_where_nothing_changes():
    before = experiment()
    assert schedule.follow(before, before.replace(), changed={STEPS, BATCH}) == ({}, [])


def test_no_experiment_misfits():
    for name, function in exp_factory._REGISTERED_CONFIGS.items():
        if getattr(function, "func", function).__module__.startswith("panoptic_tf."):
            assert schedule.misfits(exp_factory.get_exp_config(name)) == [], name


@pytest.mark.parametrize(
    "trainer, words",
    [
        ({"train_steps": 70000}, ["boundaries is [60000, 80000]", "not all of them are reached"]),
        ({"train_steps": 1000}, ["warmup_steps is 1000", "all of it is warm-up"]),
        ({"checkpoint_interval": 100000}, ["checkpoint_interval is 100000", "only checkpoint"]),
        ({"validation_interval": 100000}, ["validation_interval is 100000", "only evaluation"]),
    ],
)
def test_says_what_does_not_fit(trainer, words):
    found = schedule.misfits(experiment().replace(trainer=trainer))
    assert any(all(word in line for word in words) for line in found), found


def test_a_decay_without_an_end_fits_any_length():
    rate = {"type": "exponential", "exponential": {"decay_steps": 500}}
    trainer = {"optimizer_config": {"learning_rate": rate}}
    params = experiment("panoptic_deeplab_shapes").replace(trainer=trainer)
    assert schedule.misfits(params) == []


def test_says_that_a_decay_does_not_end():
    params = experiment("panoptic_deeplab_shapes").replace(trainer={"train_steps": 8000})
    assert "decay_steps is 9000 and trainer.train_steps 8000" in schedule.misfits(params)[0]

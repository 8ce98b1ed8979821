"""From names, files and overrides to a configuration."""

import pytest
from official.core import exp_factory

from panoptic_tf.api import settings
from panoptic_tf.training import run_folder


@pytest.fixture
def write(tmp_path):
    """Writes a file of the folder; returns its path."""

    def write(name, text):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


@pytest.fixture
def run(tmp_path):
    """The folder of a run whose params.yaml names its experiment."""
    params = settings.configure(
        "panoptic_fpn_shapes",
        overrides={"trainer.train_steps": 70, "runtime.distribution_strategy": "tpu"},
    ).params
    run_folder.write_params(params, str(tmp_path), "panoptic_fpn_shapes")
    return tmp_path


def test_a_file_names_experiment_folder_and_mode(write):
    path = write("a.yaml", "experiment: panoptic_fpn_shapes\nmodel_dir: runs/x\nmode: train\n")
    found = settings.configure(config_file=path)
    assert (found.experiment, found.model_dir, found.mode) == (
        "panoptic_fpn_shapes",
        "runs/x",
        "train",
    )
    assert found.params.as_dict() == settings.configure("panoptic_fpn_shapes").params.as_dict()


def test_an_argument_beats_the_file_and_the_last_file_the_first(write):
    first = write("a.yaml", "experiment: panoptic_fpn_shapes\nmodel_dir: x\n")
    second = write("b.yaml", "model_dir: y\ntrainer: {max_to_keep: 3}\n")
    found = settings.configure(config_file=[first, second])
    assert (found.experiment, found.model_dir) == ("panoptic_fpn_shapes", "y")
    assert found.params.trainer.max_to_keep == 3
    assert settings.configure("panoptic_fcn_shapes", config_file=first).experiment == (
        "panoptic_fcn_shapes"
    )


def test_files_of_two_experiments_are_refused(write):
    paths = [write(f"{n}.yaml", f"experiment: panoptic_{n}_shapes\n") for n in ("fpn", "fcn")]
    with pytest.raises(ValueError, match="fcn.yaml is for .*fcn_shapes, .*fpn.yaml for"):
        settings.configure(config_file=paths)


def test_overrides_take_dots_and_nesting_and_text(write):
    for overrides in (
        {"trainer.train_steps": 5, "trainer": {"max_to_keep": 2}},
        {"trainer": {"train_steps": 5, "max_to_keep": 2}},
        "trainer.train_steps=5,trainer.max_to_keep=2",
        write("o.yaml", "trainer: {train_steps: 5, max_to_keep: 2}"),
    ):
        trainer = settings.configure("panoptic_fpn_shapes", overrides=overrides).params.trainer
        assert (trainer.train_steps, trainer.max_to_keep) == (5, 2)


@pytest.mark.parametrize(
    "overrides, words",
    [
        ({"trainer.train_steps": 5, "trainer": {"train_steps": 6}}, "'train_steps' is given twice"),
        ({"trainer.train_step": 5}, "overrides: .*Did you mean trainer.train_steps"),
        ({7: 5}, "a key must be a text, got 7"),
        ("foo", "--params_override: 'foo'"),
    ],
)
def test_wrong_overrides(overrides, words):
    with pytest.raises(ValueError, match=words):
        settings.configure("panoptic_fpn_shapes", overrides=overrides)


def test_nothing_named_is_an_error():
    with pytest.raises(ValueError, match="no experiment is named: give --experiment"):
        settings.configure()


def test_a_run_says_all_of_itself(run):
    assert (run / "params.yaml").read_text().startswith("experiment: panoptic_fpn_shapes\n")
    here = settings.configure(saved_dir=str(run))
    assert here.experiment == "panoptic_fpn_shapes" and not here.notes
    assert here.params.trainer.train_steps == 70
    assert here.params.runtime.distribution_strategy == "one_device"
    kept = settings.configure(saved_dir=str(run), keep_devices=True).params
    assert kept.runtime.distribution_strategy == "tpu"
    assert kept.trainer.as_dict() == here.params.trainer.as_dict()


def test_no_gpu_is_taken_where_none_is_asked_for(run, monkeypatch):
    """0 in a file or an override is the CPU; without a word it is all that there are."""
    monkeypatch.setattr(settings, "_count_gpus", lambda _: 4)

    def count(*experiment, **arguments):
        return settings.configure(*experiment, **arguments).params.runtime.num_gpus

    name = "panoptic_fpn_shapes"
    assert count(name) == 4
    assert count(name, num_gpus=0) == count(name, overrides={"runtime.num_gpus": 0}) == 0
    assert count(name, overrides={"runtime.num_gpus": 2}) == 2
    assert count(config_file=str(run / "params.yaml")) == 0
    assert count(saved_dir=str(run), keep_devices=True) == 0
    assert count(saved_dir=str(run)) == 4
    assert count(saved_dir=str(run), overrides={"runtime": {"num_gpus": 0}}) == 0


def test_the_mode_of_a_run_is_kept(run):
    params = settings.configure("panoptic_fpn_shapes").params
    assert settings.configure(saved_dir=str(run)).mode is None
    run_folder.write_params(params, str(run), "panoptic_fpn_shapes", "train")
    assert settings.configure(saved_dir=str(run)).mode == "train"
    assert settings.configure(config_file=str(run / "params.yaml")).mode == "train"


def test_a_params_file_is_a_config_file(run):
    found = settings.configure(config_file=str(run / "params.yaml"))
    assert found.experiment == "panoptic_fpn_shapes"
    assert found.params.trainer.train_steps == 70


def test_a_run_goes_on_longer_with_its_schedule(run):
    found = settings.configure(saved_dir=str(run), overrides={"trainer.train_steps": 140})
    cosine = found.params.trainer.optimizer_config.learning_rate.cosine
    assert cosine.decay_steps == 140
    assert found.notes[0].startswith("overrides: trainer.train_steps 70 -> 140")


def test_an_older_run_needs_the_name(run):
    text = (run / "params.yaml").read_text().partition("\n")[2]
    (run / "params.yaml").write_text(text)
    with pytest.raises(ValueError, match="does not name its experiment. .*panoptic_fpn_shapes"):
        settings.configure(saved_dir=str(run))
    found = settings.configure("panoptic_fpn_shapes", saved_dir=str(run))
    assert found.params.trainer.train_steps == 70


def test_another_system_s_run_is_refused(run):
    with pytest.raises(ValueError, match="another system than --experiment=panoptic_fcn_shapes"):
        settings.configure("panoptic_fcn_shapes", saved_dir=str(run))


def test_schedules_follow_a_layer_at_a_time(write):
    """A decay that a file sets alone is meant for the steps that a later one sets."""
    alone = write(
        "decay.yaml", "trainer: {optimizer_config: {learning_rate: {cosine: {decay_steps: 50}}}}\n"
    )
    steps = {"trainer.train_steps": 50}
    found = settings.configure("panoptic_fpn_shapes", config_file=alone, overrides=steps)
    assert found.params.trainer.optimizer_config.learning_rate.cosine.decay_steps == 50
    both = write(
        "both.yaml",
        "trainer: {train_steps: 50, optimizer_config: "
        "{learning_rate: {cosine: {decay_steps: 40}}}}\n",
    )
    found = settings.configure(
        "panoptic_fpn_shapes", config_file=both, overrides={"trainer.train_steps": 100}
    )
    assert found.params.trainer.optimizer_config.learning_rate.cosine.decay_steps == 80


def test_the_text_of_params_file_gives_the_same_values(tmp_path):
    for name in ("panoptic_fcn_resnet50_coco", "panoptic_fpn_resnet50_coco"):
        params = exp_factory.get_exp_config(name)
        run_folder.write_params(params, str(tmp_path), name)
        found = settings.configure(saved_dir=str(tmp_path), keep_devices=True)
        assert found.params.as_dict() == params.as_dict()
        assert [p.name for p in tmp_path.iterdir()] == ["params.yaml"]

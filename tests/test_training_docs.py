"""The configurations in docs/training.md are ones that an experiment takes."""

import pathlib
import re

import pytest
import yaml

TEXT = (pathlib.Path(__file__).parent.parent / "docs" / "training.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def experiment():
    from official.core import exp_factory

    from panoptic_tf import systems  # noqa: F401  (registers the experiments)

    return exp_factory.get_exp_config("panoptic_deeplab_resnet50_coco")


@pytest.mark.parametrize("block", BLOCKS)
def test_yaml_overrides_an_experiment(experiment, block):
    values = yaml.safe_load(block)
    experiment.override(values, is_strict=True)
    trainer = values.get("trainer", {})
    assert experiment.trainer.train_steps == trainer.get("train_steps", 200_000)
    options = trainer.get("optimizer_config", {})
    if "ema" in options:
        assert experiment.trainer.optimizer_config.ema.average_decay == 0.9998
    if "learning_rate" in options and "type" in options["learning_rate"]:
        from official.modeling import optimization

        factory = optimization.OptimizerFactory(experiment.trainer.optimizer_config)
        schedule = factory.build_learning_rate()
        assert float(schedule(70_000)) == pytest.approx(0.002)
        assert experiment.trainer.optimizer_config.optimizer.get().global_clipnorm == 10.0
        factory.build_optimizer(schedule)


def test_command_line_form_sets_the_same_values(experiment):
    from official.modeling import hyperparams

    (text,) = re.findall(r"--params_override='(.*)'", TEXT)
    hyperparams.override_params_dict(experiment, text, is_strict=True)
    assert experiment.task.train_data.input_path == "data/coco/train-*"
    assert experiment.task.train_data.global_batch_size == 16


def has_key(config, key):
    for name in key.split("."):
        if not hasattr(config, name):
            return False
        config = getattr(config, name)
    return True


@pytest.mark.parametrize("key", sorted(set(re.findall(r"`((?:task|trainer)\.[a-z_.]+)`", TEXT))))
def test_keys_exist(experiment, key):
    from official.core import exp_factory

    # Some are of one system only.
    others = [
        exp_factory.get_exp_config(f"{system}_resnet50_coco")
        for system in ("panoptic_fpn", "panoptic_fcn", "mask2former")
    ]
    assert any(has_key(config, key) for config in (experiment, *others)), key

"""Values for a config: what fits, what does not, and what is said of it."""

import dataclasses
import pathlib
from typing import Any, Dict, List, Optional, Tuple, Union

import pytest
import small_systems
from official.core import exp_factory
from official.modeling import hyperparams

from panoptic_tf.api import config_check, configuration
from panoptic_tf.systems.config import Options

RECIPES = pathlib.Path(__file__).parents[2] / "experiments" / "recipes"


@dataclasses.dataclass
class Inner(hyperparams.Config):
    depth: int = 3
    ratio: float = 0.5


@dataclasses.dataclass
class Choice(hyperparams.OneOfConfig):
    type: Optional[str] = "inner"
    inner: Inner = dataclasses.field(default_factory=Inner)
    outer: Inner = dataclasses.field(default_factory=Inner)


@dataclasses.dataclass
class Example(hyperparams.Config):
    name: str = ""
    flag: bool = False
    count: int = 1
    rate: float = 1.0
    note: Optional[str] = None
    lied: int = None
    sizes: List[int] = dataclasses.field(default_factory=lambda: [4, 8, 16])
    input_size: List[int] = dataclasses.field(default_factory=lambda: [64, 96])
    output_size: List[int] = dataclasses.field(default_factory=list)
    pair: Tuple[int, str] = (1, "a")
    either: Union[str, List[str]] = ""
    anything: Any = None
    table: Optional[Dict[str, Any]] = None
    inner: Inner = dataclasses.field(default_factory=Inner)
    spare: Optional[Inner] = None
    choice: Choice = dataclasses.field(default_factory=Choice)
    options: Options = dataclasses.field(default_factory=Options)


@pytest.mark.parametrize(
    "values",
    [
        {"name": "a", "flag": True, "count": -3, "rate": 2, "note": None, "lied": None},
        {"note": "text", "lied": 3, "sizes": [], "input_size": [1, 1], "pair": [2, "b"]},
        {"either": "a"},
        {"either": ["a", "b"]},
        {"anything": [1, "a"], "output_size": [], "table": {"any": "key"}},
        {"inner": {"depth": 4, "ratio": 1}},
        {"spare": {"depth": 4}},
        {"spare": None},
        {"choice": {"type": "outer", "outer": {"depth": 1}}},
        {"options": {"of": "any", "kind": [1]}},
        {},
    ],
)
def test_fits(values):
    assert not list(config_check.find_problems(Example(), values))
    Example().override(values)


@pytest.mark.parametrize(
    "values, words",
    [
        ({"nam": 1}, "there is no key nam. Did you mean name?"),
        ({"depth": 1}, "there is no key depth. Did you mean inner.depth or"),
        ({"inner": {"dept": 1}}, "there is no key inner.dept. Did you mean inner.depth?"),
        ({"inner": {"zzz": 1}}, "There are depth, ratio."),
        ({"spare": {"dept": 1}}, "there is no key spare.dept."),
        ({1: 2}, "there is no key 1."),
        ({"name": 3}, "name must be a text, got 3. Quote it: '3'."),
        ({"name": None}, "name must be a text, got None."),
        ({"flag": 1}, "flag must be true or false, got 1."),
        ({"flag": "yes"}, "flag must be true or false, got 'yes'."),
        ({"count": True}, "count must be a whole number, got True."),
        ({"count": "7"}, "count must be a whole number, got '7'."),
        ({"count": 2.0}, "count must be a whole number, got 2.0. Write 2."),
        ({"count": 2.5}, "count must be a whole number, got 2.5."),
        ({"count": float("inf")}, "count must be a whole number, got inf."),
        ({"rate": "1.0e4"}, "rate must be a number, got '1.0e4'. Write 10000.0."),
        ({"rate": float("nan")}, "rate must be a number, got nan."),
        ({"rate": [1.0]}, "rate must be a number, got [1.0]."),
        ({"note": 5}, "note must be a text or null, got 5."),
        ({"sizes": 4}, "sizes must be a list of whole numbers such as [4, 8, 16], got 4."),
        ({"sizes": [4, "a"]}, "sizes must be a list of whole numbers"),
        ({"sizes": {"a": 1}}, "sizes must be a list of whole numbers"),
        ({"input_size": [1]}, "input_size must be [height, width] in pixels, got [1]."),
        ({"input_size": [0, 1]}, "input_size must be [height, width] in pixels, got [0, 1]."),
        ({"input_size": []}, "input_size must be [height, width] in pixels, got []."),
        ({"output_size": [1]}, "output_size must be [height, width] in pixels, got [1]."),
        ({"pair": [1]}, "pair must be a list"),
        ({"either": 3}, "either must be a text or a list of texts, got 3."),
        ({"table": 3}, "table must be keys with values or null, got 3."),
        ({"inner": 3}, "inner holds keys with values, such as inner.depth, got 3."),
        ({"inner": None}, "inner holds keys with values"),
        ({"count": {"a": 1}}, "count must be a whole number, got {'a': 1}."),
        ({"choice": {"type": "inne"}}, "choice.type must be one of inner, outer, got 'inne'."),
        ({"options": 3}, "options holds keys with values, got 3."),
    ],
)
def test_says_what_does_not_fit(values, words):
    (problem,) = config_check.find_problems(Example(), values)
    assert words in problem


def _is_ours(factory):
    """Other tests import the Model Garden's experiments."""
    return type(factory().task).__module__.startswith("panoptic_tf.")


def test_every_experiment_takes_its_own_values():
    found = {n: f() for n, f in exp_factory._REGISTERED_CONFIGS.items() if _is_ours(f)}
    assert len(found) > 90
    for name, params in found.items():
        assert not list(config_check.find_problems(params, params.as_dict())), name


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_fits_its_system(path):
    system = path.relative_to(RECIPES).parts[0]
    (experiment,) = (row.experiment for row in small_systems.ROWS if row.system == system)
    params = exp_factory.get_exp_config(experiment)
    values = configuration.read_file(str(path))
    assert not list(config_check.find_problems(params, values))


def test_likely_experiment_is_the_one_that_wrote_the_values():
    for name in ("panoptic_deeplab_resnet50_coco", "panoptic_fcn_shapes", "semantic_fpn_shapes"):
        values = exp_factory.get_exp_config(name).as_dict()
        assert configuration.likely_experiment(values) == name
    assert configuration.likely_experiment({"task": {"nothing": 1}}) is None


@pytest.mark.parametrize(
    "text, values",
    [
        ("trainer.train_steps=5", {"trainer": {"train_steps": 5}}),
        ("a.b=1,a.c=[1,2],d=x", {"a": {"b": 1, "c": [1, 2]}, "d": "x"}),
        ("a.rate=1e-4", {"a": {"rate": 1e-4}}),
        ("{a: {b: null}}", {"a": {"b": None}}),
        ("a.path=gs://bucket/train-*", {"a": {"path": "gs://bucket/train-*"}}),
    ],
)
def test_reads_overrides(text, values):
    assert configuration.read_text(text) == values


def test_overrides_may_be_a_file(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a:\n  b: 1\n")
    assert configuration.read_text(str(path)) == {"a": {"b": 1}}
    path.write_text("")
    assert configuration.read_text(str(path)) == {}

"""An experiment's config and the values that a user sets in it."""

from __future__ import annotations

import difflib
import inspect
import itertools
import os
import re
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Set, Tuple

import tensorflow as tf
import yaml
from official.core import config_definitions as cfg
from official.core import exp_factory
from official.modeling.hyperparams import params_dict

from panoptic_tf import systems  # noqa: F401  (registers tasks and experiments)
from panoptic_tf.api import config_check
from panoptic_tf.datasets import files

MODES = ("train", "train_and_eval", "eval", "continuous_eval")
"""What a training can be asked to do."""

_MAX_PROBLEMS = 3
_IS_PATH = re.compile(r"[^={}]+\.(ya?ml|json)")


class Head(NamedTuple):
    """What a file may say beside the values of an experiment."""

    experiment: Optional[str] = None
    model_dir: Optional[str] = None
    mode: Optional[str] = None


def experiment_problem(name: str) -> Optional[str]:
    """Why there is no experiment of that name, or None."""
    names = list(exp_factory._REGISTERED_CONFIGS)
    if name in names:
        return None
    close = difflib.get_close_matches(name, names, n=3) or [
        n for n in names if n.endswith("shapes")
    ]
    return f"there is no such experiment. Did you mean {' or '.join(close)}?"


def experiment_names() -> List[str]:
    """Names of the package's experiments; the Model Garden registers others beside them."""
    return [
        name
        for name, function in exp_factory._REGISTERED_CONFIGS.items()
        if getattr(function, "func", function).__module__.startswith("panoptic_tf.")
    ]


def describe_experiment(name: str) -> str:
    """What an experiment is for: the first line of what defines it."""
    function = exp_factory._REGISTERED_CONFIGS[name]
    function = getattr(function, "func", function)  # A partial has the docstring of its class.
    lines = (inspect.getdoc(function) or "").splitlines()
    return lines[0].rstrip(".") if lines else ""


def find_experiment(name: str) -> cfg.ExperimentConfig:
    """The config of an experiment as it is defined.

    Raises:
      ValueError: there is no such experiment.
    """
    problem = experiment_problem(name)
    if problem:
        raise ValueError(f"--experiment={name}: {problem}")
    return exp_factory.get_exp_config(name)


def read_file(path: str) -> Dict[str, Any]:
    """Values of a YAML or JSON file, nested.

    Raises:
      ValueError: it cannot be read or is no mapping.
    """
    try:
        with tf.io.gfile.GFile(path) as file:
            text = file.read()
    except tf.errors.OpError as error:
        reason = str(error.message).rpartition("; ")[2]
        raise ValueError(f"cannot read {path}: {reason}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no YAML file: it is not text.") from error
    return _parse(text, source=path) or {}


def read_text(text: str) -> Dict[str, Any]:
    """Values of `--params_override`: `key=value,...`, YAML, or the path of a YAML file.

    Raises:
      ValueError: it is none of these.
    """
    if os.path.isfile(text) or _IS_PATH.fullmatch(text):
        return read_file(text)
    try:
        text_of_yaml = params_dict.nested_csv_str_to_json_str(text)
    except (ValueError, IndexError):
        text_of_yaml = text
    try:
        values = yaml.load(text_of_yaml, Loader=yaml.FullLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise ValueError(
            f"{text!r} is neither key=value, with commas between several, nor a YAML file."
        )
    return values


def split_head(values: Mapping[str, Any], *, source: str) -> Tuple[Head, Dict[str, Any]]:
    """Takes `experiment`, `model_dir` and `mode` off the top of a file's values.

    Args:
      values: of `read_file`.
      source: the file, for the error message.

    Raises:
      ValueError: one of them is no text, or there is no such mode.
    """
    rest = dict(values)
    head = Head(*(rest.pop(key, None) for key in Head._fields))
    for key, value in zip(Head._fields, head):
        if value is not None and (not isinstance(value, str) or not value):
            raise ValueError(f"{source}: {key} must be a text, got {value!r}.")
    if head.mode is not None and head.mode not in MODES:
        close = difflib.get_close_matches(head.mode, MODES, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise ValueError(
            f"{source}: mode must be one of {', '.join(MODES)}, got {head.mode!r}.{hint}"
        )
    return head, rest


def nest(values: Mapping[str, Any], *, source: str) -> Dict[str, Any]:
    """Values of which some keys have dots, `{"trainer.train_steps": 100}`, as nested ones.

    Raises:
      ValueError: a key is no text, or two set the same.
    """
    nested: Dict[str, Any] = {}
    for key, value in values.items():
        if not isinstance(key, str):
            raise ValueError(f"{source}: a key must be a text, got {key!r}.")
        value = nest(value, source=source) if isinstance(value, Mapping) else value
        for part in reversed(key.split(".")):
            value = {part: value}
        _merge(nested, value, source)
    return nested


def _merge(values: Dict[str, Any], others: Mapping[str, Any], source: str) -> None:
    for key, value in others.items():
        if key not in values:
            values[key] = value
        elif isinstance(values[key], dict) and isinstance(value, Mapping):
            _merge(values[key], value, source)
        else:
            raise ValueError(f"{source}: {key!r} is given twice.")


def keys_of(values: Mapping[str, Any]) -> Set[str]:
    """The keys of nested values, with dots between their parts."""
    keys = set()
    for key, value in values.items():
        inner = keys_of(value) if isinstance(value, Mapping) and value else set()
        keys |= {f"{key}.{name}" for name in inner} or {str(key)}
    return keys


def apply(params: cfg.ExperimentConfig, values: Mapping[str, Any], *, source: str) -> None:
    """Sets values in an experiment's config.

    Args:
      params: is changed.
      values: nested, by key.
      source: where they are from, for the error message.

    Raises:
      ValueError: a key does not exist, or its value has the wrong type.
    """
    problems = list(itertools.islice(config_check.find_problems(params, values), _MAX_PROBLEMS))
    if not problems:
        try:
            params.override(dict(values))
            params.as_dict()
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            problems = [str(error)]
    if problems:
        raise ValueError("\n".join([f"{source}: {problems[0]}", *problems[1:]]))


def apply_saved(
    params: cfg.ExperimentConfig, values: Mapping[str, Any], *, path: str, experiment: str
) -> None:
    """Sets the values of a run's `params.yaml`.

    Args:
      params: is changed.
      values: what the file holds, without its head.
      path: of the file, for the error message.
      experiment: name of `params`.

    Raises:
      ValueError: the run is of an experiment with other keys; the message names a likely one.
    """
    likely = None if config_check.fits(params, values) else likely_experiment(values)
    if likely is None:
        return apply(params, values, source=path)
    raise ValueError(
        f"{os.path.dirname(path)} holds a run of another system than --experiment={experiment}: "
        f"its params.yaml fits --experiment={likely}."
    )


def likely_experiment(values: Mapping[str, Any]) -> Optional[str]:
    """The experiment that has most of the values, of those whose config they fit."""
    scores, other_systems = {}, set()
    for name in exp_factory._REGISTERED_CONFIGS:
        params = exp_factory.get_exp_config(name)
        if type(params.task) in other_systems:
            continue
        if config_check.fits(params, values):
            scores[name] = config_check.count_equal(params, values)
        else:
            other_systems.add(type(params.task))
    return max(scores, key=scores.__getitem__) if scores else None


def _parse(text: str, *, source: str) -> Optional[Dict[str, Any]]:
    try:
        values = yaml.load(text, Loader=yaml.FullLoader)
    except RecursionError as error:
        raise ValueError(f"{source}: nested too deeply.") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{source} is not YAML: {_yaml_problem(error)}.") from error
    if values is not None and not isinstance(values, dict):
        raise ValueError(
            f"{source}: expected keys with values, such as `task:`, got {files.shown(values)}."
        )
    return values


def _yaml_problem(error: Exception) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    mark = error.problem_mark
    return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"

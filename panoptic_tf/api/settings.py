"""From an experiment's name, files and overrides to the configuration that is run."""

from __future__ import annotations

import dataclasses
import os
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple, Union

import tensorflow as tf
from official.core import config_definitions as cfg

from panoptic_tf.api import configuration
from panoptic_tf.systems import weight_settings
from panoptic_tf.training import run_folder, schedule

Overrides = Union[str, Mapping[str, Any]]
_NOT_HERE = ("multi_worker_mirrored", "tpu")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is to be run.

    Attributes:
      experiment: its name.
      params: its configuration, locked.
      model_dir: folder of the run that the files name, or None.
      mode: of `configuration.MODES` that the files, or else the saved run, name, or None.
      notes: what followed what in the schedule, one line each.
    """

    experiment: str
    params: cfg.ExperimentConfig
    model_dir: Optional[str]
    mode: Optional[str]
    notes: List[str]


def configure(
    experiment: Optional[str] = None,
    *,
    config_file: Union[None, str, Sequence[str]] = None,
    overrides: Optional[Overrides] = None,
    saved_dir: Optional[str] = None,
    keep_devices: bool = False,
    distribution_strategy: Optional[str] = None,
    num_gpus: Optional[int] = None,
    mixed_precision: Optional[str] = None,
    tpu: Optional[str] = None,
    tf_data_service: Optional[str] = None,
) -> Settings:
    """The configuration that files and overrides make of an experiment.

    Where a file or `overrides` changes `trainer.train_steps` or the batch size of training alone,
    the schedule follows; see `training.schedule`.

    Args:
      experiment: its name; default the one that the files name.
      config_file: YAML or JSON files of values, later ones win. At their top they may name the
        `experiment`, its `model_dir` and `mode`.
      overrides: values that win over the files': nested, by keys with dots, or as the text of
        `--params_override`.
      saved_dir: folder of a run, whose `params.yaml`, if there is one, is taken where there is no
        config_file, as it is.
      keep_devices: whether to take the devices of the saved run too; else it is all that this
        machine has, and one where several machines or a TPU trained.
      distribution_strategy: value of `runtime.distribution_strategy`.
      num_gpus: value of `runtime.num_gpus`, 0 is the CPU; default what a file, `overrides` or, with
        `keep_devices`, the saved run says, else all that TensorFlow sees.
      mixed_precision: value of `runtime.mixed_precision_dtype`.
      tpu: value of `runtime.tpu`.
      tf_data_service: value of `task.train_data.tf_data_service_address`.

    Raises:
      ValueError: there is no such experiment or none is named, a file cannot be read, two name
        different experiments, a key does not exist or its value has the wrong type.
    """
    files = [(path, configuration.read_file(path)) for path in _as_list(config_file)]
    saved = os.path.join(saved_dir or "", run_folder.PARAMS_FILE)
    has_saved = bool(saved_dir) and tf.io.gfile.exists(saved)
    head, layers = _read_heads(files)
    saved_head = configuration.Head()
    saved_values: Dict[str, Any] = {}
    if has_saved and (not files or not (experiment or head.experiment)):
        saved_head, saved_values = configuration.split_head(
            configuration.read_file(saved), source=saved
        )
    name = experiment or head.experiment or saved_head.experiment
    if not name:
        raise ValueError(_no_experiment(saved, saved_values))
    params = configuration.find_experiment(name)
    if has_saved and not files:
        configuration.apply_saved(params, saved_values, path=saved, experiment=name)
        if not keep_devices:
            params.override({"runtime": {"num_gpus": 0}})  # Of the machine that trained.
    if overrides:
        layers.append(_read_overrides(overrides))
    notes = _apply_layers(params, layers)
    said = [saved_values] if keep_devices and not files else []
    said += [values for _, values in layers]
    finds_gpus = not any("runtime.num_gpus" in configuration.keys_of(v) for v in said)
    is_elsewhere = params.runtime.distribution_strategy in _NOT_HERE
    if saved_dir and is_elsewhere and not keep_devices:
        distribution_strategy = distribution_strategy or "one_device"
    _apply_runtime(
        params,
        {
            "distribution_strategy": distribution_strategy,
            "num_gpus": num_gpus,
            "mixed_precision_dtype": mixed_precision,
            "tpu": tpu,
        },
        finds_gpus=finds_gpus,
    )
    if tf_data_service:
        service = {"tf_data_service_address": tf_data_service}
        params.override({"task": {"train_data": service, "validation_data": service}})
    params.validate()
    params.lock()
    mode = head.mode or (None if files else saved_head.mode)
    return Settings(name, params, head.model_dir, mode, notes)


def _as_list(config_file: Union[None, str, Sequence[str]]) -> List[str]:
    if config_file is None:
        return []
    return [config_file] if isinstance(config_file, (str, os.PathLike)) else list(config_file)


def _read_heads(
    files: Sequence[Tuple[str, Mapping[str, Any]]],
) -> Tuple[configuration.Head, List[Tuple[str, Dict[str, Any]]]]:
    """What the files name beside values, the last one winning, and their values."""
    merged, named_by, layers = configuration.Head(), "", []
    for path, values in files:
        head, rest = configuration.split_head(values, source=path)
        if head.experiment and merged.experiment not in (None, head.experiment):
            raise ValueError(
                f"{path} is for the experiment {head.experiment}, {named_by} for "
                f"{merged.experiment}. Give files of one."
            )
        named_by = path if head.experiment else named_by
        merged = configuration.Head(*(new or old for new, old in zip(head, merged)))
        layers.append((path, rest))
    return merged, layers


def _no_experiment(saved: str, saved_values: Mapping[str, Any]) -> str:
    likely = configuration.likely_experiment(saved_values) if saved_values else None
    if likely:
        return f"{saved} does not name its experiment. It fits --experiment={likely}."
    return (
        "no experiment is named: give --experiment, or a --config_file with `experiment: <name>`. "
        "`panoptic-tf experiments` lists them."
    )


def _read_overrides(overrides: Overrides) -> Tuple[str, Dict[str, Any]]:
    if not isinstance(overrides, str):
        return "overrides", configuration.nest(overrides, source="overrides")
    try:
        return "--params_override", configuration.read_text(overrides)
    except ValueError as error:
        raise ValueError(f"--params_override: {error}") from error


def _apply_layers(
    params: cfg.ExperimentConfig, layers: Sequence[Tuple[str, Dict[str, Any]]]
) -> List[str]:
    """Sets the values of every layer and what follows them; what followed what."""
    notes: List[str] = []
    fixed: Set[str] = set()
    for source, values in layers:
        before = params.replace()
        configuration.apply(params, values, source=source)
        keys = configuration.keys_of(values)
        followed, lines = schedule.follow(before, params, changed=keys, fixed=fixed)
        params.override(weight_settings.nested(followed))
        fixed |= schedule.set_apart(params, keys)
        notes += [f"{source}: {line}" for line in lines]
    return notes


def _apply_runtime(
    params: cfg.ExperimentConfig, runtime: Mapping[str, Any], *, finds_gpus: bool
) -> None:
    given = {key: value for key, value in runtime.items() if value is not None}
    params.override({"runtime": given})
    if "num_gpus" not in given and finds_gpus and not params.runtime.num_gpus:
        params.override({"runtime": {"num_gpus": _count_gpus(params.runtime)}})


def _count_gpus(runtime: cfg.RuntimeConfig) -> int:
    """Number of GPUs of this machine that a strategy takes by default."""
    if runtime.distribution_strategy not in ("one_device", "mirrored"):
        return 0
    seen = len(tf.config.list_physical_devices("GPU"))
    return min(seen, 1) if runtime.distribution_strategy == "one_device" else seen

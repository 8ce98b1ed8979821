"""From annotations to a configuration that trains on them, and what `panoptic-tf init` runs."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import os
from typing import Any, Callable, Dict, List, Mapping, Optional

from panoptic_tf import checkpoints
from panoptic_tf.api import paths
from panoptic_tf.datasets import converter, doctor, files, images, manifest, measures
from panoptic_tf.datasets.dataset_info import FILE_NAME as DATASET_INFO_FILE
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.datasets.importers import recognition
from panoptic_tf.metrics import coverage
from panoptic_tf.metrics.panoptic_quality import PanopticQuality
from panoptic_tf.training import machine, recipe, recipe_file

DEFAULT_SPLIT = "train:0.8,val:0.2"

_SPLITS = ("train", "val")
_CONFIG_FILE = "train.yaml"
_MAX_PROBLEMS = 50
_HEAD = """\
# Written by `panoptic-tf init`, which keeps it once it is edited. What matters most:
# trainer.train_steps with decay_steps, task.train_data.augmentation, task.model.*_size.
"""


@dataclasses.dataclass(frozen=True)
class InitResult:
    """What was made of annotations.

    Attributes:
      config_file: path of train.yaml.
      model_dir: folder of the run that it names.
      recognition: what was recognised.
    """

    config_file: str
    model_dir: str
    recognition: recognition.Recognition


def init(
    source: Optional[str],
    output_dir: str,
    *,
    format_name: Optional[str] = None,
    options: Optional[Mapping[str, Any]] = None,
    system: str = recipe.SYSTEMS[0],
    split: Optional[str] = None,
    split_group: Optional[str] = None,
    unlabelled_policy: str = "auto",
    map: Optional[str] = None,
    max_side: int = recipe.MAX_SIDE,
    flip_vertically: bool = False,
    init_checkpoint: Optional[str] = None,
    max_pixels: int = images.MAX_PIXELS,
    overwrite: bool = False,
    log: Callable[[str], None] = print,
) -> InitResult:
    """Recognises annotations, converts and examines them, and writes `<output_dir>/train.yaml`.

    Started again it continues where it stopped. An edited train.yaml is kept.

    Args:
      source: file or folder of the annotations.
      output_dir: gets the records, train.yaml and, by `train`, the run.
      format_name: one of `importers.FORMATS`; default the one that is recognised.
      options: arguments of its importer, which win over what is recognised.
      system: one of `recipe.SYSTEMS`.
      split: names and shares of two splits, train and val; default those of the annotations, else
        `DEFAULT_SPLIT`.
      split_group, unlabelled_policy, map: see `converter.convert_dataset`; a `split_group` divides
        what has no splits of its own.
      max_side, flip_vertically: see `recipe.make_recipe`.
      init_checkpoint: weights of a ResNet-18 to start from.
      max_pixels: limit of height times width of an image, in the evaluations of train.yaml too.
      overwrite: replace records of other annotations and an edited train.yaml.
      log: gets what is found, line by line.

    Example:
        made = panoptic_tf.init("data/train", "mydata")
        print(made.config_file)

    Raises:
      ValueError: nothing or several things are recognised, the annotations contradict each other,
        the records have problems, an argument is out of its range, or a path is remote.
      OSError: `output_dir` cannot be written.
    """
    _check_local("output_dir", output_dir)
    _check_local("source", source)
    paths.check_can_write("output_dir", os.path.join(output_dir, _CONFIG_FILE))
    recipe.check_options(system, max_side)
    _check_split(split or DEFAULT_SPLIT)
    if init_checkpoint:
        init_checkpoint = _check_checkpoint(init_checkpoint)
    found = _recognize(source, format_name, dict(options or {}), has_split=split is not None)
    if found.splits and split_group:
        raise ValueError(
            f"split_group={split_group!r} has no effect: the annotations have splits of their "
            f"own ({', '.join(found.splits)}). Leave it out, or give the files of one as source."
        )
    for line in _describe(found):
        log(line)
    output_dir = os.path.abspath(output_dir)
    records = os.path.join(output_dir, "records")
    if overwrite:
        _make_unfinished(records)
    for name, own in (found.splits or {split or DEFAULT_SPLIT: {}}).items():
        arguments = {**found.options, **own}
        arguments.pop("split", None)
        converter.convert_dataset(
            found.format,
            records,
            split=name,
            split_group=split_group,
            overwrite=overwrite,
            unlabelled_policy=unlabelled_policy,
            map=map,
            max_pixels=max_pixels,
            **arguments,
        )
    for name in _SPLITS:
        _examine(os.path.join(records, f"{name}-*"), name, max_pixels, log)
    measured = measures.measure_records(
        os.path.join(records, "train-*"), DatasetInfo.load(os.path.join(records, DATASET_INFO_FILE))
    )
    chosen = recipe.make_recipe(
        measured,
        machine.find_machine(),
        system,
        max_side=max_side,
        has_backbone=init_checkpoint is not None,
        flip_vertically=flip_vertically,
    )
    model_dir = os.path.join(output_dir, "run")
    content = _HEAD + recipe_file.format_choices(
        [*_names(chosen, records, model_dir, init_checkpoint, max_pixels), *chosen.choices]
    )
    config_file = os.path.join(output_dir, _CONFIG_FILE)
    log(_write(config_file, content, overwrite))
    return InitResult(config_file, model_dir, found)


def _check_local(name: str, path: Optional[str]) -> None:
    if path and "://" in path:
        raise ValueError(f"{name} must be a path of this machine, got {path!r}.")


def _check_split(split: str) -> None:
    names = [part.split(":")[0].strip() for part in split.split(",")]
    if sorted(names) != sorted(_SPLITS):
        raise ValueError(f"split must be like {DEFAULT_SPLIT}, got {split!r}.")


def _check_checkpoint(path: str) -> str:
    """Its absolute path, where it is one of this machine."""
    if path.startswith("keras:"):
        return path
    checkpoints.describe(path)
    return path if "://" in path else os.path.abspath(path)


def _recognize(
    source: Optional[str], format_name: Optional[str], options: Dict[str, Any], *, has_split: bool
) -> recognition.Recognition:
    """The annotations as the options say and, as far as they do not, as they look."""
    path = source or options.get("panoptic_json")
    if path is None:
        raise ValueError("give source: the file or folder of the annotations.")
    try:
        found = recognition.recognize(path, format_name=format_name)
    except ValueError:
        if format_name is None:
            raise
        given = {"source": source, **options}  # As `convert` takes them.
        return recognition.Recognition(format_name, given, {}, (path,))
    if not found.splits or "panoptic_json" in options:
        return dataclasses.replace(found, options={**found.options, **options}, splits={})
    if has_split and not found.options:
        raise ValueError(
            f"{path} has files of two splits: {', '.join(found.files)}. Give one of them as "
            "source, or leave split out."
        )
    splits = {} if has_split else {s: {**own, **options} for s, own in found.splits.items()}
    return dataclasses.replace(found, options={**found.options, **options}, splits=splits)


def _make_unfinished(records: str) -> None:
    """Makes finished splits such as a killed conversion leaves: their categories bind no other.

    What is converted from the same annotations again keeps its shards.
    """
    for path in glob.glob(os.path.join(glob.escape(records), "*.manifest.json")):
        with contextlib.suppress(ValueError):  # A broken manifest vouches for nothing.
            found = manifest.Manifest.load(path)
            manifest.Progress(records, found.split).start(found.fingerprint, found.shards)
        os.unlink(path)


def _describe(found: recognition.Recognition) -> List[str]:
    lines = [f"recognised {found.format}: {', '.join(found.files)}"]
    lines += [f"  {key}: {value}" for key, value in sorted(found.options.items())]
    for split, own in found.splits.items():
        lines.append(f"  {split}: " + ", ".join(f"{key} {value}" for key, value in own.items()))
    return lines


def _examine(input_path: str, split: str, max_pixels: int, log: Callable[[str], None]) -> None:
    """Says what records hold.

    Raises:
      ValueError: something is wrong with them.
    """
    report = doctor.examine_records(
        input_path=input_path, max_pixels=max_pixels, build_quality=PanopticQuality
    )
    categories = report["per_category"]
    things, stuff = (
        sum(c["segments"] for c in categories if c["is_thing"] == is_thing)
        for is_thing in (True, False)
    )
    log(f"{split}: {report['num_images']} images, {things} things, {stuff} regions of stuff")
    for note in (*report["notes"], *coverage.warnings_of_data(report)):
        log(f"  note: {note}")
    problems: List[str] = report["problems"]
    if problems:
        shown = [f"{input_path}: {len(problems)} problems:", *problems[:_MAX_PROBLEMS]]
        if len(problems) > _MAX_PROBLEMS:
            shown.append(f"... `panoptic-tf doctor --input_path='{input_path}'` lists them all.")
        raise ValueError("\n".join(shown))


def _names(
    chosen: recipe.Recipe,
    records: str,
    model_dir: str,
    init_checkpoint: Optional[str],
    max_pixels: int,
) -> List[recipe.Choice]:
    """What the configuration is of, from where and to where."""
    info_file = os.path.join(records, DATASET_INFO_FILE)
    choices = [
        recipe.Choice("experiment", chosen.experiment, "has every value that is not below"),
        recipe.Choice("model_dir", model_dir, "checkpoints, metrics, summaries"),
        recipe.Choice("mode", "train_and_eval", ""),
        recipe.Choice("task.dataset_info", info_file, "the categories"),
    ]
    if init_checkpoint:
        choices += [
            recipe.Choice("task.init_checkpoint", init_checkpoint, "weights to start from"),
            recipe.Choice("task.init_checkpoint_modules", "backbone", "of whatever it holds"),
        ]
    for name, split in (("train_data", "train-*"), ("validation_data", "val-*")):
        path = os.path.join(records, split)
        choices.append(recipe.Choice(f"task.{name}.input_path", path, ""))
    if max_pixels != images.MAX_PIXELS:
        why = "of an image, as the records were made with"
        choices.append(recipe.Choice("task.evaluation.max_pixels", max_pixels, why))
    return choices


def _write(path: str, content: str, overwrite: bool) -> str:
    """Writes a file, unless there is one already; says what was done."""
    if os.path.exists(path) and not overwrite:
        with open(path, encoding="utf-8") as file:
            if file.read() == content:
                return f"{path} is as it was"
        return f"{path} was edited, or is of other options, and is kept; --overwrite replaces it"
    files.write_bytes(path, content.encode())
    return f"wrote {path}"

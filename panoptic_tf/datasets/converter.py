"""Annotated images to shards of records, by a pool of processes or the workers of Apache Beam.

A shard is written under a temporary name and renamed when it is whole; the manifest comes last. A
run that was killed is resumed by the same call: finished shards are checked and kept. Equal inputs
give equal files, byte for byte, however often the way there was interrupted.
"""

from __future__ import annotations

import dataclasses
import functools
import glob
import hashlib
import json
import math
import os
import re
from typing import (
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

import tensorflow as tf
import tqdm
from absl import logging

from panoptic_tf.datasets import (
    beam,
    category_map,
    files,
    importers,
    manifest,
    record,
    splits,
    unlabelled,
    worker_pool,
)
from panoptic_tf.datasets.annotations import Segment
from panoptic_tf.datasets.checks import LoadedAnnotation
from panoptic_tf.datasets.coco_writer import ImageId
from panoptic_tf.datasets.dataset_info import FILE_NAME as DATASET_INFO_FILE
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.datasets.images import decode_on_cpu
from panoptic_tf.datasets.importers.source import Source
from panoptic_tf.datasets.notes import Notes

_IMAGES_PER_SHARD = 512
_UNLABELLED = "images have no labelled pixel and are left out"


@dataclasses.dataclass(frozen=True)
class _Task:
    """One shard to write."""

    path: str
    images: Sequence[Any]
    read: Callable[[Any], LoadedAnnotation]
    dataset_info: DatasetInfo
    skip_unlabelled: bool


class _Written(NamedTuple):
    """A shard that was written, and the notes on its images: (kind, image file)."""

    shard: manifest.Shard
    num_images: int
    notes: List[Tuple[str, str]]


_WriteAll = Callable[[Sequence[_Task]], Iterator[_Written]]


def convert_dataset(
    format_name: str,
    output_dir: str,
    *,
    split: str = "train",
    split_group: Optional[str] = None,
    num_shards: Optional[int] = None,
    num_processes: Optional[int] = None,
    overwrite: bool = False,
    unlabelled_policy: str = "auto",
    map: Optional[str] = None,
    beam_options: Optional[Sequence[str]] = None,
    **options: Any,
) -> List[manifest.Manifest]:
    """Reads an annotated data set and writes it as records.

    Args:
      format_name: one of `importers.FORMATS`.
      output_dir: folder to write to.
      split: name of the split, or names and shares: `train:0.8,val:0.2`; see `splits.parse`.
      split_group: see `splits.assign`.
      num_shards, num_processes, overwrite, beam_options: see `convert`.
      unlabelled_policy: what unlabelled pixels become; see `unlabelled.resolve`.
      map: file of other categories; see `category_map`.
      **options: arguments of the format's importer.

    Returns:
      The manifest of each split.

    Raises:
      ValueError, OSError: what the importer, `splits` and `convert` raise.
    """
    _check_workers(num_processes, beam_options)
    shares = splits.parse(split)
    own_split = {} if len(shares) > 1 else {"split": split}
    source = importers.read(format_name, **own_split, **options)
    if map is not None:
        source = category_map.apply(map, source)
    parts: Dict[str, Sequence[Any]] = {split: source.images}
    if len(shares) > 1:
        parts = {**splits.assign(source.images, shares, split_group)}
    source = dataclasses.replace(
        source,
        dataset_info=unlabelled.resolve(unlabelled_policy, source.dataset_info),
    )
    return [
        convert(
            _part(source, name, images, shares, split_group),
            output_dir,
            split=name,
            num_shards=num_shards,
            num_processes=num_processes,
            overwrite=overwrite,
            skip_unlabelled=unlabelled_policy == unlabelled.SKIP,
            beam_options=beam_options,
        )
        for name, images in parts.items()
    ]


def _part(
    source: Source,
    name: str,
    images: Sequence[Any],
    shares: splits.Shares,
    group: Optional[str],
) -> Source:
    """Some of the images, which their fingerprint tells from others."""
    if len(shares) == 1:
        return source
    part = ",".join(f"{other}:{share:g}" for other, share in shares) + f" {name} {group or ''}"
    fingerprint = {**source.fingerprint, "part": part}
    return dataclasses.replace(source, images=images, fingerprint=fingerprint)


def convert(
    source: Source,
    output_dir: str,
    *,
    split: str = "train",
    num_shards: Optional[int] = None,
    num_processes: Optional[int] = None,
    overwrite: bool = False,
    skip_unlabelled: bool = False,
    beam_options: Optional[Sequence[str]] = None,
) -> manifest.Manifest:
    """Writes `<split>-*.tfrecord`, `<split>.manifest.json` and `dataset_info.json`.

    Args:
      source: what an importer returns; void pixels become `unlabelled_id` where its categories have
        one.
      output_dir: folder to write to.
      split: beginning of the shards' names.
      num_shards: number of files; default one per 512 images.
      num_processes: default one per CPU; 1 works in this process.
      overwrite: replace a finished conversion of other inputs.
      skip_unlabelled: leave out images without a labelled pixel; `source.num_skipped` of the
        manifest counts them.
      beam_options: options of Apache Beam, whose workers then write the shards in place of
        processes; see `beam_pool.parse_options`. They see the same files by the same names.

    Returns:
      The manifest.

    Raises:
      ValueError: the inputs contradict each other or themselves, or `output_dir` holds something
        else; the message names file and field.
      OSError: `output_dir` cannot be written.
    """
    _check_workers(num_processes, beam_options)
    dataset_info = source.dataset_info
    num_shards = num_shards or max(1, math.ceil(len(source.images) / _IMAGES_PER_SHARD))
    _check_arguments(split, num_shards, len(source.images))
    fingerprint = _fingerprint(source, num_shards, skip_unlabelled)
    _check_output(output_dir, split, fingerprint, dataset_info, overwrite)
    _check_files(source.images)
    progress = manifest.Progress(output_dir, split)
    notes = Notes()
    good = _resume(output_dir, split, fingerprint, progress)
    tasks = _tasks(source, output_dir, split, num_shards, skip_unlabelled)
    write_all: _WriteAll = functools.partial(
        _write_by_processes, num_processes or os.cpu_count() or 1
    )
    if beam_options is not None:
        write_all = functools.partial(_write_by_beam, output_dir, split, beam_options)
    progress.start(fingerprint, list(good.values()))
    try:
        for written in _run(tasks, good, write_all):
            progress.add(written.shard)
            good[written.shard.name] = written.shard
            for kind, image_file in written.notes:
                notes.add(kind, image_file)
    except BaseException:
        if not _shard_files(output_dir, split):
            progress.remove()
        raise
    shards = [good[os.path.basename(task.path)] for task in tasks]
    description = dict(source.description)
    if skip_unlabelled:
        num_records = sum(shard.num_records for shard in shards)
        description["num_skipped"] = len(source.images) - num_records
        if not num_records:
            for task in tasks:
                os.unlink(task.path)
            progress.remove()
            raise ValueError(
                f"{output_dir}: no image of the split {split!r} has a labelled pixel; there is "
                "nothing to convert."
            )
    _save_dataset_info(os.path.join(output_dir, DATASET_INFO_FILE), dataset_info)
    finished = manifest.Manifest(split, fingerprint, description, shards)
    finished.save(output_dir)
    progress.remove()
    notes.log(output_dir)
    return finished


def encode(image: Any, dataset_info: DatasetInfo, loaded: LoadedAnnotation) -> bytes:
    """The record of one image; areas and boxes are measured.

    Args:
      image: with `image_id` and `file_name`.
      dataset_info: the categories; void pixels become its `unlabelled_id` where it has one.
      loaded: what was read of it.

    Raises:
      ValueError: there is no image file, or there are more segments than a record holds.
    """
    if loaded.image_bytes is None:
        raise ValueError(f"image_id {image.image_id!r}: a record needs an image file.")
    rows = loaded.rows
    segment_table: Sequence[Segment] = [
        dataclasses.replace(s, area=None, bbox=None) for s in loaded.segments
    ]
    if dataset_info.unlabelled_id is not None:
        rows, segment_table = unlabelled.fill(rows, segment_table, dataset_info.unlabelled_id)
    return record.encode_example(
        image_bytes=loaded.image_bytes,
        image_id=image.image_id,
        file_name=image.file_name,
        rows=rows,
        segment_table=segment_table,
        contiguous_ids=dataset_info.contiguous_ids(),
        instances=loaded.instances,
    )


def shard_of(image_id: ImageId, num_shards: int) -> int:
    """Number of the shard of an image: stable, whatever else the data set holds."""
    digest = hashlib.sha256(json.dumps(image_id).encode()).digest()
    return int.from_bytes(digest[:8], "big") % num_shards


def _check_workers(num_processes: Optional[int], beam_options: Optional[Sequence[str]]) -> None:
    if beam_options is None:
        return
    if num_processes is not None:
        raise ValueError(
            "num_processes is not read with Beam. Its runner has options of its own: "
            "beam_options=direct_num_workers=8,direct_running_mode=multi_processing."
        )
    beam.require_pool().parse_options(beam_options)


def _check_arguments(split: str, num_shards: int, num_images: int) -> None:
    if not re.fullmatch(r"\w+", split):
        raise ValueError(f"split must consist of letters, digits and '_', got {split!r}.")
    if not 0 < num_shards <= 99999:
        raise ValueError(f"num_shards must be 1..99999, got {num_shards}.")
    if not num_images:
        raise ValueError("there is no annotated image to convert: 'annotations' is empty.")


def _fingerprint(source: Source, num_shards: int, skip_unlabelled: bool) -> Dict[str, Any]:
    """What the shards are made from and how."""
    fingerprint = {
        **source.fingerprint,
        "num_shards": num_shards,
        "format_version": manifest.FORMAT_VERSION,
    }
    if source.dataset_info.unlabelled_id is not None:
        fingerprint["unlabelled"] = "background"
    if skip_unlabelled:
        fingerprint["skip_unlabelled"] = True
    return fingerprint


def _check_output(
    output_dir: str,
    split: str,
    fingerprint: Mapping[str, Any],
    dataset_info: DatasetInfo,
    overwrite: bool,
) -> None:
    """Refuses to mix data sets in one folder."""
    path = manifest.manifest_path(output_dir, split)
    other_splits = set(glob.glob(os.path.join(glob.escape(output_dir), "*.manifest.json"))) - {path}
    is_there = os.path.exists(path) and not overwrite
    if is_there and manifest.Manifest.load(path).fingerprint != fingerprint:
        raise ValueError(
            f"{path}: {output_dir} holds the split {split!r} of other annotations or instances, or "
            "with another number of shards. Choose another output_dir or split, or set --overwrite."
        )
    path = os.path.join(output_dir, DATASET_INFO_FILE)
    is_there = os.path.exists(path) and (bool(other_splits) or not overwrite)
    if is_there and DatasetInfo.load(path).categories != dataset_info.categories:
        raise ValueError(
            f"{path}: {output_dir} holds a data set with other categories. Choose another "
            "output_dir, or delete the folder."
        )


def _save_dataset_info(path: str, dataset_info: DatasetInfo) -> None:
    """Writes the categories, unless another split of the data set already did."""
    if os.path.exists(path) and DatasetInfo.load(path).categories == dataset_info.categories:
        return
    dataset_info.save(path)


def _resume(
    output_dir: str, split: str, fingerprint: Mapping[str, Any], progress: manifest.Progress
) -> Dict[str, manifest.Shard]:
    """Shards of an earlier run that are whole; every other file of the split is removed."""
    listed = progress.load(fingerprint) or []
    path = manifest.manifest_path(output_dir, split)
    if os.path.exists(path):
        earlier = manifest.Manifest.load(path)
        listed = earlier.shards if earlier.fingerprint == fingerprint else listed
        os.unlink(path)  # It vouches for shards that may go.
    good = manifest.good_shards(output_dir, listed)
    for name in _shard_files(output_dir, split):
        if os.path.basename(name) not in good:
            os.unlink(name)
    for name in glob.glob(os.path.join(glob.escape(output_dir), f".{split}[-.]*.tmp")):
        os.unlink(name)
    beam.clear(output_dir, split)
    if good:
        logging.info("%s: %d finished shards are kept.", output_dir, len(good))
    return good


def _shard_files(output_dir: str, split: str) -> List[str]:
    return glob.glob(os.path.join(glob.escape(output_dir), f"{split}-*-of-*.tfrecord"))


def _check_files(images: Sequence[Any]) -> None:
    """Finds missing files in seconds, before hours of work."""
    for image in images:
        for path in image.files:
            problem = "no image file" if path is None else files.file_problem(path)
            if problem:
                raise ValueError(f"{path}: {problem}, for image_id {image.image_id!r}.")


def _tasks(
    source: Source, output_dir: str, split: str, num_shards: int, skip_unlabelled: bool
) -> List[_Task]:
    members: List[List[Any]] = [[] for _ in range(num_shards)]
    for image in source.images:
        members[shard_of(image.image_id, num_shards)].append(image)
    paths = [
        os.path.join(output_dir, manifest.shard_name(split, i, num_shards))
        for i in range(num_shards)
    ]
    return [
        _Task(path, images, source.read, source.dataset_info, skip_unlabelled)
        for path, images in zip(paths, members)
    ]


def _run(
    tasks: Sequence[_Task], good: Mapping[str, manifest.Shard], write_all: _WriteAll
) -> Iterator[_Written]:
    """Writes the shards that are not good yet, and yields them as they are finished."""
    pending = [task for task in tasks if os.path.basename(task.path) not in good]
    num_images = sum(len(task.images) for task in tasks)
    num_done = num_images - sum(len(task.images) for task in pending)
    with tqdm.tqdm(total=num_images, initial=num_done, unit="image", desc="convert") as bar:
        for written in write_all(pending) if pending else ():
            bar.update(written.num_images)
            yield written


def _write_by_processes(num_processes: int, tasks: Sequence[_Task]) -> Iterator[_Written]:
    num_processes = min(num_processes, len(tasks))
    if num_processes > 1:
        return worker_pool.map_unordered(_write_shard, tasks, num_processes)
    return map(_write_shard, tasks)


def _write_by_beam(
    output_dir: str, split: str, options: Sequence[str], tasks: Sequence[_Task]
) -> Iterator[_Written]:
    pool = beam.require_pool()
    return pool.map_unordered(_start_beam_worker, tasks, output_dir, split, options)


def _start_beam_worker() -> Callable[[_Task], _Written]:
    decode_on_cpu()
    return _write_shard


def _write_shard(task: _Task) -> _Written:
    notes = []
    num_records = 0
    try:
        with files.atomic_path(task.path) as temporary:
            with tf.io.TFRecordWriter(temporary) as writer:
                for image in task.images:
                    loaded = task.read(image)
                    if task.skip_unlabelled and not loaded.rows.any():
                        notes.append((_UNLABELLED, str(image.image_file)))
                        continue
                    writer.write(encode(image, task.dataset_info, loaded))
                    num_records += 1
                    notes += [(kind, str(image.image_file)) for kind in loaded.notes]
            checksum = manifest.sha256_of_file(temporary)
    except tf.errors.OpError as error:
        raise OSError(f"cannot write {task.path}: {error.message}") from error
    shard = manifest.Shard(os.path.basename(task.path), num_records, checksum)
    return _Written(shard, len(task.images), notes)

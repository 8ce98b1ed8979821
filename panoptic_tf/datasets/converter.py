"""Annotated images to shards of records, by a pool of processes.

A shard is written under a temporary name and renamed when it is whole; the manifest comes last. A
run that was killed is resumed by the same call: finished shards are checked and kept. Equal inputs
give equal files, byte for byte, however often the way there was interrupted.
"""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import json
import math
import os
import re
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence

import tensorflow as tf
import tqdm
from absl import logging

from panoptic_tf.datasets import (
    checks,
    coco_format,
    coco_instances,
    files,
    images,
    manifest,
    record,
    unlabelled,
    worker_pool,
)
from panoptic_tf.datasets.annotations import PanopticAnnotation, Segment
from panoptic_tf.datasets.coco_writer import ImageId
from panoptic_tf.datasets.dataset_info import FILE_NAME as DATASET_INFO_FILE
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.datasets.notes import Notes

_IMAGES_PER_SHARD = 512


@dataclasses.dataclass(frozen=True)
class _Task:
    """One shard to write."""

    path: str
    annotations: Sequence[PanopticAnnotation]
    dataset_info: DatasetInfo


class _Written(NamedTuple):
    """A shard that was written, and the images of it with an EXIF orientation."""

    shard: manifest.Shard
    turned: List[str]


def convert_coco_panoptic(
    *,
    panoptic_json: str,
    panoptic_dir: str,
    image_dir: str,
    output_dir: str,
    instances_json: Optional[str] = None,
    name: Optional[str] = None,
    split: str = "train",
    num_shards: Optional[int] = None,
    num_processes: Optional[int] = None,
    overwrite: bool = False,
    unlabelled_policy: str = "auto",
    max_pixels: int = images.MAX_PIXELS,
) -> manifest.Manifest:
    """Converts a data set in COCO panoptic format (COCO, Cityscapes, your own).

    Args:
      panoptic_json: file with `images`, `annotations` and `categories`.
      panoptic_dir: folder of the PNGs.
      image_dir: folder of the images.
      output_dir: folder to write to.
      instances_json: file in COCO instances format of the same images; its masks, which may
        overlap, go into the records.
      name: name of the data set; default the JSON file's.
      split: beginning of the shards' names.
      num_shards: number of files; default one per 512 images.
      num_processes: default one per CPU.
      overwrite: replace a finished conversion of other inputs.
      unlabelled_policy: what unlabelled pixels become; see `unlabelled.resolve`.
      max_pixels: limit of height times width of an image.

    Returns:
      The manifest.

    Raises:
      ValueError: the inputs contradict each other or themselves, or `output_dir` holds something
        else; the message names file and field.
      OSError: `output_dir` cannot be written.
    """
    notes = Notes()
    info, annotations = coco_format.read_panoptic_json(
        panoptic_json,
        panoptic_dir=panoptic_dir,
        image_dir=image_dir,
        name=name,
        max_pixels=max_pixels,
        notes=notes,
    )
    notes.log(panoptic_json)
    for annotation in annotations:
        for problem in checks.crowd_problems(annotation, info):
            raise ValueError(problem)
    source: Dict[str, Any] = {
        "panoptic_json": os.path.abspath(panoptic_json),
        "panoptic_dir": os.path.abspath(panoptic_dir),
        "image_dir": os.path.abspath(image_dir),
    }
    instances_sha256 = None
    if instances_json is not None:
        annotations = coco_instances.add_instances(annotations, instances_json, info)
        instances_sha256 = manifest.sha256_of_file(instances_json)
        source["instances_json"] = os.path.abspath(instances_json)
        source["num_instances"] = sum(len(a.instances or ()) for a in annotations)
    return convert(
        annotations,
        unlabelled.resolve(unlabelled_policy, info),
        output_dir,
        source_sha256=manifest.sha256_of_file(panoptic_json),
        instances_sha256=instances_sha256,
        source=source,
        split=split,
        num_shards=num_shards,
        num_processes=num_processes,
        overwrite=overwrite,
    )


def convert(
    annotations: Sequence[PanopticAnnotation],
    dataset_info: DatasetInfo,
    output_dir: str,
    *,
    source_sha256: str,
    instances_sha256: Optional[str] = None,
    source: Optional[Mapping[str, Any]] = None,
    split: str = "train",
    num_shards: Optional[int] = None,
    num_processes: Optional[int] = None,
    overwrite: bool = False,
) -> manifest.Manifest:
    """Writes `<split>-*.tfrecord`, `<split>.manifest.json` and `dataset_info.json`.

    Args:
      annotations: the annotated images.
      dataset_info: their categories; void pixels become `unlabelled_id` where it has one.
      output_dir: folder to write to.
      source_sha256: checksum of what the annotations came from; tells whether shards that are
        already there are the same.
      instances_sha256: likewise of their overlapping instances; None if they have none.
      source: names of the source files, for the manifest.
      split: beginning of the shards' names.
      num_shards: number of files; default one per 512 images.
      num_processes: default one per CPU; 1 works in this process.
      overwrite: replace a finished conversion of other inputs.

    Returns:
      The manifest.

    Raises:
      ValueError: see `convert_coco_panoptic`.
      OSError: `output_dir` cannot be written.
    """
    num_shards = num_shards or max(1, math.ceil(len(annotations) / _IMAGES_PER_SHARD))
    _check_arguments(split, num_shards, len(annotations))
    fingerprint = {
        "source_sha256": source_sha256,
        "num_shards": num_shards,
        "format_version": manifest.FORMAT_VERSION,
    }
    if dataset_info.unlabelled_id is not None:
        fingerprint["unlabelled"] = "background"
    if instances_sha256 is not None:
        fingerprint["instances_sha256"] = instances_sha256
    _check_output(output_dir, split, fingerprint, dataset_info, overwrite)
    _check_files(annotations)
    progress = manifest.Progress(output_dir, split)
    notes = Notes()
    good = _resume(output_dir, split, fingerprint, progress)
    tasks = _tasks(annotations, dataset_info, output_dir, split, num_shards)
    progress.start(fingerprint, list(good.values()))
    try:
        for written in _run(tasks, good, num_processes or os.cpu_count() or 1):
            progress.add(written.shard)
            good[written.shard.name] = written.shard
            for image_file in written.turned:
                notes.add(images.TURNED, image_file)
    except BaseException:
        if not _shard_files(output_dir, split):
            progress.remove()
        raise
    _save_dataset_info(os.path.join(output_dir, DATASET_INFO_FILE), dataset_info)
    shards = [good[os.path.basename(task.path)] for task in tasks]
    finished = manifest.Manifest(split, fingerprint, dict(source or {}), shards)
    finished.save(output_dir)
    progress.remove()
    notes.log(output_dir)
    return finished


def encode_annotation(annotation: PanopticAnnotation, dataset_info: DatasetInfo) -> bytes:
    """The record of one annotation, read from its files; areas and boxes are measured.

    Raises:
      ValueError: the files cannot be read or do not agree.
    """
    loaded = checks.load_annotation(annotation)
    if loaded is None or loaded.image_bytes is None:
        raise ValueError(f"image_id {annotation.image_id!r}: a record needs an image file.")
    rows = loaded.rows
    segment_table: Sequence[Segment] = [
        dataclasses.replace(s, area=None, bbox=None) for s in annotation.segments
    ]
    if dataset_info.unlabelled_id is not None:
        rows, segment_table = unlabelled.fill(rows, segment_table, dataset_info.unlabelled_id)
    return record.encode_example(
        image_bytes=loaded.image_bytes,
        image_id=annotation.image_id,
        file_name=annotation.file_name,
        rows=rows,
        segment_table=segment_table,
        contiguous_ids=dataset_info.contiguous_ids(),
        instances=annotation.instances,
    )


def shard_of(image_id: ImageId, num_shards: int) -> int:
    """Number of the shard of an image: stable, whatever else the data set holds."""
    digest = hashlib.sha256(json.dumps(image_id).encode()).digest()
    return int.from_bytes(digest[:8], "big") % num_shards


def _check_arguments(split: str, num_shards: int, num_images: int) -> None:
    if not re.fullmatch(r"\w+", split):
        raise ValueError(f"split must consist of letters, digits and '_', got {split!r}.")
    if not 0 < num_shards <= 99999:
        raise ValueError(f"num_shards must be 1..99999, got {num_shards}.")
    if not num_images:
        raise ValueError("there is no annotated image to convert: 'annotations' is empty.")


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
    if good:
        logging.info("%s: %d finished shards are kept.", output_dir, len(good))
    return good


def _shard_files(output_dir: str, split: str) -> List[str]:
    return glob.glob(os.path.join(glob.escape(output_dir), f"{split}-*-of-*.tfrecord"))


def _check_files(annotations: Sequence[PanopticAnnotation]) -> None:
    """Finds missing files in seconds, before hours of work."""
    for annotation in annotations:
        for path in (annotation.image_file, annotation.png_file):
            problem = "no image file" if path is None else files.file_problem(path)
            if problem:
                raise ValueError(f"{path}: {problem}, for image_id {annotation.image_id!r}.")


def _tasks(
    annotations: Sequence[PanopticAnnotation],
    dataset_info: DatasetInfo,
    output_dir: str,
    split: str,
    num_shards: int,
) -> List[_Task]:
    members: List[List[PanopticAnnotation]] = [[] for _ in range(num_shards)]
    for annotation in annotations:
        members[shard_of(annotation.image_id, num_shards)].append(annotation)
    paths = [
        os.path.join(output_dir, manifest.shard_name(split, i, num_shards))
        for i in range(num_shards)
    ]
    return [_Task(path, list_, dataset_info) for path, list_ in zip(paths, members)]


def _run(
    tasks: Sequence[_Task], good: Mapping[str, manifest.Shard], num_processes: int
) -> Iterator[_Written]:
    """Writes the shards that are not good yet, and yields them as they are finished."""
    pending = [task for task in tasks if os.path.basename(task.path) not in good]
    num_images = sum(len(task.annotations) for task in tasks)
    num_done = num_images - sum(len(task.annotations) for task in pending)
    num_processes = min(num_processes, len(pending))
    with tqdm.tqdm(total=num_images, initial=num_done, unit="image", desc="convert") as bar:
        shards: Iterator[_Written] = map(_write_shard, pending)
        if num_processes > 1:
            shards = worker_pool.map_unordered(_write_shard, pending, num_processes)
        for written in shards:
            bar.update(written.shard.num_records)
            yield written


def _write_shard(task: _Task) -> _Written:
    turned = []
    try:
        with files.atomic_path(task.path) as temporary:
            with tf.io.TFRecordWriter(temporary) as writer:
                for annotation in task.annotations:
                    writer.write(encode_annotation(annotation, task.dataset_info))
                    if _is_turned(annotation):
                        turned.append(str(annotation.image_file))
            checksum = manifest.sha256_of_file(temporary)
    except tf.errors.OpError as error:
        raise OSError(f"cannot write {task.path}: {error.message}") from error
    shard = manifest.Shard(os.path.basename(task.path), len(task.annotations), checksum)
    return _Written(shard, turned)


def _is_turned(annotation: PanopticAnnotation) -> bool:
    content = files.read_bytes(str(annotation.image_file), expected=images.EXPECTED)
    return images.orientation(content) != 1

"""Examines a data set before training: all problems, and counts of its content."""

from __future__ import annotations

import glob
import os
import re
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import tensorflow as tf
import tqdm

from panoptic_tf.datasets import (
    checks,
    coco_format,
    coco_instances,
    coco_reader,
    files,
    images,
    manifest,
    record_checks,
    rle,
)
from panoptic_tf.datasets.annotations import PanopticAnnotation
from panoptic_tf.datasets.dataset_info import FILE_NAME as DATASET_INFO_FILE
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.datasets.examination import BuildQuality, Examination, Look
from panoptic_tf.datasets.importers import panoptic_files, photographs
from panoptic_tf.datasets.notes import Notes

_SHARD = re.compile(r"(\w+)-\d{5}-of-\d{5}\.tfrecord")


def examine_coco_panoptic(
    *,
    panoptic_json: str,
    panoptic_dir: str,
    image_dir: Optional[str] = None,
    instances_json: Optional[str] = None,
    max_pixels: int = images.MAX_PIXELS,
    exif: str = photographs.AUTO,
    build_quality: BuildQuality,
    look: Optional[Look] = None,
) -> Dict[str, Any]:
    """Examines a data set in COCO panoptic format.

    Args:
      panoptic_json: file with `images`, `annotations` and `categories`.
      panoptic_dir: folder of the PNGs.
      image_dir: folder of the images; without it they are not looked at.
      instances_json: file in COCO instances format of the same images.
      max_pixels: limit of height times width of an image; larger ones are not decoded.
      exif: see `importers.photographs.read`.
      build_quality: makes the metric of the proof.
      look: see `Examination`.

    Returns:
      See `Examination.finish`.

    Raises:
      ValueError: no categories or annotations can be read at all.
    """
    problems: List[str] = []
    notes = Notes()
    info, annotations = coco_format.read_panoptic_json(
        panoptic_json,
        panoptic_dir=panoptic_dir,
        image_dir=image_dir,
        max_pixels=max_pixels,
        on_problem=problems.append,
        notes=notes,
    )
    examination = Examination(info, build_quality, look)
    examination.problems, examination.notes = problems, notes
    if not annotations and not problems:
        problems.append(f"{panoptic_json}: there is no annotated image: 'annotations' is empty.")
    if instances_json is not None:
        annotations = _add_instances(annotations, instances_json, examination)
    contiguous_ids = info.contiguous_ids()
    for annotation in tqdm.tqdm(annotations, unit="image", desc="doctor"):
        mixed = checks.crowd_problems(annotation, info)
        problems += mixed
        loaded = panoptic_files.load_annotation(
            annotation, problems.append, max_pixels=max_pixels, exif=exif
        )
        if loaded is not None and not mixed:
            categories = [contiguous_ids[s.category_id] for s in annotation.segments]
            where = f"{annotation.png_file}: image_id {annotation.image_id!r}"
            place = annotation.image_file or annotation.png_file
            examination.add_loaded(where, loaded, categories, place)
    return examination.finish()


def _add_instances(
    annotations: List[PanopticAnnotation], instances_json: str, examination: Examination
) -> List[PanopticAnnotation]:
    """The annotations with their instances, or as they are where the file is of no use."""
    try:
        return coco_instances.add_instances(
            annotations,
            instances_json,
            examination.dataset_info,
            on_problem=examination.problems.append,
            notes=examination.notes,
        )
    except ValueError as error:
        examination.problems.append(files.shorten(str(error)))
        return annotations


def examine_records(
    *,
    input_path: str,
    max_pixels: int = images.MAX_PIXELS,
    build_quality: BuildQuality,
    look: Optional[Look] = None,
) -> Dict[str, Any]:
    """Examines shards, their manifest and every record.

    Args:
      input_path: glob of shards; several are separated by commas. `dataset_info.json` and the
        manifest lie beside them.
      max_pixels: limit of height times width of an image; larger ones are not decoded.
      build_quality: makes the metric of the proof.
      look: see `Examination`.

    Returns:
      See `Examination.finish`.

    Raises:
      ValueError: no file matches, or there is no `dataset_info.json`.
    """
    patterns = [pattern.strip() for pattern in input_path.split(",")]
    paths = sorted({path for pattern in patterns for path in glob.glob(pattern)})
    if not paths:
        raise ValueError(f"input_path {input_path!r} matches no file.")
    info = _load_dataset_info(sorted({os.path.dirname(path) for path in paths}))
    examination = Examination(info, build_quality, look)
    paths = _only_files(paths, examination.problems)
    counts = _check_manifests(paths, examination.problems)
    seen: Dict[Any, str] = {}
    total = sum(counts.values()) if counts else None
    with tqdm.tqdm(total=total, unit="image", desc="doctor") as bar:
        for path in paths:
            num_records = 0
            for where, serialized in _read_records(path, examination.problems):
                num_records += 1
                _examine_record(where, serialized, examination, seen, max_pixels)
                bar.update()
            _check_count(path, num_records, counts, examination.problems)
    return examination.finish()


def _only_files(paths: Sequence[str], problems: List[str]) -> List[str]:
    """Leaves out what cannot be read; a pipe would wait for its other end."""
    found = {path: files.file_problem(path) for path in paths}
    problems += [f"{path}: {problem}." for path, problem in found.items() if problem]
    return [path for path, problem in found.items() if not problem]


def _load_dataset_info(folders: Sequence[str]) -> DatasetInfo:
    """The categories, which all folders must share."""
    info_files = [os.path.join(folder, DATASET_INFO_FILE) for folder in folders]
    infos = [DatasetInfo.load(path) for path in info_files]
    for path, info in zip(info_files, infos):
        if info.categories != infos[0].categories:
            raise ValueError(f"{path}: its categories are not those of {info_files[0]}.")
    return infos[0]


def _check_manifests(paths: Sequence[str], problems: List[str]) -> Dict[str, int]:
    """Compares shards with the manifests beside them; returns the records each should have."""
    counts: Dict[str, int] = {}
    for path in _manifests_of(paths, problems):
        try:
            shards = manifest.Manifest.load(path).shards
        except ValueError as error:
            problems.append(str(error))
            continue
        folder = os.path.dirname(path)
        for shard in shards:
            shard_path = os.path.join(folder, shard.name)
            if shard_path in paths or not os.path.exists(shard_path):
                problem = manifest.shard_problem(folder, shard)
                problems += [problem] if problem else []
            if shard_path in paths:
                counts[shard_path] = shard.num_records
        split = os.path.basename(path).split(".")[0]
        problems += [
            f"{p}: not among the shards of {path}."
            for p in paths
            if p not in counts and os.path.basename(p).startswith(split + "-")
        ]
    return counts


def _manifests_of(paths: Sequence[str], problems: List[str]) -> List[str]:
    found = set()
    for path in paths:
        match = _SHARD.fullmatch(os.path.basename(path))
        if match:
            found.add(manifest.manifest_path(os.path.dirname(path), match[1]))
        else:
            problems.append(f"{path}: not named like a shard of `convert`; has no manifest.")
    return sorted(found)


def _read_records(path: str, problems: List[str]) -> Iterator[Tuple[str, tf.Tensor]]:
    """Yields file and number, and bytes, of the records of a shard, up to the first broken one."""
    records = iter(tf.data.TFRecordDataset(path))
    number = 0
    while True:
        where = f"{path}: record {number}"
        try:
            serialized = next(records)
        except StopIteration:
            return
        except tf.errors.OpError as error:
            problems.append(f"{where}: cannot be read, nor what follows it ({error.message}).")
            return
        yield where, serialized
        number += 1


def _check_count(path: str, num_records: int, counts: Dict[str, int], problems: List[str]) -> None:
    expected = counts.get(path, num_records)
    if num_records != expected:
        problems.append(f"{path}: {num_records} records can be read, the manifest says {expected}.")


def _examine_record(
    where: str, serialized: tf.Tensor, examination: Examination, seen: Dict[Any, str], limit: int
) -> None:
    try:
        example = record_checks.read_example(serialized, limit)
        where = f"{where}: image_id {example['image_id']!r}"
        record_checks.check_example(example, examination.dataset_info)
    except ValueError as error:
        examination.problems.append(files.shorten(f"{where}: {error}"))
        return
    first = seen.setdefault(example["image_id"], where)
    if first != where:
        examination.problems.append(f"{where}: the same image as {first}.")
    segment_table = record_checks.segment_table(example, examination.dataset_info)
    rles = example["instance_rles"].tolist() if example["has_instances"] else None
    examination.add(
        where,
        example["id_map"],
        segment_table,
        example["segment_categories"],
        image_bytes=bytes(example["image_bytes"]),
        rles=rles,
        instance_categories=example["instance_categories"],
    )
    examination.add_image(where, bytes(example["image_bytes"]))
    for category, is_crowd in zip(example["segment_categories"], example["segment_is_crowd"]):
        if is_crowd and category in examination.dataset_info.stuff_ids:
            examination.notes.add(coco_reader.CROWD_OF_STUFF, where)
    for counts in rles or ():
        if not rle.area(counts, *example["id_map"].shape):
            examination.notes.add(coco_instances.NO_PIXEL, where)

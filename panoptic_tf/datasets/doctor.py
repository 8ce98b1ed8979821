"""Examines a data set before anybody trains on it: collects all problems and counts what is there.

The proof that the annotations are sound is that they score PQ 100 against themselves. The metric is
handed in, since this package does not know the metrics: an object with `update(gt_category_mask,
gt_instance_mask, gt_crowd_mask, category_mask, instance_mask)` and `result()`.
"""

from __future__ import annotations

import glob
import os
import re
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
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
    segments,
)
from panoptic_tf.datasets.annotations import PanopticAnnotation, Segment
from panoptic_tf.datasets.dataset_info import FILE_NAME as DATASET_INFO_FILE
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.datasets.notes import Notes
from panoptic_tf.datasets.statistics import DatasetStatistics

BuildQuality = Callable[..., Any]
"""Called with `num_categories` and `thing_ids`, returns the metric."""

_SHARD = re.compile(r"(\w+)-\d{5}-of-\d{5}\.tfrecord")
_PERFECT = 100 - 1e-6


class Examination:
    """Problems and counts of one data set.

    Args:
      dataset_info: its categories.
      build_quality: makes the metric of the proof.

    Attributes:
      problems: texts that name file and field.
      notes: what is legal and worth a look.
      statistics: what the sound images hold.
      dataset_info: the categories.
    """

    def __init__(self, dataset_info: DatasetInfo, build_quality: BuildQuality):
        self.problems: List[str] = []
        self.notes = Notes()
        self.statistics = DatasetStatistics(dataset_info)
        self.dataset_info = dataset_info
        self._quality = build_quality(
            num_categories=dataset_info.num_categories, thing_ids=dataset_info.thing_ids
        )

    def add(
        self,
        where: str,
        rows: np.ndarray,
        segment_table: Sequence[Segment],
        categories: Sequence[int],
    ) -> None:
        """Examines the segments of one image, and counts them.

        Args:
          where: file and image, for the texts of problems.
          rows: int32 [H, W], row of the segment + 1, 0 is void.
          segment_table: S segments.
          categories: their contiguous categories.
        """
        areas, boxes = segments.areas_and_boxes(rows, len(segment_table))
        self.problems += checks.segment_problems(where, segment_table, areas, boxes)
        is_crowd = [s.is_crowd for s in segment_table]
        self.statistics.add(areas, categories, is_crowd, num_pixels=rows.size)
        category_mask, instance_mask, crowd_mask = segments.rows_to_masks(
            rows, categories=categories, is_crowd=is_crowd, thing_ids=self.dataset_info.thing_ids
        )
        self._quality.update(category_mask, instance_mask, crowd_mask, category_mask, instance_mask)

    def add_image(self, where: str, image_bytes: bytes) -> None:
        """Notes what a sound image says of itself."""
        if images.orientation(image_bytes) != 1:
            self.notes.add(images.TURNED, where)

    def finish(self) -> Dict[str, Any]:
        """The report: `problems`, `notes`, `ground_truth_PQ` and the counts of the statistics."""
        result = self._quality.result()
        for row in result["per_category"]:
            if row["PQ"] is not None and row["PQ"] < _PERFECT:
                self.problems.append(
                    f"category {self.dataset_info.names[row['id']]!r}: the ground truth scores PQ "
                    f"{row['PQ']:.2f} against itself, not 100."
                )
        return {
            "problems": self.problems,
            "notes": self.statistics.notes() + self.notes.texts(),
            "ground_truth_PQ": result["PQ"],
            **self.statistics.to_json(),
        }


def examine_coco_panoptic(
    *,
    panoptic_json: str,
    panoptic_dir: str,
    image_dir: Optional[str] = None,
    instances_json: Optional[str] = None,
    max_pixels: int = images.MAX_PIXELS,
    build_quality: BuildQuality,
) -> Dict[str, Any]:
    """Examines a data set in COCO panoptic format.

    Args:
      panoptic_json: file with `images`, `annotations` and `categories`.
      panoptic_dir: folder of the PNGs.
      image_dir: folder of the images; without it they are not looked at.
      instances_json: file in COCO instances format of the same images.
      max_pixels: limit of height times width of an image; larger ones are not decoded.
      build_quality: makes the metric of the proof.

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
    examination = Examination(info, build_quality)
    examination.problems, examination.notes = problems, notes
    if not annotations and not problems:
        problems.append(f"{panoptic_json}: there is no annotated image: 'annotations' is empty.")
    if instances_json is not None:
        annotations = _add_instances(annotations, instances_json, examination)
    contiguous_ids = info.contiguous_ids()
    for annotation in tqdm.tqdm(annotations, unit="image", desc="doctor"):
        mixed = checks.crowd_problems(annotation, info)
        problems += mixed
        loaded = checks.load_annotation(annotation, problems.append)
        if loaded is not None and not mixed:
            categories = [contiguous_ids[s.category_id] for s in annotation.segments]
            where = f"{annotation.png_file}: image_id {annotation.image_id!r}"
            examination.add(where, loaded.rows, annotation.segments, categories)
            if loaded.image_bytes is not None:
                examination.add_image(str(annotation.image_file), loaded.image_bytes)
            if annotation.instances is not None:
                examination.statistics.add_instances(len(annotation.instances))
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
    *, input_path: str, max_pixels: int = images.MAX_PIXELS, build_quality: BuildQuality
) -> Dict[str, Any]:
    """Examines shards, their manifest and every record.

    Args:
      input_path: glob of shards; several are separated by commas. `dataset_info.json` and the
        manifest lie beside them.
      max_pixels: limit of height times width of an image; larger ones are not decoded.
      build_quality: makes the metric of the proof.

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
    examination = Examination(info, build_quality)
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
    examination.add(where, example["id_map"], segment_table, example["segment_categories"])
    examination.add_image(where, bytes(example["image_bytes"]))
    for category, is_crowd in zip(example["segment_categories"], example["segment_is_crowd"]):
        if is_crowd and category in examination.dataset_info.stuff_ids:
            examination.notes.add(coco_reader.CROWD_OF_STUFF, where)
    if example["has_instances"]:
        rles = example["instance_rles"].tolist()
        examination.statistics.add_instances(len(rles))
        for counts in rles:
            if not rle.area(counts, *example["id_map"].shape):
                examination.notes.add(coco_instances.NO_PIXEL, where)

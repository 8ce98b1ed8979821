"""Examines a data set before anybody trains on it: collects all problems and counts what is there.

The proof that the annotations are sound is that they score PQ 100 against themselves. The metric is
handed in, since this package does not know the metrics: an object with `update(gt_category_mask,
gt_instance_mask, gt_crowd_mask, category_mask, instance_mask)` and `result()`.
"""

from __future__ import annotations

import glob
import json
import os
import re
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import tensorflow as tf
import tqdm

from panoptic_tf.datasets import checks, coco_format, manifest, record, rle, segments
from panoptic_tf.datasets.converter import DATASET_INFO_FILE
from panoptic_tf.datasets.dataset_info import DatasetInfo
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
      statistics: what the sound images hold.
    """

    def __init__(self, dataset_info: DatasetInfo, build_quality: BuildQuality):
        self.problems: List[str] = []
        self.statistics = DatasetStatistics(dataset_info)
        self._info = dataset_info
        self._quality = build_quality(
            num_categories=dataset_info.num_categories, thing_ids=dataset_info.thing_ids
        )

    def add(
        self,
        where: str,
        rows: np.ndarray,
        segment_table: Sequence[coco_format.Segment],
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
            rows, categories=categories, is_crowd=is_crowd, thing_ids=self._info.thing_ids
        )
        self._quality.update(category_mask, instance_mask, crowd_mask, category_mask, instance_mask)

    def finish(self) -> Dict[str, Any]:
        """The report: `problems`, `notes`, `ground_truth_PQ` and the counts of the statistics."""
        result = self._quality.result()
        for row in result["per_category"]:
            if row["PQ"] is not None and row["PQ"] < _PERFECT:
                self.problems.append(
                    f"category {self._info.names[row['id']]!r}: the ground truth scores PQ "
                    f"{row['PQ']:.2f} against itself, not 100."
                )
        return {
            "problems": self.problems,
            "notes": self.statistics.notes(),
            "ground_truth_PQ": result["PQ"],
            **self.statistics.to_json(),
        }


def examine_coco_panoptic(
    *,
    panoptic_json: str,
    panoptic_dir: str,
    image_dir: Optional[str] = None,
    build_quality: BuildQuality,
) -> Dict[str, Any]:
    """Examines a data set in COCO panoptic format.

    Args:
      panoptic_json: file with `images`, `annotations` and `categories`.
      panoptic_dir: folder of the PNGs.
      image_dir: folder of the images; without it they are not looked at.
      build_quality: makes the metric of the proof.

    Returns:
      See `Examination.finish`.

    Raises:
      ValueError: no categories or annotations can be read at all.
    """
    problems: List[str] = []
    info, annotations = coco_format.read_panoptic_json(
        panoptic_json, panoptic_dir=panoptic_dir, image_dir=image_dir, on_problem=problems.append
    )
    examination = Examination(info, build_quality)
    examination.problems += problems
    contiguous_ids = info.contiguous_ids()
    for annotation in tqdm.tqdm(annotations, unit="image", desc="doctor"):
        loaded = checks.load_annotation(annotation, examination.problems.append)
        if loaded is not None:
            categories = [contiguous_ids[s.category_id] for s in annotation.segments]
            where = f"{annotation.png_file}: image_id {annotation.image_id!r}"
            examination.add(where, loaded.rows, annotation.segments, categories)
    return examination.finish()


def examine_records(*, input_path: str, build_quality: BuildQuality) -> Dict[str, Any]:
    """Examines shards, their manifest and every record.

    Args:
      input_path: glob of shards; several are separated by commas. `dataset_info.json` and the
        manifest lie beside them.
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
    counts = _check_manifests(paths, examination.problems)
    seen: Dict[str, str] = {}
    total = sum(counts.values()) if counts else None
    with tqdm.tqdm(total=total, unit="image", desc="doctor") as bar:
        for path in paths:
            num_records = 0
            for where, serialized in _read_records(path, examination.problems):
                num_records += 1
                _examine_record(where, serialized, info, examination, seen)
                bar.update()
            _check_count(path, num_records, counts, examination.problems)
    return examination.finish()


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
    where: str,
    serialized: tf.Tensor,
    info: DatasetInfo,
    examination: Examination,
    seen: Dict[str, str],
) -> None:
    try:
        example = {k: v.numpy() for k, v in record.decode_example(serialized).items()}
        image_id = json.loads(example["image_id"])
        where = f"{where}: image_id {image_id!r}"
        _check_record(example, info)
    except tf.errors.OpError as error:
        examination.problems.append(f"{where}: cannot be decoded ({error.message}).")
        return
    except ValueError as error:
        examination.problems.append(f"{where}: {error}")
        return
    first = seen.setdefault(example["image_id"], where)
    if first != where:
        examination.problems.append(f"{where}: the same image as {first}.")
    examination.add(
        where, example["id_map"], _segment_table(example, info), example["segment_categories"]
    )
    if example["has_instances"]:
        examination.statistics.add_instances(len(example["instance_rles"]))


def _check_record(example: Dict[str, np.ndarray], info: DatasetInfo) -> None:
    """Raises ValueError where the parts of a record do not fit."""
    rows, size = example["id_map"], (int(example["height"]), int(example["width"]))
    num_segments = len(example["segment_ids"])
    for key in ("segment_categories", "segment_is_crowd", "segment_areas", "segment_boxes"):
        if len(example[key]) != num_segments:
            raise ValueError(f"{key} has {len(example[key])} entries, segment_ids {num_segments}.")
    image_size = checks.image_size(bytes(example["image_bytes"]), source="image_bytes")
    if not size == rows.shape == image_size:
        raise ValueError(
            f"height x width is {size}, of the id map {rows.shape}, of the image {image_size}."
        )
    if len(set(example["segment_ids"].tolist())) != num_segments:
        raise ValueError("segment_ids has an id twice.")
    present = np.bincount(rows.reshape(-1), minlength=num_segments + 1) > 0
    if len(present) != num_segments + 1 or not present[1:].all():
        raise ValueError(f"the id map must hold each of its {num_segments} segments and no other.")
    _check_categories("segment_categories", example["segment_categories"], info)
    _check_instances(example, info)


def _check_instances(example: Dict[str, np.ndarray], info: DatasetInfo) -> None:
    rles, categories = example["instance_rles"], example["instance_categories"]
    for key in ("instance_categories", "instance_is_crowd"):
        if len(example[key]) != len(rles):
            raise ValueError(f"{key} has {len(example[key])} entries, instance_rles {len(rles)}.")
    _check_categories("instance_categories", categories, info)
    stuff = categories[~np.isin(categories, info.thing_ids)]
    if len(stuff):
        raise ValueError(f"instance_categories must be things, got {info.names[stuff[0]]!r}.")
    for counts in rles:
        rle.check_rle(counts, int(example["height"]), int(example["width"]))


def _check_categories(field: str, categories: np.ndarray, info: DatasetInfo) -> None:
    wrong = categories[(categories < 1) | (categories > info.num_categories)]
    if len(wrong):
        raise ValueError(f"{field} must be 1..{info.num_categories}, got {wrong[0]}.")


def _segment_table(example: Dict[str, np.ndarray], info: DatasetInfo) -> List[coco_format.Segment]:
    columns = ("segment_ids", "segment_categories", "segment_is_crowd", "segment_areas")
    return [
        coco_format.Segment(id_, info.dataset_ids[category], is_crowd, area, tuple(box))
        for id_, category, is_crowd, area, box in zip(
            *(example[key].tolist() for key in columns + ("segment_boxes",))
        )
    ]

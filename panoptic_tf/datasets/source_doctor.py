"""Examines annotations of any format as `convert` would read them, before they are converted."""

from __future__ import annotations

from typing import Any, Dict

import tqdm

from panoptic_tf.datasets import files
from panoptic_tf.datasets.doctor import BuildQuality, Examination
from panoptic_tf.datasets.importers.source import Source


def examine_source(source: Source, *, build_quality: BuildQuality) -> Dict[str, Any]:
    """Reads every image with its annotations.

    Args:
      source: what an importer returned.
      build_quality: makes the metric of the proof; see `doctor`.

    Returns:
      See `doctor.Examination.finish`.
    """
    examination = Examination(source.dataset_info, build_quality)
    contiguous_ids = source.dataset_info.contiguous_ids()
    for image in tqdm.tqdm(source.images, unit="image", desc="doctor"):
        problems = [_missing(image, path) for path in image.files if _problem(path)]
        examination.problems += problems
        if problems:
            continue
        try:
            loaded = source.read(image)
        except ValueError as error:
            examination.problems.append(files.shorten(str(error)))
            continue
        categories = [contiguous_ids[segment.category_id] for segment in loaded.segments]
        examination.add(str(image.image_file), loaded.rows, loaded.segments, categories)
        for kind in loaded.notes:
            examination.notes.add(kind, image.image_file)
        if loaded.instances is not None:
            examination.statistics.add_instances(len(loaded.instances))
    return examination.finish()


def _problem(path: Any) -> Any:
    return "no image file" if path is None else files.file_problem(path)


def _missing(image: Any, path: Any) -> str:
    return f"{path}: {_problem(path)}, for image_id {image.image_id!r}."

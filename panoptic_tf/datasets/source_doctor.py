"""Examines annotations of any format as `convert` would read them, before they are converted."""

from __future__ import annotations

from typing import Any, Dict, Optional

import tqdm

from panoptic_tf.datasets import files
from panoptic_tf.datasets.examination import BuildQuality, Examination, Look
from panoptic_tf.datasets.importers.source import Source


def examine_source(
    source: Source, *, build_quality: BuildQuality, look: Optional[Look] = None
) -> Dict[str, Any]:
    """Reads every image with its annotations.

    Args:
      source: what an importer returned.
      build_quality: makes the metric of the proof; see `examination`.
      look: see `examination.Examination`.

    Returns:
      See `examination.Examination.finish`.
    """
    examination = Examination(source.dataset_info, build_quality, look)
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
        path = str(image.image_file)
        examination.add_loaded(path, loaded, categories, path)
    return examination.finish()


def _problem(path: Any) -> Any:
    return "no image file" if path is None else files.file_problem(path)


def _missing(image: Any, path: Any) -> str:
    return f"{path}: {_problem(path)}, for image_id {image.image_id!r}."

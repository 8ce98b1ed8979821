"""Predicting many files: overlays, PNGs of segment ids and one COCO JSON file."""

from __future__ import annotations

import glob
import os
from typing import Dict, List, Sequence

from PIL import Image
from tqdm import tqdm

from panoptic_tf.datasets import files
from panoptic_tf.datasets.coco_format import CocoPanopticWriter
from panoptic_tf.serving.predictor import Predictor


def find_images(patterns: Sequence[str]) -> List[str]:
    """The files that patterns match, each once, sorted; a name without a match stays.

    Raises:
      ValueError: a pattern matches nothing.
    """
    found: Dict[str, None] = {}
    for pattern in patterns:
        if os.path.isfile(pattern) or not glob.has_magic(pattern):
            found[pattern] = None
            continue
        matches = sorted(p for p in glob.glob(pattern, recursive=True) if os.path.isfile(p))
        if not matches:
            raise ValueError(f"no file matches --input={pattern!r}.")
        found.update(dict.fromkeys(matches))
    return list(found)


def predict_files(
    predictor: Predictor, paths: Sequence[str], output_dir: str, *, overlay_format: str = "jpg"
) -> List[str]:
    """Predicts files and writes overlays, PNGs of ids and one COCO JSON file.

    Returns:
      One message for each image that could not be read.
    """
    failures = []
    with CocoPanopticWriter(output_dir, predictor.dataset_info) as writer:
        for path, name in zip(tqdm(paths, unit="image"), unique_names(paths)):
            try:
                result = predictor(path)
            except ValueError as error:
                failures.append(str(error))
                continue
            writer.add(
                name,
                name,
                result.category_mask,
                result.instance_mask,
                scores=result.scores,
                image_file=os.path.basename(path),
            )
            overlay = os.path.join(output_dir, "overlays", f"{name}.{overlay_format}")
            with files.atomic_path(overlay) as temporary:
                Image.fromarray(result.plot()).save(
                    temporary, format="PNG" if overlay_format == "png" else "JPEG", quality=92
                )
    return failures


def unique_names(paths: Sequence[str]) -> List[str]:
    """File names without extension, numbered where they repeat: a/x.jpg, b/x.png -> x, x_2."""
    names: Dict[str, None] = {}
    for path in paths:
        stem = os.path.splitext(os.path.basename(path))[0]
        name, number = stem, 1
        while name in names:
            number += 1
            name = f"{stem}_{number}"
        names[name] = None
    return list(names)

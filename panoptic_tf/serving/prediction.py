"""Predicting many files: overlays, PNGs of segment ids and one COCO JSON file."""

from __future__ import annotations

import glob
import os
from typing import Dict, List, Sequence

from absl import logging
from PIL import Image
from tqdm import tqdm

from panoptic_tf.datasets import files
from panoptic_tf.datasets.coco_format import CocoPanopticWriter
from panoptic_tf.datasets.notes import Notes
from panoptic_tf.serving.predictor import Predictor

_EXTENSIONS = (".jpg", ".jpeg", ".png")
_MAX_NAME_BYTES = 255 - len(".png")


def find_images(inputs: Sequence[str]) -> List[str]:
    """The files that names, folders and patterns stand for, each once, those of each sorted.

    Args:
      inputs: files, which need not exist; folders, whose JPEG and PNG files are meant, not those of
        folders in them; patterns.

    Raises:
      ValueError: a pattern matches nothing, or a folder holds no such file.
    """
    found: Dict[str, None] = {}
    for one in inputs:
        if os.path.isdir(one):
            matches = [p for p in _files_of(one) if p.lower().endswith(_EXTENSIONS)]
            if not matches:
                raise ValueError(
                    f"--input: the folder {one!r} holds no file that ends in "
                    f"{', '.join(_EXTENSIONS)}."
                )
        elif os.path.lexists(one) or not glob.has_magic(one):
            matches = [one]
        else:
            matches = sorted(p for p in glob.glob(one, recursive=True) if not os.path.isdir(p))
            if not matches:
                raise ValueError(f"no file matches --input={one!r}.")
        found.update(dict.fromkeys(matches))
    return list(found)


def predict_files(
    predictor: Predictor, paths: Sequence[str], output_dir: str, *, overlay_format: str = "jpg"
) -> List[str]:
    """Predicts files and writes overlays, PNGs of ids and one COCO JSON file.

    One line of the log says how many images have an EXIF orientation, which is not applied.

    Returns:
      One message for each image that could not be read.
    """
    failures = []
    notes = Notes()
    with CocoPanopticWriter(output_dir, predictor.dataset_info) as writer:
        for path, name in zip(tqdm(paths, unit="image"), unique_names(paths)):
            try:
                _check_name(path, name)
                result = predictor.predict(path, notes=notes)
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
    for text in notes.texts():
        logging.warning(text)
    return failures


def _files_of(folder: str) -> List[str]:
    paths = (os.path.join(folder, name) for name in sorted(os.listdir(folder)))
    return [path for path in paths if not os.path.isdir(path)]


def _check_name(path: str, name: str) -> None:
    """Results are named after the image: their names are in JSON, and have a longer ending."""
    if not files.is_printable(path):
        raise ValueError(
            f"{path!r}: the name is not printable UTF-8 text, and the results are named after it. "
            "Rename the file."
        )
    if len(name.encode()) > _MAX_NAME_BYTES:
        raise ValueError(
            f"{path}: the name is longer than {_MAX_NAME_BYTES} bytes without its ending, and the "
            "results are named after it. Rename the file."
        )


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

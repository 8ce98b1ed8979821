"""Predicting many files: overlays, and the files of other formats."""

from __future__ import annotations

import glob
import os
from typing import Dict, List, Sequence

from tqdm import tqdm

from panoptic_tf.datasets import files
from panoptic_tf.datasets.coco_writer import ImageId
from panoptic_tf.serving import image_source, writers
from panoptic_tf.serving.predictor import Predictor
from panoptic_tf.serving.writers import overlays

_MAX_NAME_BYTES = 255 - len(".json")
_MAX_IMAGE_ID = 2**31 - 1
_ALL_BELOW = "**"


def find_images(inputs: Sequence[str]) -> List[str]:
    """The files that names, folders and patterns stand for, each once, those of each sorted.

    Args:
      inputs: files, which need not exist; folders, whose photographs are meant
        (`image_source.EXTENSIONS`), not those of folders in them; folders with `/**` behind, which
        are those too; other patterns, which mean every file that matches. In folders, names that
        begin with a dot are not seen.

    Raises:
      ValueError: a pattern matches nothing, or a folder holds no photograph.
    """
    found: Dict[str, None] = {}
    for one in inputs:
        is_pattern = glob.has_magic(one) and not os.path.lexists(one)
        if os.path.isdir(one):
            matches = _photographs(glob.glob(os.path.join(glob.escape(one), "*")))
        elif is_pattern and os.path.basename(one) == _ALL_BELOW:
            matches = _photographs(glob.glob(one, recursive=True))
        elif is_pattern:
            matches = sorted(p for p in glob.glob(one, recursive=True) if not os.path.isdir(p))
        else:
            matches = [one]
        if not matches:
            raise ValueError(
                f"no file matches --input={one!r}."
                if is_pattern
                else f"--input: the folder {one!r} holds no file that ends in "
                f"{', '.join(image_source.EXTENSIONS)}."
            )
        found.update(dict.fromkeys(matches))
    return list(found)


def predict_files(
    predictor: Predictor,
    paths: Sequence[str],
    output_dir: str,
    *,
    formats: Sequence[str] = writers.DEFAULT,
    overlay_format: str = overlays.JPEG,
) -> List[str]:
    """Predicts files and writes what was found.

    Args:
      predictor: the model.
      paths: of the images.
      output_dir: folder of the results.
      formats: of `writers.FORMATS`.
      overlay_format: of the overlays, one of `overlays.PICTURES`.

    Returns:
      One message for each image that could not be read.

    Raises:
      ValueError: a format that there is not, or that cannot hold the model's categories.
    """
    writers.check_formats(formats)
    chosen: List[writers.base.Writer] = []
    for name in dict.fromkeys(formats):
        options = {"picture": overlay_format} if name == overlays.FOLDER else {}
        chosen.append(writers.FORMATS[name](output_dir, predictor.dataset_info, **options))
    failures = []
    names = unique_names(paths)
    for path, name, image_id in zip(tqdm(paths, unit="image"), names, image_ids(names)):
        try:
            _check_name(path, name)
            result = predictor(path)
        except ValueError as error:
            failures.append(str(error))
            continue
        for writer in chosen:
            writer.add(image_id, name, path, result)
    for writer in chosen:
        writer.close()
    return failures


def image_ids(names: Sequence[str]) -> Sequence[ImageId]:
    """Ids of images by their names: the numbers that all of them are, as in COCO, or the names."""
    if all(name.isascii() and name.isdecimal() for name in names):
        numbers = [int(name) for name in names]
        if len(set(numbers)) == len(numbers) and max(numbers, default=0) <= _MAX_IMAGE_ID:
            return numbers
    return names


def _photographs(paths: Sequence[str]) -> List[str]:
    """Those of some paths that are photographs by their names, sorted."""
    return sorted(
        p for p in paths if p.lower().endswith(image_source.EXTENSIONS) and not os.path.isdir(p)
    )


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

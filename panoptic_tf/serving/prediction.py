"""Predicting many files: overlays, and the files of other formats."""

from __future__ import annotations

import glob
import os
from typing import TYPE_CHECKING, Callable, Dict, List, Optional, Sequence

from tqdm import tqdm

from panoptic_tf.datasets import files, images
from panoptic_tf.datasets.coco_writer import ImageId
from panoptic_tf.serving import writers
from panoptic_tf.serving.writers import overlays

if TYPE_CHECKING:
    from panoptic_tf.serving.predictor import Predictor

PredictImages = Callable[
    ["Predictor", Sequence[writers.base.ImageFile], Sequence[writers.base.Writer]], List[str]
]
"""See `predict_here`."""

_MAX_NAME_BYTES = 255 - len(".json")
_MAX_IMAGE_ID = 2**31 - 1
_ALL_BELOW = "**"


def find_images(inputs: Sequence[str]) -> List[str]:
    """The files that names, folders and patterns stand for, each once, those of each sorted.

    Args:
      inputs: files, which need not exist; folders, whose photographs are meant
        (`images.ENDINGS`), not those of folders in them; folders with `/**` behind, which
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
                f"{', '.join(images.ENDINGS)}."
            )
        found.update(dict.fromkeys(matches))
    return list(found)


def common_folder(inputs: Sequence[str]) -> str:
    """The folder that holds all that `find_images` may find: absolute, folders may be links."""
    folders = []
    for one in inputs:
        folder = one if os.path.isdir(one) else os.path.dirname(one)
        while glob.has_magic(folder) and not os.path.lexists(folder):
            folder = os.path.dirname(folder)
        folders.append(os.path.abspath(folder))
    return os.path.commonpath(folders or [os.getcwd()])


def predict_files(
    predictor: Predictor,
    paths: Sequence[str],
    output_dir: str,
    *,
    image_dir: Optional[str] = None,
    formats: Sequence[str] = writers.DEFAULT,
    overlay_format: str = overlays.JPEG,
    predict_images: Optional[PredictImages] = None,
) -> List[str]:
    """Predicts files and writes what was found.

    Args:
      predictor: the model.
      paths: of the images.
      output_dir: folder of the results.
      image_dir: a folder that holds all images; results are named after the paths below it. Default
        the folder that they have in common.
      formats: of `writers.FORMATS`.
      overlay_format: of the overlays, one of `overlays.PICTURES`.
      predict_images: does the work; default `predict_here`.

    Returns:
      One message for each image that could not be read, or whose result does not fit a format.

    Raises:
      ValueError: a format that there is not, or that cannot hold the model's categories, labels of
        LabelMe in `output_dir` already, or an image that is not in `image_dir`.
    """
    writers.check_formats(formats)
    named = _named(paths, image_dir or common_folder(paths))
    chosen: List[writers.base.Writer] = []
    for name in dict.fromkeys(formats):
        options = {"picture": overlay_format} if name == overlays.FOLDER else {}
        chosen.append(writers.FORMATS[name](output_dir, predictor.dataset_info, **options))
    failures = (predict_images or predict_here)(predictor, named, chosen)
    for writer in chosen:
        writer.close()
    return failures


def predict_here(
    predictor: Predictor,
    named: Sequence[writers.base.ImageFile],
    chosen: Sequence[writers.base.Writer],
    *,
    show_progress: bool = True,
) -> List[str]:
    """Predicts images one by one and gives the results to writers, which are not closed.

    Args:
      predictor: the model.
      named: the images.
      chosen: the writers.
      show_progress: whether to show a progress bar.

    Returns:
      See `predict_files`.
    """
    failures = []
    for image in tqdm(named, unit="image", disable=not show_progress):
        try:
            _check_name(image)
            result = predictor(image.path)
            for writer in chosen:
                writer.check(image, result)
        except ValueError as error:
            failures.append(str(error))
            continue
        for writer in chosen:
            writer.add(image, result)
    return failures


def _named(paths: Sequence[str], folder: str) -> List[writers.base.ImageFile]:
    relative = [os.path.relpath(os.path.abspath(path), folder) for path in paths]
    file_names = [name.replace(os.sep, "/") for name in relative]
    outside = [path for path, name in zip(paths, file_names) if name.startswith("../")]
    if outside:
        raise ValueError(f"{outside[0]!r} is not in the folder of all images, {folder}.")
    names = unique_names(file_names)
    return [
        writers.base.ImageFile(*values)
        for values in zip(paths, file_names, names, image_ids(names))
    ]


def image_ids(names: Sequence[str]) -> Sequence[ImageId]:
    """Ids of images by their names: the numbers that all of them are, as in COCO, or the names.

    Folders are left out of numbers.
    """
    stems = [name.split("/")[-1] for name in names]
    if all(stem.isascii() and stem.isdecimal() for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers) and max(numbers, default=0) <= _MAX_IMAGE_ID:
            return numbers
    return names


def _photographs(paths: Sequence[str]) -> List[str]:
    """Those of some paths that are photographs by their names, sorted."""
    return sorted(p for p in paths if p.lower().endswith(images.ENDINGS) and not os.path.isdir(p))


def _check_name(image: writers.base.ImageFile) -> None:
    """Results are named after the image: their names are in JSON, and have a longer ending."""
    if not files.is_printable(image.path):
        raise ValueError(
            f"{image.path!r}: the name is not printable UTF-8 text, and the results are named "
            "after it. Rename the file."
        )
    if len(image.name.split("/")[-1].encode()) > _MAX_NAME_BYTES:
        raise ValueError(
            f"{image.path}: the name is longer than {_MAX_NAME_BYTES} bytes without its ending, "
            "and the results are named after it. Rename the file."
        )


def unique_names(file_names: Sequence[str]) -> List[str]:
    """File names without ending, numbered where they repeat: x.jpg, x.png, a/x.png: x, x_2, a/x."""
    names: Dict[str, None] = {}
    for file_name in file_names:
        stem = os.path.splitext(file_name)[0]
        name, number = stem, 1
        while name in names:
            number += 1
            name = f"{stem}_{number}"
        names[name] = None
    return list(names)

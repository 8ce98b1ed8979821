"""Files of several folders that belong together by their names, endings apart."""

from __future__ import annotations

import os
from typing import Collection, Dict, Iterator, List, Sequence, Tuple

from panoptic_tf.datasets import files, images
from panoptic_tf.datasets.importers import label_png
from panoptic_tf.datasets.importers.source import SourceImage
from panoptic_tf.datasets.notes import Notes

_NO_MASK = "images have no mask and are left out"
_IMAGES, _MASKS = "a folder of images", "a folder of PNG masks"


def pair(mask_dirs: Sequence[str], image_dir: str) -> List[SourceImage]:
    """The images that have masks, by the name without its ending; sub-folders are part of a name.

    Args:
      mask_dirs: folders of PNGs; each must have the same names.
      image_dir: folder of the images. Those without a mask are logged and left out.

    Returns:
      Images in the order of their names; their size is that of the first mask, and `label_files` is
      one mask of each folder.

    Raises:
      ValueError: a folder cannot be listed or holds no PNG, a mask has no image or lacks its like
        in the other folders, two files have the same name, or a mask is no PNG.
    """
    masks = [find(folder, (".png",), expected=_MASKS) for folder in mask_dirs]
    known = {os.path.abspath(path) for found in masks for path in found.values()}
    photographs = find(image_dir, images.ENDINGS, expected=_IMAGES, without=known)
    for found in masks:
        for stem, path in found.items():
            if stem not in photographs:
                raise ValueError(f"{path}: has no image {stem!r} in {image_dir}.")
            for folder, others in zip(mask_dirs, masks):
                if stem not in others:
                    raise ValueError(f"{path}: has no mask {stem + '.png'!r} in {folder}.")
    notes = Notes()
    for stem in photographs:
        if stem not in masks[0]:
            notes.add(_NO_MASK, photographs[stem])
    notes.log(image_dir)
    paired = []
    for stem in masks[0]:
        label_files = tuple(found[stem] for found in masks)
        size, *_ = [label_png.read_size(path, expected="a PNG mask") for path in label_files]
        file_name = os.path.relpath(photographs[stem], image_dir)
        paired.append(SourceImage(stem, photographs[stem], file_name, None, label_files, size))
    return paired


def find(
    folder: str, endings: Tuple[str, ...], *, expected: str, without: Collection[str] = ()
) -> Dict[str, str]:
    """The files of a folder and its sub-folders, by their names in it without ending.

    Args:
      folder: the folder; links in it are followed. Names that begin with a dot are not seen.
      endings: of the names, in lower case; files may have them in upper case.
      expected: what the folder should be, for the error message.
      without: absolute paths that are left out.

    Returns:
      Paths in the order of the names.

    Raises:
      ValueError: no such folder, no such file in it, two of one name, or no name that a record
        holds.
    """
    found: Dict[str, str] = {}
    for path in _walk(folder, expected):
        stem, ending = os.path.splitext(os.path.relpath(path, folder))
        if ending.lower() not in endings or os.path.abspath(path) in without:
            continue
        if stem in found:
            raise ValueError(f"{path}: has the name of {found[stem]}, its ending apart.")
        if not files.is_printable(stem):
            raise ValueError(f"{folder}: has a file whose name cannot be printed, {stem!a}.")
        found[stem] = path
    if not found:
        raise ValueError(f"{folder}: holds no file {' or '.join(endings)}; expected {expected}.")
    return dict(sorted(found.items()))


def _walk(folder: str, expected: str) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        raise ValueError(f"{error.filename}: {error.strerror}; expected {expected}.") from error

    seen = {os.path.realpath(folder)}
    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        kept = {}
        for name in sorted(folders):
            target = os.path.realpath(os.path.join(parent, name))
            if not name.startswith(".") and target not in seen:
                kept[name] = target
        seen.update(kept.values())
        folders[:] = kept
        yield from (os.path.join(parent, name) for name in names if not name.startswith("."))

